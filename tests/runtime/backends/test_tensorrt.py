"""The TensorRT backend on a device of host memory: the same results as ONNX Runtime, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.backends import create_backend, tensorrt
from copgen_edge.runtime.backends.tensorrt import TensorRtBackend
from copgen_edge.runtime.bundle import Bundle, FileRecord, write_manifest
from copgen_edge.runtime.engines.flavours import find_flavour
from copgen_edge.runtime.engines.match import built_precisions
from copgen_edge.runtime.engines.options import BuildOptions
from copgen_edge.runtime.errors import BackendError, EngineError, NonFiniteError

from .fake_device import FakeDevice
from .fake_tensorrt import THE_GPU, fake_flavour, write_engines

NAMES = ("encoder_DEM_DEM", "dit_step", "decoder_S2L2A_B01_B09")
GIVEN, WANTED = "DEM_DEM", "S2L2A_B01_B09"


@pytest.fixture
def opened(copy_part: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(tensorrt, "gpus", lambda: (THE_GPU,))
    monkeypatch.setattr(tensorrt, "installed_flavours", tensorrt.installed_flavours)
    return Bundle.open(copy_part(*NAMES))


def backend_on(bundle: Bundle, device: FakeDevice, *, cuda_graph: bool = True) -> TensorRtBackend:
    tensorrt.installed_flavours = lambda: [fake_flavour(device)]  # put back by the fixture
    return TensorRtBackend(bundle, "fp32", "asked for", cuda_graph=cuda_graph, device=device)


def heights(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).uniform(0, 800, (rows, 1, 64, 64)).astype(np.float32)


def test_runs_equal_those_of_onnx_runtime_seed_for_seed(opened: Bundle) -> None:
    write_engines(opened)
    device = FakeDevice()
    engine = Pipeline(opened, backend_on(opened, device), batch=4)
    plain = Pipeline(opened, create_backend(opened, "onnxruntime-cpu"), batch=4)
    # Two inputs, two seeds, and a remainder, through what was captured for the first.
    for rows, samples, seed in ((1, 4, 3), (1, 4, 5), (2, 3, 5)):
        found = engine.generate({GIVEN: heights(rows)}, [WANTED], samples=samples, steps=5, seed=seed)
        expected = plain.generate({GIVEN: heights(rows)}, [WANTED], samples=samples, steps=5, seed=seed)
        np.testing.assert_allclose(found[WANTED], expected[WANTED], rtol=1e-3, atol=0.5)
    # The decoder, loaded after the first loop, moved the scratch memory: both sides were captured once more.
    assert device.log.count("capture") == 4
    assert engine.backend.describe()["cuda_graph"] == "yes"
    assert engine.backend.describe()["device"] == THE_GPU.name


def test_uncaptured_runs_give_the_same_numbers(opened: Bundle) -> None:
    write_engines(opened)
    latents = []
    for cuda_graph, captures in ((True, True), (False, True), (True, False)):
        device = FakeDevice(captures=captures)
        backend = backend_on(opened, device, cuda_graph=cuda_graph)
        latents.append(Pipeline(opened, backend).denoise({}, [WANTED], steps=5, seed=1)[WANTED])
        assert ("launch" in device.log) == (cuda_graph and captures)
        note = str(backend.describe()["cuda_graph"])
        assert note == "yes" if cuda_graph and captures else note.startswith("no: ")
    assert (latents[0] == latents[1]).all() and (latents[0] == latents[2]).all()


def test_more_rows_than_the_profile_are_split_and_fewer_filled_up(opened: Bundle) -> None:
    write_engines(opened, batch=(2, 2, 3))
    device = FakeDevice()
    backend = backend_on(opened, device)
    plain = create_backend(opened, "onnxruntime-cpu")
    for rows in (1, 3, 7):
        inputs = {"image": heights(rows) / 800}
        found, expected = (b.run("encoder_DEM_DEM", inputs)["moments"] for b in (backend, plain))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_engines_share_one_scratch_memory_and_give_all_back(opened: Bundle) -> None:
    write_engines(opened)
    device = FakeDevice()
    backend = backend_on(opened, device)
    backend.load("dit_step")
    backend.load("encoder_DEM_DEM")
    assert len(device.blocks) == 1
    # Input and output keep their place from call to call, and grow when they must.
    places = []
    for rows in (2, 1, 4, 3):
        backend.run("encoder_DEM_DEM", {"image": heights(rows) / 800})
        places.append(set(device.blocks))
        assert len(device.blocks) == 3
    assert places[0] == places[1] != places[2] == places[3]
    memory = backend.describe()
    assert memory["device_memory_bytes"] > memory["device_memory_free_bytes"] > 0
    for name in ("encoder_DEM_DEM", "dit_step"):
        backend.release(name)
    assert not device.blocks


def test_low_memory_holds_one_engine_at_a_time(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_engines(opened)
    device = FakeDevice()
    backend = backend_on(opened, device)
    held: list[set[str]] = []
    load = backend.load
    monkeypatch.setattr(backend, "load", lambda name: (load(name), held.append(set(backend._sessions)))[0])
    pipeline = Pipeline(opened, backend, low_memory=True)
    pipeline.generate({GIVEN: heights(1)}, [WANTED], steps=3)
    assert {frozenset(names) for names in held} == {
        frozenset({"encoder_DEM_DEM"}),
        frozenset({"dit_step", "solver_update"}),
        frozenset({"decoder_S2L2A_B01_B09"}),
    }
    assert not device.blocks


def test_a_larger_engine_moves_the_scratch_memory_and_old_graphs_go(opened: Bundle) -> None:
    write_engines(opened)
    device = FakeDevice()
    backend = backend_on(opened, device)
    pipeline = Pipeline(opened, backend)
    first = pipeline.denoise({}, [WANTED], steps=4, seed=1)[WANTED]
    before = backend._scratch.generation
    backend.load("decoder_S2L2A_B01_B09")
    assert backend._scratch.generation > before
    again = pipeline.denoise({}, [WANTED], steps=4, seed=1)[WANTED]
    assert (first == again).all()
    assert device.log.count("capture") == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "10.3.0"}, "found an engine of version 10.3.0, expected 10.13.0"),
        ({"flavour": "tensorrt-rtx"}, "found flavour tensorrt-rtx, expected tensorrt"),
        (
            {"gpu": "NVIDIA Other"},
            "found an engine of NVIDIA Other (8.9, 60 processors), expected NVIDIA Test (8.9, 60 processors)",
        ),
        (
            {"capability": "8.7"},
            "found an engine of NVIDIA Test (8.7, 60 processors), expected NVIDIA Test (8.9, 60 processors)",
        ),
        ({"processors": 30}, "found an engine of NVIDIA Test (8.9, 30 processors)"),
        ({"onnx": {"onnx/x.onnx": "0"}}, "other ONNX files"),
        ({"sha256": "0"}, "size or SHA-256 differs"),
        ({"gpu": "portable", "capability": "8.6+12.0"}, "found compute capabilities 8.6+12.0, expected 8.9"),
    ],
)
def test_a_foreign_engine_is_refused_with_the_command_that_builds_it(
    opened: Bundle, changes: dict[str, object], told: str
) -> None:
    write_engines(opened, **changes)
    with pytest.raises(BackendError, match="copgen-edge build") as caught:
        backend_on(opened, FakeDevice())
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": "portable", "capability": "any"},
        {"gpu": "portable", "capability": "8.6+8.9"},
        {"gpu": "NVIDIA Other", "options": BuildOptions(hardware_compatibility="ampere-plus")},
        {"gpu": "NVIDIA Other", "options": BuildOptions(hardware_compatibility="same-compute-capability")},
        {"version": "10.3.0", "options": BuildOptions(version_compatible=True)},
    ],
)
def test_an_engine_made_to_travel_is_taken(opened: Bundle, changes: dict[str, object]) -> None:
    write_engines(opened, **changes)
    backend_on(opened, FakeDevice())


def test_an_engine_that_does_not_deserialise_is_an_error(opened: Bundle) -> None:
    garbage = b"garbage"
    import hashlib

    paths = write_engines(opened, bytes=len(garbage), sha256=hashlib.sha256(garbage).hexdigest())
    for path in paths:
        path.write_bytes(garbage)
    backend = backend_on(opened, FakeDevice())
    with pytest.raises(EngineError, match="dit_step cannot be used: it does not deserialise: magic tag does not match"):
        backend.load("dit_step")


def test_too_little_memory_says_what_is_free(opened: Bundle) -> None:
    write_engines(opened)
    backend = backend_on(opened, FakeDevice(total=10))
    with pytest.raises(BackendError, match="0 MB are free on NVIDIA Test; --low-memory"):
        backend.load("dit_step")


def test_a_cache_without_engines_names_the_command(opened: Bundle) -> None:
    assert built_precisions(opened) == ()
    with pytest.raises(BackendError, match=r"the cache has none.*copgen-edge build .* --precision fp32"):
        backend_on(opened, FakeDevice())
    write_engines(opened)
    assert built_precisions(opened) == ("fp32",)


def test_a_network_that_gives_nan_is_named_by_its_step(opened: Bundle) -> None:
    component = opened.component("dit_step")
    variant = component.precisions["fp32"]
    path = opened.root / variant.files[0].path
    model = onnx.load(path)
    # The noise times 0 / (t - 500) of the last modality: NaN at the call whose time is 500, and nothing before.
    output = model.graph.output[0].name
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == output:
                node.output[i] = "plain_noise"
    constants = {"five_hundred": [500.0], "nothing": [0.0]}
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    for name, value in {"last": [11], "end": [12], "axis": [1]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("Slice", ["timesteps", "last", "end", "axis"], ["last_time"]),
            make("Sub", ["last_time", "five_hundred"], ["away"]),
            make("Div", ["nothing", "away"], ["factor"]),
            make("Add", ["plain_noise", "factor"], [output]),
        ]
    )
    onnx.save(model, path)
    changed = replace(component, precisions={"fp32": replace(variant, files=(FileRecord.of(opened.root, path),))})
    components = {**opened.manifest.components, "dit_step": changed}
    write_manifest(opened.root, replace(opened.manifest, components=components))
    bundle = Bundle.open(opened.root)
    write_engines(bundle)
    backend = backend_on(bundle, FakeDevice())
    plan = Pipeline(bundle, backend).plan("ddim", 4)
    times = np.repeat(np.array([[900], [700], [500], [300]], np.float32), 12, axis=1)
    start = np.zeros((1, 26118), np.float32)
    with pytest.raises(NonFiniteError, match="at step 3 of 4"):
        backend.denoise(plan, start, times, np.ones(26118, bool), lambda done: None)


RTX = {"flavour": "tensorrt-rtx", "version": "1.7.1.116", "gpu": "portable", "capability": "any", "processors": 0}


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_rtx_is_told_to_capture_by_itself_and_only_where_addresses_stay(opened: Bundle, cuda_graph: bool) -> None:
    write_engines(opened, **RTX)
    device = FakeDevice()
    tensorrt.installed_flavours = lambda: [fake_flavour(device, rtx=True)]
    backend = TensorRtBackend(opened, "fp32", "asked for", cuda_graph=cuda_graph, device=device)
    engine, plain = Pipeline(opened, backend), Pipeline(opened, create_backend(opened, "onnxruntime-cpu"))
    found, expected = (p.generate({GIVEN: heights(1)}, [WANTED], steps=4, seed=2)[WANTED] for p in (engine, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.5)
    assert "capture" not in device.log
    # Network and update on both sides of the loop; encoder and decoder.
    assert device.log.count("graphs whole") == (4 if cuda_graph else 0)
    assert device.log.count("graphs disabled") == (2 if cuda_graph else 6)


def test_what_rtx_calls_invalid_is_not_opened(opened: Bundle) -> None:
    write_engines(opened, **RTX)
    device = FakeDevice()
    tensorrt.installed_flavours = lambda: [fake_flavour(device, rtx=True, valid=False)]
    backend = TensorRtBackend(opened, "fp32", "asked for", device=device)
    with pytest.raises(EngineError, match=r"invalid on this GPU \(diagnostics 32\)"):
        backend.load("dit_step")
    assert "invalid on this GPU" in str(tensorrt.tensorrt_obstacle(opened, "fp32"))


@pytest.mark.tensorrt
def test_the_real_library_has_the_names_that_are_used() -> None:
    try:
        trt = find_flavour("tensorrt-rtx").module
    except BackendError as error:
        pytest.skip(str(error))
    for path in [
        "Runtime.get_engine_validity",
        "Runtime.engine_header_size",
        "Runtime.deserialize_cuda_engine",
        "Runtime.engine_host_code_allowed",
        "EngineValidity.INVALID",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "CudaGraphStrategy.DISABLED",
        "IRuntimeConfig.cuda_graph_strategy",
        "DynamicShapesKernelSpecializationStrategy.EAGER",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "IRuntimeConfig.set_execution_context_allocation_strategy",
        "ICudaEngine.create_runtime_config",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.get_device_memory_size_for_profile_v2",
        "ICudaEngine.weight_streaming_budget_v2",
        "ICudaEngine.get_weight_streaming_automatic_budget",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.set_device_memory",
        "IExecutionContext.execute_async_v3",
    ]:
        owner, name = path.split(".")
        assert hasattr(getattr(trt, owner), name), path


def test_auto_says_why_it_passed_over_tensorrt(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import copgen_edge.runtime.backends as backends

    monkeypatch.setattr(backends, "gpus", lambda: (THE_GPU,))
    backend = create_backend(opened, "auto")
    assert backend.name == "onnxruntime-cpu"
    assert "no TensorRT: " in backend.reason
