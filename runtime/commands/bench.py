"""``copgen-edge bench``: what a bundle costs on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ..backends import Backend, create_backend
from ..benchmark import Timing, measure_component, measure_run, measure_steps
from ..bundle import Bundle
from ..components import COMPONENTS, STEP
from ..errors import RequestError
from ..peaks import PEAKS
from ..pipeline import Pipeline
from ..roofline import occupancy
from .common import CommaList, backend_options, emit, json_option, need, progress_bar, quiet_option, say, threads_option
from .tables import print_table

_LARGEST_BATCH = 1024
_COMPARISONS = ("pytorch", "pytorch-bf16-autocast")


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "--variant", type=click.Choice(["small", "base", "large", "huge"]), help="Instead of BUNDLE, with --random."
)
@click.option("--random", is_flag=True, help="Make a bundle of --variant with random weights and measure that.")
@click.option("--components", type=CommaList(), help="Only these; all that the bundle has by default.")
@click.option("--batch", type=CommaList(), default=("1",), show_default=True, help="Batch sizes, separated by commas.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Timed calls of a component.")
@click.option("--steps", type=click.IntRange(min=1), help="Network calls of the whole run; the bundle's default.")
@click.option(
    "--runs",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Timed whole runs: elevation and land cover to all else.",
)
@click.option(
    "--compare",
    type=click.Choice(["pytorch"]),
    help="Time the PyTorch reference in turn with the backend, in float32 and bfloat16 autocast; needs --checkpoint or "
    "--random.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint of BUNDLE, for --compare.")
@backend_options
@threads_option
@quiet_option
@json_option
def command(
    bundle: Path | None,
    variant: str | None,
    random: bool,
    components: tuple[str, ...] | None,
    batch: tuple[str, ...],
    repeat: int,
    steps: int | None,
    runs: int,
    compare: str | None,
    checkpoint: Path | None,
    backend: str,
    precision: str,
    max_drift: float | None,
    no_cuda_graph: bool,
    threads: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure each component and a whole run: median and spread, peak memory, network calls a second, FLOP/s.

    \b
    copgen-edge bench BUNDLE --batch 1,4
    copgen-edge bench --variant base --random
    """
    batches = _batch_sizes(batch)
    if (bundle is None) == (variant is None) or random != (variant is not None):
        raise RequestError("give either a BUNDLE, or --variant with --random")
    if compare and not random and checkpoint is None:
        raise RequestError("--compare pytorch needs the weights: give --checkpoint, or use --variant and --random")
    with tempfile.TemporaryDirectory(prefix="copgen-edge-bench-") as scratch:
        if bundle is None:
            bundle, checkpoint = _random_bundle(Path(scratch), str(variant), components or COMPONENTS, precision, quiet)
        opened = Bundle.open(bundle)
        names = components or tuple(opened.manifest.components)
        runner = create_backend(
            opened,
            backend,
            precision=precision,
            max_drift=max_drift,
            threads=threads,
            cuda_graph=not no_cuda_graph,
        )
        references = [_reference(opened, checkpoint, name, runner, threads) for name in _COMPARISONS] if compare else []
        timings: list[Timing] = []
        with progress_bar(quiet) as progress:
            for number, name in enumerate(names):
                progress(f"measure {name}", number, len(names))
                timings += measure_component([runner, *references], name, batches, repeat)
        has_step = STEP in names and STEP in opened.manifest.components
        step_times = measure_steps(runner, batches, repeat) if has_step else []
        whole = None
        if runs and STEP in opened.manifest.components:
            with progress_bar(quiet) as progress:
                whole = measure_run(Pipeline(opened, runner), steps or opened.manifest.steps, runs, progress)
    peaks = {engine.name: PEAKS.get(engine.describe()["device"]) for engine in (runner, *references)}
    rows = [
        timing.to_dict() | occupancy(timing, opened.component(timing.component), runner.precision, peaks[timing.engine])
        for timing in timings
    ]
    result = {
        "bundle": None if random else str(bundle),
        "variant": opened.manifest.model.get("variant"),
        "weights": opened.manifest.model["weights"],
        "backend": runner.describe(),
        "components": rows,
        "steps": step_times,
        "run": whole,
    }
    if not quiet:
        _print(result)
    if as_json:
        emit(result)


def _batch_sizes(texts: tuple[str, ...]) -> list[int]:
    try:
        sizes = [int(text) for text in texts]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or max(sizes) > _LARGEST_BATCH:
        raise RequestError(
            f"found batch sizes {','.join(texts)!r}, expected whole numbers from 1 to {_LARGEST_BATCH} such as 1,4"
        )
    return sizes


def _random_bundle(
    scratch: Path, variant: str, components: tuple[str, ...], precision: str, quiet: bool
) -> tuple[Path, Path]:
    tell = say(quiet)
    tell(f"making a bundle of size {variant} with random weights below {scratch}")
    checkpoint = need("copgen_ref.random_weights").write_random_checkpoint(scratch / "checkpoint", variant)
    precisions = ("fp32",) if precision == "auto" else (precision,)
    with progress_bar(quiet) as progress:
        need("export.exporter").export_bundle(
            checkpoint, scratch / "bundle", precisions=precisions, components=components, progress=progress
        )
    return scratch / "bundle", checkpoint


def _reference(bundle: Bundle, checkpoint: Path | None, name: str, runner: Backend, threads: int) -> Any:
    files = need("copgen_ref.files").find_checkpoint(checkpoint).with_heads(bundle.manifest.model.get("heads"))
    backend = need("export.reference_backend").ReferenceBackend
    torch = import_module("torch")
    if threads:
        torch.set_num_threads(threads)
    # Beside an engine on a GPU stands PyTorch on the same.
    device = "cpu" if runner.name == "onnxruntime-cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError("--compare pytorch beside an engine on a GPU needs a PyTorch built for CUDA; install one")
    return backend(files, autocast=name.endswith("autocast"), device=device)


_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("component", "component", str),
    ("engine", "engine", str),
    ("batch", "batch", str),
    ("median s", "median_seconds", "{:.3f}".format),
    ("min s", "min_seconds", "{:.3f}".format),
    ("max s", "max_seconds", "{:.3f}".format),
    ("calls/s", "calls_per_second", "{:.2f}".format),
    ("load s", "load_seconds", "{:.2f}".format),
    ("peak MB", "peak_bytes", lambda value: f"{value / 1e6:.0f}"),
    ("GFLOP", "flops", lambda value: f"{value / 1e9:.4g}"),
    ("TFLOP/s", "tflops_per_second", "{:.3g}".format),
    ("of peak", "peak_ratio", "{:.1%}".format),
    ("bound s", "roofline_seconds", "{:.2g}".format),
)
"""Title, name in a row of the result, and how it is written."""


def _print(result: dict[str, Any]) -> None:
    engine, rows = result["backend"], result["components"]
    columns = [column for column in _COLUMNS if any(row[column[1]] is not None for row in rows)]
    print_table(
        f"{engine['backend']} {engine['precision']} on {engine['device']}, {engine['threads']} threads",
        [title for title, _, _ in columns],
        (["" if row[name] is None else text(row[name]) for _, name, text in columns] for row in rows),
        text_columns=2,
    )
    if result["steps"]:
        names = ("enqueue", "enqueue_gpu", "replay", "replay_gpu")
        print_table(
            "A step (network and update): put on the stream call by call, and replayed as a CUDA graph",
            ("batch", "enqueue ms", "GPU ms", "replay ms", "GPU ms"),
            (
                (str(row["batch"]), *(f"{1000 * row[name]:.3f}" if name in row else "" for name in names))
                for row in result["steps"]
            ),
        )
    if run := result["run"]:
        click.echo(
            f"whole run ({', '.join(run['conditions'])} to all else, {run['steps']} steps): median of "
            f"{run['repeats']} {run['median_seconds']:.2f} s ({run['min_seconds']:.2f} to {run['max_seconds']:.2f}), "
            f"{run['network_calls_per_second']:.2f} network calls a second, loading {run['load_seconds']:.2f} s, peak "
            f"memory {(run['peak_bytes'] or 0) / 1e6:.0f} MB",
            err=True,
        )
