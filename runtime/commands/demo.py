"""``copgen-edge demo``: the whole path on a small model and a made-up scene, with nothing to download."""

from __future__ import annotations

from pathlib import Path

import click

from ..bundle import MANIFEST
from ..errors import RequestError
from ..generation import QUICKLOOK, Request, generate_folder
from ..pipeline import Pipeline
from .common import need, progress_bar, quiet_option, say

SAMPLES = 2
STEPS = 20


@click.command("demo")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@quiet_option
def command(out: Path, quiet: bool) -> None:
    """Make a small model with random weights, export it, and generate from a scene of the made-up world.

    Checkpoint, ONNX files, rasters and pictures are real; the weights are random, so the pictures mean nothing. A
    bundle that an earlier call exported is used again.
    """
    tell = say(quiet)
    tell("the demo's model is small and has random weights: it shows the path, and its pictures mean nothing")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make {out}: {error.strerror}; choose another folder") from None
    checkpoint, bundle = out / "checkpoint", out / "bundle"
    if not (bundle / MANIFEST).is_file():
        exporter = need("export.exporter")
        if not checkpoint.exists():
            tell(f"1/4 random weights in the authors' layout -> {checkpoint}")
            need("copgen_ref.random_weights").write_random_checkpoint(checkpoint)
        tell(f"2/4 21 components as ONNX files, each verified against PyTorch -> {bundle} (a few minutes)")
        with progress_bar(quiet) as progress:
            exporter.export_bundle(checkpoint, bundle, progress=progress)
    scene = need("copgen_ref.world_scene").write_world_scene(out / "scene")
    tell(f"3/4 a scene of the made-up world (all modalities; UTM) -> {out / 'scene'}")
    conditions = (
        ("DEM", str(scene.dem)),
        ("LULC", str(scene.lulc)),
        ("S1RTC", str(scene.s1rtc)),
        ("place", "auto"),
        ("date", scene.date.isoformat()),
    )
    number = 1 + sum(1 for _ in out.glob("run-*"))
    request = Request(
        conditions,
        ("S2L1C", "S2L2A", "cloud_mask"),
        out / f"run-{number}",
        samples=SAMPLES,
        steps=STEPS,
        seed=number - 1,
    )
    tell(f"4/4 Sentinel-2 and clouds from it: {SAMPLES} samples, {STEPS} steps -> {request.out}")
    with progress_bar(quiet) as progress:
        generate_folder(Pipeline.load(bundle), request, progress=progress)
    click.echo(f"pictures: {request.out / QUICKLOOK}")
    click.echo(f"rasters:  {request.out}/*.tif")
