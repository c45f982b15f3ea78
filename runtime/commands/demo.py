"""``copgen-edge demo``: the whole path with the small model that ships with it, on a made-up scene, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import click
import rasterio

from ..bundle import MANIFEST, Bundle, sha256
from ..components import COMPONENTS, STEP
from ..errors import BundleError, RequestError
from ..generation import QUICKLOOK, Request, generate_folder
from ..modalities import FAMILIES, get, resolve
from ..pipeline import Pipeline
from .common import need, progress_bar, quiet_option, say

SAMPLES = 4
STEPS = 30
WORKERS = 2
"""Processes that export: the small model has room for them on any machine."""

_FEW = ("DEM", "LULC", "place", "date")
_MORE = (*_FEW, "S1RTC", "S2L1C", "cloud_mask")
_RUNS = {
    "few-conditions": (_FEW, tuple(family for family in FAMILIES if family not in _FEW)),
    "more-conditions": (_MORE, ("S2L2A",)),
}
"""Folder of a run -> what is given, what is generated."""

_SPREAD_KEY, _SPREAD_BAND = "S2L2A_B02_B03_B04_B08", "B04"


@click.command("demo")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@quiet_option
def command(out: Path, quiet: bool) -> None:
    """Export the small model that ships with copgen-edge, and generate from a made-up scene in the mountains.

    Twice: everything else from elevation, land cover, place and date, and then Sentinel-2 L2A with radar, Sentinel-2
    L1C and clouds given too, which narrows the spread. The model learned a made-up world: nothing here is science. A
    bundle that an earlier call exported is used again.
    """
    tell = say(quiet)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make {out}: {error.strerror}; choose another folder") from None
    bundle = _bundle(out, need("copgen_ref.small_model").small_checkpoint(), quiet, tell)
    scene = need("copgen_ref.world_scene").write_world_scene(out / "scene")
    tell(f"2/4 a scene of the made-up world (all modalities; UTM) -> {out / 'scene'}")
    values = {
        "DEM": scene.dem,
        "LULC": scene.lulc,
        "place": "auto",
        "date": scene.date.isoformat(),
        "S1RTC": scene.s1rtc,
        "S2L1C": scene.s2l1c,
        "cloud_mask": scene.cloud_mask,
    }
    pipeline = Pipeline.load(bundle)
    number = next(n for n in count(1) if not (out / f"run-{n}").exists())
    spreads = []
    for step, (name, (given, wanted)) in enumerate(_RUNS.items(), start=3):
        folder = out / f"run-{number}" / name
        tell(f"{step}/4 {', '.join(given)} to {', '.join(wanted)}: {SAMPLES} samples, {STEPS} steps -> {folder}")
        conditions = [(condition, str(values[condition])) for condition in given]
        request = Request(conditions, wanted, folder, samples=SAMPLES, steps=STEPS, seed=number - 1)
        with progress_bar(quiet) as progress:
            generate_folder(pipeline, request, progress=progress)
        click.echo(f"picture: {folder / QUICKLOOK}")
        spreads.append(_spread(folder))
    few, more = spreads
    click.echo(
        f"{_SPREAD_BAND} of Sentinel-2 L2A spreads by {few:.0f} DN (standard deviation of {SAMPLES} samples, mean over "
        f"the window) given {', '.join(_FEW)}, and by {more:.0f} DN given {', '.join(_MORE[len(_FEW) :])} as well"
    )


def _bundle(out: Path, checkpoint: Path, quiet: bool, tell: Callable[[str], None]) -> Path:
    """A bundle of ``checkpoint`` below ``out``: one that is there already, or a new one beside those that are not."""
    names = _needed()
    for number in count(1):
        bundle = out / ("bundle" if number == 1 else f"bundle-{number}")
        if not bundle.exists():
            break
        obstacle = _obstacle(bundle, checkpoint, names)
        if obstacle is None:
            tell(f"1/4 {bundle} is of these weights already and is used again")
            return bundle
        tell(f"{bundle} is left as it is: {obstacle}")
    tell(
        f"1/4 {len(names)} of {len(COMPONENTS)} components as ONNX files, those that the demo needs, each verified "
        f"against PyTorch -> {bundle}"
    )
    tell(f"    (all of them: copgen-edge export --checkpoint {checkpoint} --out BUNDLE)")
    with progress_bar(quiet) as progress:
        need("export.exporter").export_bundle(checkpoint, bundle, components=names, workers=WORKERS, progress=progress)
    return bundle


def _needed() -> tuple[str, ...]:
    """The components that the runs need."""

    def images(names: Sequence[str]) -> list[str]:
        return [key for key in resolve(names) if get(key).is_image]

    needed = {STEP}
    for given, wanted in _RUNS.values():
        needed |= {f"encoder_{key}" for key in images(given)} | {f"decoder_{key}" for key in images(wanted)}
    return tuple(name for name in COMPONENTS if name in needed)


def _obstacle(bundle: Path, checkpoint: Path, names: Sequence[str]) -> str | None:
    """Why ``bundle`` cannot serve; None where it is of ``checkpoint`` and has all of ``names``."""
    if not (bundle / MANIFEST).is_file():
        return "it is no bundle"
    try:
        manifest = Bundle.open(bundle).manifest
    except BundleError as error:
        return str(error)
    recorded: Any = manifest.source.get("files")
    shipped = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    if not recorded or any(
        record["path"] not in shipped or sha256(shipped[record["path"]]) != record["sha256"] for record in recorded
    ):
        return "it was exported from other weights"
    if any(name not in manifest.components for name in names):
        return "it lacks components that the demo needs"
    return None


def _spread(folder: Path) -> float:
    """Mean over the window of the standard deviation of red in the samples of a run, in DN."""
    with rasterio.open(folder / f"{_SPREAD_KEY}.std.tif") as dataset:
        return float(dataset.read(dataset.descriptions.index(_SPREAD_BAND) + 1).mean())
