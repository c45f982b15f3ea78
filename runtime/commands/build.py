"""``copgen-edge build``: TensorRT engines from a bundle's ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from ..bundle import PRECISIONS, Bundle
from ..engines.build import Built, build_engines
from ..engines.flavours import FLAVOURS, find_flavour
from ..engines.options import DEFAULT_BATCH, HARDWARE_LEVELS, BuildOptions
from ..precision import form_for
from .common import CommaList, bundle_argument, emit, json_option, progress_bar, quiet_option, say
from .tables import print_table


class _Batch(click.ParamType):
    """``MIN,OPT,MAX``."""

    name = "MIN,OPT,MAX"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        try:
            least, usual, most = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"found {value!r}, expected MIN,OPT,MAX such as 1,4,8", param, ctx)
        return least, usual, most


@click.command("build")
@bundle_argument
@click.option("--flavour", type=click.Choice(FLAVOURS), help="Which TensorRT; the first that is installed by default.")
@click.option("--precision", type=click.Choice([*PRECISIONS, "int8", "fp8"]), default="fp16", show_default=True)
@click.option(
    "--components",
    type=CommaList(),
    default=("*",),
    help="Names or patterns, such as dit_step,decoder_*; all by default.",
)
@click.option(
    "--batch",
    type=_Batch(),
    default=DEFAULT_BATCH,
    help="Least, usual and most rows of a call; 1,4,8 by default.",
)
@click.option(
    "--workspace", type=click.IntRange(1, 1 << 30), help="MiB that a layer may use while it runs; all by default."
)
@click.option("--version-compatible", is_flag=True, help="Run on later versions of tensorrt too (not RTX).")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(HARDWARE_LEVELS),
    default="none",
    show_default=True,
    help="Run on other GPUs than this one (not RTX).",
)
@click.option(
    "--compute-capability",
    type=CommaList(),
    default=(),
    help="Such as 8.9,12.0 (RTX only); all that the builder knows by default.",
)
@click.option("--weight-streaming", is_flag=True, help="Let weights stay in the host's memory while it runs.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="0 builds fast, 5 runs fast; TensorRT's default.")
@quiet_option
@json_option
def command(
    bundle: str,
    flavour: str | None,
    precision: str,
    components: tuple[str, ...],
    batch: tuple[int, int, int],
    workspace: int | None,
    version_compatible: bool,
    hardware_compatibility: str,
    compute_capability: tuple[str, ...],
    weight_streaming: bool,
    optimization_level: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build TensorRT engines into BUNDLE/engines, those that are not there or were built otherwise.

    Engines are a cache: each has a record beside it of all that decides whether it may be used, and can be removed.
    """
    tell = say(quiet)
    opened = Bundle.open(bundle)
    options = BuildOptions(
        batch=batch,
        workspace=None if workspace is None else workspace << 20,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        compute_capabilities=tuple(sorted(set(compute_capability))),
        weight_streaming=weight_streaming,
        optimization_level=optimization_level,
    )
    found = find_flavour(flavour)
    tell(f"{found.name} {found.version}" + ("" if flavour else " (what is installed; --flavour chooses)"))
    with progress_bar(quiet) as progress:
        stored = form_for("tensorrt", precision)
        built = build_engines(opened, found, options, precision=stored, components=components, progress=progress)
    if not quiet:
        _summary(built)
    for one in built:
        if warning := fusion_warning(one):
            tell(f"warning: {warning}")
    if as_json:
        emit([asdict(one.record) | {"path": str(one.path), "built_because": one.reason} for one in built])


def fusion_warning(built: Built) -> str | None:
    """What to say where fewer attentions were fused than the network has blocks."""
    record = built.record
    if record.blocks is None or record.attention is None or record.attention >= record.blocks:
        return None
    cause = (
        "only fp16 fuses: build --precision fp16"
        if record.precision == "fp32"
        else "the ONNX file may keep queries, keys or values in fp32, or scale the product in place of the query: "
        "export the bundle again with this version"
    )
    return f"{record.attention} of {record.blocks} attentions of {record.component} are fused, which is slow; {cause}"


def _summary(built: Sequence[Built]) -> None:
    new = [one for one in built if one.reason is not None]
    print_table(
        f"Engines in {built[0].path.parent}",
        ("component", "", "seconds", "MB", "peak GB", "fused attention"),
        [
            (
                one.record.component,
                "found" if one.reason is None else "built",
                f"{one.record.seconds:.1f}",
                f"{one.record.bytes / 1e6:.1f}",
                "" if one.record.peak_bytes is None else f"{one.record.peak_bytes / 1e9:.2f}",
                "" if one.record.blocks is None else f"{one.record.attention} of {one.record.blocks}",
            )
            for one in built
        ]
        + [
            (
                "total",
                f"{len(new)} built",
                f"{sum(one.record.seconds for one in new):.1f}",
                f"{sum(one.record.bytes for one in built) / 1e6:.1f}",
                f"{max(one.record.peak_bytes or 0 for one in built) / 1e9:.2f}",
                "",
            )
        ],
        text_columns=2,
    )
