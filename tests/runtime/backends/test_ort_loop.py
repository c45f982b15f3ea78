"""The loop with bound tensors, on the CPU: the same code as on CUDA, but for where the tensors lie."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.backends import onnxruntime as engine
from copgen_edge.runtime.backends.host_loop import denoise_on_host
from copgen_edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from copgen_edge.runtime.backends.ort_loop import MAX_ROW_COUNTS, BoundLoop
from copgen_edge.runtime.backends.update import UPDATE_MODEL
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import BackendError, NonFiniteError
from copgen_edge.runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS
from copgen_edge.runtime.parity import compare, probe_inputs
from copgen_edge.runtime.solver import SOLVERS, Plan, make_plan
from numpy.typing import NDArray
from onnx import TensorProto, helper

Floats = NDArray[np.float32]
GIVEN, ABSENT = ("DEM_DEM", "mean_timestamps"), ("LULC_LULC", "S1RTC_vh_vv")


def open_session(model: bytes | str) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def tiny_step(fails_below: float = 0.0, column: int = 0, bad: float = np.nan) -> bytes:
    """A network of ``dit_step``'s contract: noise = 0.3 x - 0.001 mean(timesteps).

    Where the timestep of the first modality is below ``fails_below``, the noise of ``column`` is ``bad``.
    """
    columns = np.arange(JOINT_SIZE) == column
    constants = {
        "axis": np.array([1]),
        "slope": np.float32(0.001),
        "scale": np.float32(0.3),
        "zero": np.array([0]),
        "one": np.array([1]),
        "limit": np.float32(fails_below),
        "columns": columns[None],
        "bad": np.float32(bad),
    }
    nodes = [
        helper.make_node("ReduceMean", ["timesteps", "axis"], ["mean"]),
        helper.make_node("Mul", ["mean", "slope"], ["shift"]),
        helper.make_node("Mul", ["latents", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "shift"], ["sound"]),
        helper.make_node("Slice", ["timesteps", "zero", "one", "axis"], ["time"]),
        helper.make_node("Less", ["time", "limit"], ["late"]),
        helper.make_node("And", ["late", "columns"], ["failing"]),
        helper.make_node("Where", ["failing", "bad", "sound"], ["noise"]),
    ]
    latents, timesteps, noise = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("latents", JOINT_SIZE), ("timesteps", len(KEYS)), ("noise", JOINT_SIZE))
    )
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "step", [latents, timesteps], [noise], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()


class Watched:
    """A session whose bound runs are noted by the CUDA graph they ask for, and may fail."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.graphs: list[int | None] = []
        self.released: list[int] = []
        self.poisoned: set[int] = set()
        self.fails = ""

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        if self.fails:
            raise RuntimeError(self.fails)
        self.graphs.append(None if options is None else int(options.get_run_config_entry("gpu_graph_id")))
        self._session.run_with_iobinding(binding, options)
        if len(self.graphs) in self.poisoned:
            (noise,) = binding.get_outputs()
            noise.update_inplace(np.full(noise.shape(), np.nan, np.float32))

    def release_captured_graph(self, graph: int) -> None:
        self.released.append(graph)


@dataclass
class OnHost:
    """As much of a backend as the host's loop needs."""

    session: Any
    precision: str = "fp32"

    def run(self, component: str, inputs: Any) -> dict[str, Floats]:
        return {"noise": self.session.run(["noise"], dict(inputs))[0]}


@dataclass(frozen=True)
class Case:
    """A denoising run from the noise of a seed: GIVEN at t = 0, ABSENT at t = 1000, all else moves."""

    plan: Plan
    latents: Floats
    times: Floats
    moving: NDArray[np.bool_]

    @classmethod
    def make(cls, plan: Plan, rows: int, seed: int) -> Case:
        latents = np.random.default_rng(seed).normal(size=(rows, JOINT_SIZE)).astype(np.float32)
        times = np.repeat(np.float32(1000 * plan.times)[:, None], len(KEYS), axis=1)
        moving = np.ones(JOINT_SIZE, bool)
        for keys, time in ((GIVEN, 0), (ABSENT, 1000)):
            for key in keys:
                times[:, KEYS.index(key)] = time
                moving[JOINT_SLICES[key]] = False
        return cls(plan, latents, times, moving)

    def run(self, loop: BoundLoop, report: Callable[[int], None] = lambda done: None) -> Floats:
        return loop.denoise(self.plan, self.latents, self.times, self.moving, report)

    def on_host(self, session: Any) -> Floats:
        backend: Any = OnHost(session)
        return denoise_on_host(backend, self.plan, self.latents, self.times, self.moving, lambda done: None)


def make_loop(step: Any, *, cuda_graph: bool = False) -> BoundLoop:
    return BoundLoop(onnxruntime, step, open_session(str(UPDATE_MODEL)), "cpu", cuda_graph, "fp32")


@pytest.fixture(scope="module")
def network(bundle: Path) -> Any:
    return open_session(str(Bundle.open(bundle).onnx_path(STEP, "fp32")))


@pytest.fixture(scope="module")
def loop(network: Any) -> BoundLoop:
    """One loop for all solvers, inputs and numbers of rows."""
    return make_loop(network)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_it_gives_what_the_loop_on_the_host_gives(network: Any, loop: BoundLoop, solver: str, steps: int) -> None:
    plan = make_plan(solver, steps)
    kept = []
    for seed in (1, 2):
        for rows in (1, 3):
            case = Case.make(plan, rows, seed)
            start, heard = case.latents.copy(), []
            found = case.run(loop, heard.append)
            expected = case.on_host(network)
            assert heard == list(range(1, steps + 1))
            assert compare(found[:, case.moving], expected[:, case.moving]).relative_l2 <= 1e-6
            assert compare(found[:, case.moving], start[:, case.moving]).relative_l2 > 1e-2
            np.testing.assert_array_equal(found[:, ~case.moving], start[:, ~case.moving])
            np.testing.assert_array_equal(case.latents, start)
            kept.append((found, found.copy()))
    # A result is the caller's own: later runs in the same tensors leave it alone.
    for found, as_it_was in kept:
        np.testing.assert_array_equal(found, as_it_was)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("limit", "step"), [(1001, 1), (900, 2), (300, 4)])
def test_a_network_that_fails_is_named_with_its_step_as_on_the_host(bad: float, limit: float, step: int) -> None:
    session = open_session(tiny_step(limit, 0, bad))
    case, heard = Case.make(make_plan("dpmpp-2m", 4), 2, 1), []
    with pytest.raises(NonFiniteError, match=rf"dit_step \(fp32\) gave NaN or infinity at step {step} of 4") as caught:
        case.run(make_loop(session), heard.append)
    with pytest.raises(NonFiniteError) as on_host:
        case.on_host(session)
    assert str(caught.value) == str(on_host.value)
    # The run that looks for the step is not the user's.
    assert heard == [1, 2, 3, 4]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_that_failed_leaves_nothing_to_the_next(solver: str) -> None:
    step = Watched(open_session(tiny_step()))
    loop, case = make_loop(step), Case.make(make_plan(solver, 4), 2, 1)
    expected = case.run(loop)
    for call in range(1, 5):
        step.poisoned = {len(step.graphs) + call, len(step.graphs) + 4 + call}
        with pytest.raises(NonFiniteError, match=f"at step {call} of 4"):
            case.run(loop)
        np.testing.assert_array_equal(case.run(loop), expected)


def test_a_failure_that_does_not_come_again_is_still_a_failure() -> None:
    step = Watched(open_session(tiny_step()))
    step.poisoned = {2}
    loop, case = make_loop(step), Case.make(make_plan("ddim", 3), 1, 1)
    with pytest.raises(NonFiniteError, match="once and not when the run was repeated"):
        case.run(loop)
    assert len(step.graphs) == 6


def test_what_the_network_says_of_a_modality_that_stays_does_not_matter() -> None:
    column = JOINT_SLICES["DEM_DEM"].start
    case = Case.make(make_plan("dpmpp-3s", 4), 2, 1)
    found = case.run(make_loop(open_session(tiny_step(1001, column))))
    np.testing.assert_array_equal(found, case.run(make_loop(open_session(tiny_step()))))


def test_each_number_of_rows_and_state_has_a_cuda_graph_of_its_own() -> None:
    step = Watched(open_session(tiny_step()))
    loop, plan = make_loop(step, cuda_graph=True), make_plan("ddim", 4)
    plain = make_loop(open_session(tiny_step()))

    def graphs(rows: int) -> tuple[int, int]:
        step.graphs.clear()
        case = Case.make(plan, rows, rows)
        np.testing.assert_array_equal(case.run(loop), case.run(plain))
        even, odd, *again = step.graphs
        # The two states in turn.
        assert again == [even, odd]
        return even, odd

    seen = {rows: graphs(rows) for rows in range(1, MAX_ROW_COUNTS + 1)}
    used = [graph for pair in seen.values() for graph in pair]
    # 0 is the graph of a run that names none, -1 is no graph.
    assert len(set(used)) == 2 * MAX_ROW_COUNTS and min(used) > 0
    assert graphs(1) == seen[1]
    assert step.released == []
    # Two rows were used longest ago: their tensors go, and their graphs, which knew the addresses, are never replayed.
    graphs(MAX_ROW_COUNTS + 1)
    assert step.released == list(seen[2])
    assert graphs(1) == seen[1]
    assert not set(graphs(2)) & set(used)


def test_without_cuda_graphs_no_run_names_one() -> None:
    step = Watched(open_session(tiny_step()))
    Case.make(make_plan("ddim", 2), 1, 1).run(make_loop(step))
    assert step.graphs == [None, None]


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_an_engine_that_fails_is_a_backend_error(cuda_graph: bool) -> None:
    step = Watched(open_session(tiny_step()))
    loop, case = make_loop(step, cuda_graph=cuda_graph), Case.make(make_plan("ddim", 2), 1, 1)
    expected = case.run(loop)
    step.fails = "CUDA failure 900:\noperation not permitted"
    with pytest.raises(BackendError, match="dit_step failed in onnxruntime-cpu: CUDA failure 900: operation") as caught:
        case.run(loop)
    assert "\n" not in str(caught.value)
    assert ("try --no-cuda-graph" in str(caught.value)) == cuda_graph
    step.fails = ""
    np.testing.assert_array_equal(case.run(loop), expected)


def test_what_report_raises_passes_through() -> None:
    def stop(done: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        Case.make(make_plan("ddim", 2), 1, 1).run(make_loop(open_session(tiny_step())), stop)


class PretendCuda(ModuleType):
    """ONNX Runtime whose CUDA provider is its CPU's, and which notes the sessions made and how they were run."""

    def __init__(self, refuses_graphs: str = "") -> None:
        super().__init__("onnxruntime")
        self.__version__ = "0.0"
        self.RunOptions, self.OrtValue = onnxruntime.RunOptions, self
        self.made: list[tuple[str, bool]] = []
        self.runs: list[tuple[str, str | None]] = []
        self.alive: list[weakref.ref[Any]] = []
        pretend = self

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
            def __init__(self, model: str, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
                ((provider, settings),) = providers
                assert provider == "CUDAExecutionProvider"
                assert settings["use_tf32"] == "0"
                graph = settings.get("enable_cuda_graph") == "1"
                self.name = Path(model).name.split(".")[0]
                pretend.made.append((self.name, graph))
                if graph and refuses_graphs:
                    raise RuntimeError(refuses_graphs)
                super().__init__(model, providers=["CPUExecutionProvider"])
                pretend.alive.append(weakref.ref(self))

            def get_providers(self) -> list[str]:
                return ["CUDAExecutionProvider"]

            def run(self, names: list[str], inputs: Any, options: Any = None) -> Any:
                graph = None if options is None else options.get_run_config_entry("gpu_graph_id")
                pretend.runs.append((self.name, graph))
                return super().run(names, inputs, options)

        self.InferenceSession = Session
        self.SessionOptions = onnxruntime.SessionOptions

    def ortvalue_from_shape_and_type(self, shape: list[int], dtype: Any, device: str) -> Any:
        assert device == "cuda"
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu")


PretendBackend = Callable[..., tuple[OnnxRuntimeBackend, PretendCuda]]


@pytest.fixture
def pretend(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> PretendBackend:
    """The CUDA backend on the test bundle, as far as it can go on a CPU."""

    def make(*, cuda_graph: bool = True, refuses_graphs: str = "") -> tuple[OnnxRuntimeBackend, PretendCuda]:
        ort = PretendCuda(refuses_graphs)
        monkeypatch.setattr(engine, "import_onnxruntime", lambda: ort)
        return OnnxRuntimeBackend(Bundle.open(bundle), "cuda", "fp32", "asked for", 0, cuda_graph), ort

    return make


REFUSAL = "the nodes have not been partitioned\nto the CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("options", "made", "note"),
    [
        ({}, [(STEP, True), ("update", False)], "yes"),
        ({"cuda_graph": False}, [(STEP, False), ("update", False)], "no: not asked for"),
        (
            {"refuses_graphs": REFUSAL},
            [(STEP, True), (STEP, False), ("update", False)],
            "no: .*nodes have not been partitioned to.*",
        ),
    ],
)
def test_cuda_denoises_in_bound_tensors(
    bundle: Path, pretend: PretendBackend, options: dict[str, Any], made: list[tuple[str, bool]], note: str
) -> None:
    opened = Bundle.open(bundle)
    cpu = Pipeline(opened, create_backend(opened, "onnxruntime-cpu", precision="fp32"), batch=2)
    backend, ort = pretend(**options)
    pipeline = Pipeline(opened, backend, batch=2)
    condition = {"DEM_DEM": np.random.default_rng(0).normal(size=(3, 8, 8, 8)).astype(np.float32)}
    for seed in (1, 2):
        found, expected = (p.denoise(condition, ["S2L2A_B01_B09"], steps=3, seed=seed) for p in (pipeline, cpu))
        assert compare(found["S2L2A_B01_B09"], expected["S2L2A_B01_B09"]).relative_l2 <= 1e-6
    assert ort.made == made
    # Nothing came back to the host to be run from there.
    assert ort.runs == []
    said = backend.describe()["cuda_graph"]
    assert "\n" not in said
    assert re.fullmatch(note, said)


def test_a_graph_that_was_refused_is_not_asked_for_again(pretend: PretendBackend) -> None:
    backend, ort = pretend(refuses_graphs=REFUSAL)
    assert backend.describe()["cuda_graph"] == "not tried yet"
    for _ in range(2):
        backend.load(STEP)
        backend.release(STEP)
    assert [name for name, graph in ort.made if graph] == [STEP]
    assert backend.describe()["cuda_graph"].startswith("no: ")


def test_an_ordinary_run_of_the_network_takes_no_part_in_its_graphs(pretend: PretendBackend) -> None:
    backend, ort = pretend()
    for name in (STEP, "decoder_S2L2A_B01_B09"):
        backend.run(name, probe_inputs(name, 1, 3))
    assert ort.runs == [(STEP, "-1"), ("decoder_S2L2A_B01_B09", None)]
    plain, ort = pretend(cuda_graph=False)
    plain.run(STEP, probe_inputs(STEP, 1, 3))
    assert ort.runs == [(STEP, None)]


def test_a_network_that_is_released_leaves_no_session(pretend: PretendBackend) -> None:
    backend, ort = pretend()
    case = Case.make(make_plan("ddim", 2), 1, 1)

    def denoise() -> Floats:
        return backend.denoise(case.plan, case.latents, case.times, case.moving, lambda done: None)

    first = denoise()
    assert all(session() is not None for session in ort.alive)
    backend.release(STEP)
    gc.collect()
    assert len(ort.alive) == 2 and not any(session() for session in ort.alive)
    np.testing.assert_array_equal(denoise(), first)


def test_on_a_cpu_the_option_means_nothing(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for cuda_graph in (True, False):
        backend = create_backend(opened, "onnxruntime-cpu", cuda_graph=cuda_graph)
        backend.load(STEP)
        assert "cuda_graph" not in backend.describe()


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_gpu_denoises_as_the_cpu_does(bundle: Path, cuda_graph: bool) -> None:
    opened = Bundle.open(bundle)
    cuda = create_backend(opened, "onnxruntime-cuda", precision="fp32", cuda_graph=cuda_graph)
    cpu = create_backend(opened, "onnxruntime-cpu", precision="fp32")
    for solver in SOLVERS:
        for seed, rows in ((1, 1), (2, 3), (3, 1), (4, 3)):
            case = Case.make(make_plan(solver, 5), rows, seed)
            found, expected = (
                backend.denoise(case.plan, case.latents, case.times, case.moving, lambda done: None)
                for backend in (cuda, cpu)
            )
            assert compare(found, expected).relative_l2 <= 5e-5
            # A call between two replays must not disturb them.
            probe = probe_inputs(STEP, rows, seed)
            assert compare(cuda.run(STEP, probe)["noise"], cpu.run(STEP, probe)["noise"]).relative_l2 <= 5e-5
    assert cuda.describe()["cuda_graph"] == ("yes" if cuda_graph else "no: not asked for")
