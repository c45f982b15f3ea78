"""``copgen-edge info``: what a bundle holds."""

from __future__ import annotations

from typing import Any

import click

from ..bundle import ALL_PRECISIONS, Bundle, Component
from ..components import COMPONENTS
from ..weights import words_for
from .common import bundle_argument, emit, json_option
from .tables import print_table


@click.command("info")
@bundle_argument
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Say what a bundle holds: model, modalities, components, sizes, measured parity, source."""
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    megabytes = {p: sum(_bytes(c, p) for c in manifest.components.values()) / 1e6 for p in ALL_PRECISIONS}
    missing = [name for name in COMPONENTS if name not in manifest.components]
    if as_json:
        summary: dict[str, Any] = {
            "bundle": bundle,
            "manifest_sha256": opened.digest,
            "model": manifest.model,
            "solver": manifest.solver,
            "steps": manifest.steps,
            "precisions": opened.precisions(),
            "megabytes": {p: round(size, 1) for p, size in megabytes.items() if size},
            "components": list(manifest.components),
            "missing": missing,
            "modalities": manifest.modalities,
            "source": manifest.source,
            "tools": manifest.tools,
        }
        emit(summary)
        return
    model = manifest.model
    words = words_for(model["weights"])
    click.echo(f"COP-GEN {model.get('variant', 'without a network')}{words.title}")
    if words.note:
        click.echo(words.note)
    if "width" in model:
        click.echo(f"width {model['width']}, depth {model['depth']}, {model['heads']} heads")
    click.echo(f"solver {manifest.solver}, {manifest.steps} steps by default")
    click.echo("size " + ", ".join(f"{p} {size:.1f} MB" for p, size in megabytes.items() if size))
    click.echo(f"manifest SHA-256 {opened.digest}")
    if missing:
        click.echo(f"lacks {', '.join(missing)}")
    print_table(
        "Modalities",
        ("key", "family", "units", "pixels", "resolution", "scale factor"),
        (
            (
                m["key"],
                m["family"],
                m["units"],
                f"{m['size']} x {m['size']}" if m["size"] else "",
                f"{m['resolution']} m" if m["size"] else "",
                f"{m['scale_factor']:.6f}" if m["size"] else "",
            )
            for m in manifest.modalities
        ),
        text_columns=3,
    )
    print_table(
        "Components",
        ("name", "precision", "MB", "relative L2", "tolerance"),
        (
            (name, p, f"{_bytes(c, p) / 1e6:.1f}", f"{v.parity['relative_l2']:.1e}", f"{v.tolerance:.0e}")
            for name, c in manifest.components.items()
            for p, v in c.precisions.items()
        ),
        text_columns=2,
    )


def _bytes(component: Component, precision: str) -> int:
    if precision not in component.precisions:
        return 0
    return sum(record.bytes for record in component.precisions[precision].files)
