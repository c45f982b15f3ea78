"""The diffusion loop on the device: network and solver's update as two engines, replayed as CUDA graphs.

There are two sets of state buffers, used in turn: a call reads one and writes the other, so that nothing is copied and
every address is fixed. Each of the two directions is one graph. What differs from call to call, timesteps and
coefficients, lies in tables on the device, of which a row is copied to where the engines read it before each call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..device import Buffer, Device, Graph
from ..errors import DeviceError, EngineError
from ..modalities import JOINT_SIZE, KEYS
from ..solver import Plan
from .update import COEFFICIENTS, STATE, coefficient_rows

Floats = NDArray[np.float32]

_FLOAT = np.dtype(np.float32).itemsize
_EVERY = 8
"""Calls that are put on the stream before the host waits for them, so that progress is what has been done."""


class Call(Protocol):
    """What the loop needs of an :class:`~copgen_edge.runtime.engines.session.EngineCall`."""

    def bind(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Say where all tensors lie and what shape the inputs have."""

    def enqueue(self) -> None:
        """Put the call on the device's stream."""

    def close(self) -> None:
        """Give it back."""


NewCall = Callable[[], Call]


class EngineLoop:
    """Buffers and graphs for runs of ``rows`` rows; good as long as both engines and their scratch memory stay where
    they are. ``capture`` says whether steps become graphs; ``obstacle`` why that failed, once it has."""

    def __init__(self, device: Device, step: NewCall, update: NewCall, rows: int, *, capture: bool) -> None:
        self._device = device
        self.rows = rows
        self.obstacle: str | None = None
        self._capture = capture
        self._graphs: dict[int, Graph] = {}
        with ExitStack() as stack:
            self._state = [{name: self._floats(stack, rows * JOINT_SIZE) for name in STATE} for _ in range(2)]
            self._noise = self._floats(stack, rows * JOINT_SIZE)
            self._moving = self._floats(stack, JOINT_SIZE)
            self._times = self._floats(stack, rows * len(KEYS))
            self._coefficients = self._floats(stack, COEFFICIENTS)
            # Each side has calls of its own, bound once: a graph must not see its context change.
            self._calls = [self._bind(stack, side, step(), update()) for side in (0, 1)]
            self._stack = stack.pop_all()

    def run(
        self,
        plan: Plan,
        latents: Floats,
        times: Floats,
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
        look: Callable[[int, Floats], None] | None = None,
    ) -> Floats:
        """``latents`` (rows, 26118) after ``plan``, with the timesteps ``times`` (calls, 12); only the columns of
        ``moving`` change. ``look(k, latents)`` is shown the latents after each call, which keeps the device waiting.
        """
        device = self._device
        table = np.ascontiguousarray(np.repeat(times[:, None], self.rows, axis=1), np.float32)
        rows = coefficient_rows(plan)
        with ExitStack() as stack:
            all_times, all_rows = (self._floats(stack, array.size) for array in (table, rows))
            for buffer, array in (
                (all_times, table),
                (all_rows, rows),
                (self._moving, moving.astype(np.float32)),
                (self._state[0]["latents"], np.ascontiguousarray(latents, np.float32)),
            ):
                device.upload(buffer.address, array)
            # Their coefficients are zero at first, but zero times what lies there by chance may be NaN.
            for name in ("anchor", "last", "before"):
                device.zero(self._state[0][name].address, self._state[0][name].size)
            for k in range(len(plan)):
                for target, source in ((self._times, all_times), (self._coefficients, all_rows)):
                    device.copy(target.address, source.address + k * target.size, target.size)
                self._advance(k)
                if look is not None:
                    look(k, self._read((k + 1) % 2))
                if (k + 1) % _EVERY == 0 or k + 1 == len(plan):
                    device.synchronize()
                    report(k + 1)
            return self._read(len(plan) % 2)

    def time_steps(self, calls: int) -> dict[str, float]:
        """Seconds of a step (network and update), the mean over ``calls``, put on the stream and replayed: ``enqueue``
        and ``replay`` are the host's, ``enqueue_gpu`` and ``replay_gpu`` the device's by its events. Without graphs
        there is no replay. What lies in the buffers is lost."""
        for state in self._state:
            for buffer in state.values():
                self._device.zero(buffer.address, buffer.size)
        for buffer in (self._times, self._moving):
            self._device.zero(buffer.address, buffer.size)
        self._device.upload(self._coefficients.address, np.ones(COEFFICIENTS, np.float32))
        for side in (0, 1):
            self._enqueue(side)
        found = self._time("enqueue", calls, self._enqueue)
        for k in (2, 3):
            self._advance(k)
        if len(self._graphs) == 2:
            found |= self._time("replay", calls, lambda side: self._graphs[side].launch())
        return found

    def close(self) -> None:
        """Give graphs, calls and buffers back, in this order, whatever fails on the way."""
        with self._stack as stack:
            for graph in self._graphs.values():
                stack.callback(graph.close)
            self._graphs.clear()

    def _advance(self, k: int) -> None:
        side = k % 2
        graph = self._graphs.get(side)
        # The first call of each side runs as it is: an engine may allocate then, which a capture does not forgive.
        if graph is None and self._capture and k >= 2:
            try:
                graph = self._graphs[side] = self._device.capture(lambda: self._enqueue(side))
            except (DeviceError, EngineError) as error:
                self._capture, self.obstacle = False, str(error)
        if graph is None:
            self._enqueue(side)
        else:
            graph.launch()

    def _time(self, name: str, calls: int, call: Callable[[int], None]) -> dict[str, float]:
        device = self._device
        with device.event() as begin, device.event() as end:
            device.synchronize()
            started = time.perf_counter()
            begin.record()
            for k in range(calls):
                call(k % 2)
            end.record()
            host = time.perf_counter() - started
            device.synchronize()
            gpu = begin.milliseconds_until(end) / 1000
        return {name: host / calls, f"{name}_gpu": gpu / calls}

    def _enqueue(self, side: int) -> None:
        for call in self._calls[side]:
            call.enqueue()

    def _bind(self, stack: ExitStack, side: int, step: Call, update: Call) -> tuple[Call, Call]:
        for call in (step, update):
            stack.callback(call.close)
        here, there = self._state[side], self._state[1 - side]
        joint, times = (self.rows, JOINT_SIZE), (self.rows, len(KEYS))
        step.bind(
            {"latents": here["latents"].address, "timesteps": self._times.address, "noise": self._noise.address},
            {"latents": joint, "timesteps": times},
        )
        addresses = {name: buffer.address for name, buffer in here.items()}
        addresses |= {f"next_{name}": buffer.address for name, buffer in there.items()}
        addresses |= {
            "noise": self._noise.address,
            "moving": self._moving.address,
            "coefficients": self._coefficients.address,
        }
        update.bind(addresses, dict.fromkeys((*STATE, "noise"), joint))
        return step, update

    def _read(self, side: int) -> Floats:
        found = np.empty((self.rows, JOINT_SIZE), np.float32)
        self._device.download(found, self._state[side]["latents"].address)
        self._device.synchronize()
        return found

    def _floats(self, stack: ExitStack, count: int) -> Buffer:
        return stack.enter_context(self._device.allocate(count * _FLOAT))
