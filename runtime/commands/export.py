"""``copgen-edge export``: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from ..bundle import PRECISIONS
from .common import CommaList, emit, json_option, need, progress_bar, quiet_option, say
from .tables import check_table


@click.command("export")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with the weights in the authors' layout.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The bundle to make.")
@click.option(
    "--components",
    type=CommaList(),
    default=("*",),
    help="Names or patterns, such as dit_step,decoder_*; all by default.",
)
@click.option(
    "--precision",
    type=CommaList(),
    default=("fp32",),
    help=f"Some of {', '.join(PRECISIONS)}, separated by commas; fp32 by default.",
)
@click.option(
    "--num-heads", type=click.IntRange(min=1), help="Attention heads, where neither table nor config.json tells."
)
@click.option(
    "--half-plan",
    type=click.Path(path_type=Path),
    metavar="BUNDLE_OR_FILE",
    help="What stays in float32 in fp16, as 'calibrate halves' found.",
)
@quiet_option
@json_option
def command(
    checkpoint: Path,
    out: Path,
    components: tuple[str, ...],
    precision: tuple[str, ...],
    num_heads: int | None,
    half_plan: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export a checkpoint to one ONNX file a component, each verified against the PyTorch reference.

    \b
    copgen-edge export --checkpoint weights --out bundle --precision fp32,fp16
    """
    exporter = need("export.exporter")
    tell = say(quiet)
    with progress_bar(quiet) as progress:
        manifest, checks = exporter.export_bundle(
            checkpoint,
            out,
            precisions=precision,
            components=components,
            num_heads=num_heads,
            half_plan=half_plan,
            progress=progress,
        )
    missing = exporter.left_out(manifest)
    if not quiet:
        check_table(checks)
    if missing:
        tell(f"left out for want of weights or by --components: {', '.join(missing)}")
    tell(f"wrote {len(manifest.components)} components in {', '.join(precision)} to {out}")
    if as_json:
        emit({"bundle": str(out), "left_out": missing, "checks": [check.to_dict() for check in checks]})
