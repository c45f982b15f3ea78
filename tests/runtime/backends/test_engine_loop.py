"""The loop on the device: buffers, turns and graphs, on a device of host memory with the real update graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnxruntime
import pytest
from copgen_edge.runtime.backends.engine_loop import EngineLoop
from copgen_edge.runtime.backends.update import UPDATE_MODEL
from copgen_edge.runtime.errors import EngineError
from copgen_edge.runtime.modalities import JOINT_SIZE
from copgen_edge.runtime.solver import SOLVERS, make_plan, run_plan
from numpy.typing import NDArray

from .fake_device import FakeDevice

Floats = NDArray[np.float32]


class Network:
    """A made-up network: noise that depends on the latents and on each row's own times."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def bind(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._addresses, self._shapes = addresses, shapes

    def enqueue(self) -> None:
        addresses, shapes = self._addresses, self._shapes

        def work() -> None:
            latents, times = (self._device.floats(addresses[n], shapes[n]) for n in ("latents", "timesteps"))
            self._device.floats(addresses["noise"], shapes["latents"])[:] = noise_in(latents, times)

        self._device.put(work)

    def close(self) -> None:
        self._device.log.append("closed")


class Update(Network):
    """The update graph itself, by ONNX Runtime on the fake device's memory."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._session = onnxruntime.InferenceSession(str(UPDATE_MODEL), providers=["CPUExecutionProvider"])

    def enqueue(self) -> None:
        addresses, shapes = self._addresses, self._shapes
        fixed = {"moving": (JOINT_SIZE,), "coefficients": (8,)}

        def work() -> None:
            given = {
                name: self._device.floats(addresses[name], shape) for name, shape in (dict(shapes) | fixed).items()
            }
            names = [output.name for output in self._session.get_outputs()]
            for name, value in zip(names, self._session.run(names, given), strict=True):
                self._device.floats(addresses[name], value.shape)[:] = value

        self._device.put(work)


def noise_in(latents: Floats, times: Floats) -> Floats:
    return np.tanh(latents + times.mean(axis=1, keepdims=True) / 500).astype(np.float32)


def expected(solver: str, steps: int, start: Floats, times: Floats, moving: NDArray[np.bool_]) -> Floats:
    state = start.copy()

    def noise_at(k: int, x: Floats) -> Floats:
        state[:, moving] = x
        return noise_in(state, np.repeat(times[k : k + 1], len(start), axis=0))[:, moving]

    state[:, moving] = run_plan(make_plan(solver, steps), start[:, moving], noise_at)
    return state


def inputs(seed: int, steps: int, rows: int = 2) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((rows, JOINT_SIZE)).astype(np.float32)
    times = (rng.random((steps, 12)) * 1000).astype(np.float32)
    return start, times, rng.random(JOINT_SIZE) < 0.7


def loop_on(device: FakeDevice, *, capture: bool = True, rows: int = 2) -> EngineLoop:
    return EngineLoop(device, partial(Network, device), partial(Update, device), rows, capture=capture)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("capture", [True, False])
def test_the_loop_gives_what_the_plan_gives_for_two_inputs_through_one_graph(solver: str, capture: bool) -> None:
    device = FakeDevice()
    loop = loop_on(device, capture=capture)
    for seed in (1, 2):
        start, times, moving = inputs(seed, 7)
        done: list[int] = []
        found = loop.run(make_plan(solver, 7), start, times, moving, done.append)
        np.testing.assert_allclose(found, expected(solver, 7, start, times, moving), rtol=2e-5, atol=2e-6)
        assert (found[:, ~moving] == start[:, ~moving]).all()
        assert done == [7]
    # Two calls run as they are; the other five, and all seven of the second run, are replayed.
    assert device.log.count("capture") == (2 if capture else 0)
    assert device.log.count("launch") == (12 if capture else 0)
    loop.close()
    assert not device.blocks and device.log.count("closed") == 4


def test_a_plan_of_any_length_ends_in_the_right_buffer() -> None:
    device = FakeDevice()
    loop = loop_on(device)
    for steps in (1, 2, 3, 10, 3):
        start, times, moving = inputs(steps, steps)
        found = loop.run(make_plan("ddim", steps), start, times, moving, lambda done: None)
        np.testing.assert_allclose(found, expected("ddim", steps, start, times, moving), rtol=2e-5, atol=2e-6)


def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once() -> None:
    device = FakeDevice(captures=False)
    loop = loop_on(device)
    for seed in (1, 2):
        start, times, moving = inputs(seed, 6)
        found = loop.run(make_plan("dpmpp-2m", 6), start, times, moving, lambda done: None)
        np.testing.assert_allclose(found, expected("dpmpp-2m", 6, start, times, moving), rtol=2e-5, atol=2e-6)
    assert device.log == ["capture"]
    assert loop.obstacle is not None and "CAPTURE_INVALIDATED" in loop.obstacle


def test_an_engine_that_fails_ends_the_run_and_leaves_nothing_behind() -> None:
    class Broken(Network):
        def enqueue(self) -> None:
            raise EngineError("broken")

    device = FakeDevice()
    loop = EngineLoop(device, partial(Broken, device), partial(Update, device), 2, capture=True)
    held = set(device.blocks)
    start, times, moving = inputs(1, 4)
    with pytest.raises(EngineError, match="broken"):
        loop.run(make_plan("ddim", 4), start, times, moving, lambda done: None)
    assert set(device.blocks) == held


def test_a_look_is_shown_every_call() -> None:
    device = FakeDevice()
    start, times, moving = inputs(3, 5)
    shown: list[Floats] = []
    last = loop_on(device).run(
        make_plan("ddim", 5), start, times, moving, lambda done: None, lambda k, latents: shown.append(latents)
    )
    assert len(shown) == 5 and (shown[-1] == last).all()
    assert len({array.tobytes() for array in shown}) == 5


@pytest.mark.parametrize("captures", [True, False])
def test_steps_are_timed_by_host_and_events_and_the_loop_is_good_after_it(captures: bool) -> None:
    device = FakeDevice(captures=captures)
    loop = loop_on(device)
    found = loop.time_steps(5)
    assert found["enqueue_gpu"] == pytest.approx(0.002) and found["enqueue"] > 0
    assert ("replay" in found) == captures
    if captures:
        assert found["replay_gpu"] == pytest.approx(0.002)
        assert device.log.count("launch") == 5 + 2
    start, times, moving = inputs(4, 5)
    again = loop.run(make_plan("ddim", 5), start, times, moving, lambda done: None)
    np.testing.assert_allclose(again, expected("ddim", 5, start, times, moving), rtol=2e-5, atol=2e-6)
