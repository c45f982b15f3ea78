"""Which part of all possible runs is recorded: roles of the modalities, and calls and samples within a size.

All of it follows from the seed and the number of a run, never from what was drawn before, so that a recording that was
stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.components import STEP, contract
from ..runtime.errors import RequestError
from ..runtime.modalities import IMAGE_KEYS, KEYS, resolve
from .trajectories import ROLES

MAIN_USE = resolve(("DEM", "LULC", "place", "date"))
"""What is given in the first run: the known ground, from which the sensors are drawn."""

ROUND = 3
"""Runs in which every modality that can be given has each role once; the first run comes before them."""

MB = 1_000_000
_RUN_BYTES, _ROW_BYTES = 8192, 192
"""What the header of a run's file and the run's part of the manifest take at most, and a row's part of that."""

_NOISE, _ROLES = 1, 2
_GOLDEN = (math.sqrt(5) - 1) / 2

Calls = frozenset[tuple[int, int]]
"""Pairs of a call of the plan and a sample, both from 0."""


def run_seed(seed: int, run: int) -> int:
    """The seed of the noise of a run, below 2^32."""
    return int(_bits(_NOISE, seed, run, 1)[0])


def run_roles(seed: int, run: int, known: Collection[str]) -> dict[str, str]:
    """The role of each modality key in a run; only those that are ``known`` can be given.

    The first run is given :data:`MAIN_USE`. After it, in each :data:`ROUND` of runs, every known modality is once
    given, once generated and once absent, in an order of its own, and something is generated in each run.
    """
    if run == 0:
        drawn = {key: "given" if key in MAIN_USE else "generated" for key in KEYS}
    else:
        number, place = divmod(run - 1, ROUND)
        bits = _bits(_ROLES, seed, number, 2 * len(KEYS))
        orders = list(permutations(ROLES))
        turns = [ROLES[turn:] + ROLES[:turn] for turn in range(ROUND)]
        drawn = {}
        for position, index in enumerate(np.argsort(bits[: len(KEYS)], kind="stable")):
            # Three modalities take turns, so that no run is without one to generate.
            order = turns[position] if position < ROUND else orders[int(bits[len(KEYS) + position]) % len(orders)]
            drawn[KEYS[index]] = order[place]
    return {
        key: "generated" if drawn[key] == "given" and key not in known else drawn[key]
        for key in KEYS
    }  # fmt: skip


def kept_calls(run: int, calls: int, samples: int, more: int) -> Calls:
    """What is kept of a run: the first call of every sample, and ``more`` of the others.

    The others are evenly spread over the calls, from a start that differs from run to run, and go round the samples.
    """
    first = {(0, sample) for sample in range(samples)}
    if not more:
        return frozenset(first)
    start = run * _GOLDEN % 1.0
    cells = [int((i + start) / more * (calls - 1) * samples) for i in range(more)]
    return frozenset(first | {(1 + cell // samples, (run + i) % samples) for i, cell in enumerate(cells)})


def least_rows(
    roles: Mapping[str, str], samples: int, images: Collection[str], components: Collection[str]
) -> Counter[str]:
    """Rows by component that a run records at least: one of each of the ``images`` (keys), the latents that are
    decoded, and the first call of every sample. Only ``components`` have rows."""
    rows = Counter({STEP: samples})
    for key in IMAGE_KEYS:
        rows[f"encoder_{key}"] = int(key in images)
        rows[f"decoder_{key}"] = {"given": 1, "generated": samples, "absent": 0}[roles[key]]
    return Counter({component: count for component, count in rows.items() if count and component in components})


def row_bytes(component: str) -> int:
    """Bytes of a row of the inputs of ``component`` in a run's file: half precision, but for the timesteps."""
    return sum(
        math.prod(int(side) for side in spec.shape[1:]) * (4 if spec.name == "timesteps" else 2)
        for spec in contract(component).inputs
    )


def more_calls(
    least: Sequence[Mapping[str, int]], calls: int, samples: int, max_mb: float, notes: int
) -> tuple[int, int]:
    """How many calls each run keeps beside the first of every sample, the same number for all, and the bytes that the
    recording takes then, at most.

    ``least`` has the rows of each run as :func:`least_rows` counts them, ``notes`` are the bytes that the manifest
    takes beside the runs. Raises :class:`RequestError` where ``max_mb`` (10^6 bytes) has no room for the least.
    """
    fixed = notes + len(least) * _RUN_BYTES
    fixed += sum(count * (row_bytes(component) + _ROW_BYTES) for rows in least for component, count in rows.items())
    spare = max_mb * MB - fixed
    if spare < 0:
        raise RequestError(
            f"found {max_mb:g} MB at most for {len(least)} runs, expected {math.ceil(fixed / MB)} or more; raise "
            "--max-mb, or record fewer runs or samples"
        )
    each = len(least) * (row_bytes(STEP) + _ROW_BYTES)
    more = min((calls - 1) * samples, int(spare // each))
    return more, fixed + more * each


def _bits(purpose: int, seed: int, number: int, count: int) -> NDArray[np.unsignedinteger[Any]]:
    # NumPy promises these to be the same in all its versions, unlike what its generators draw.
    return np.random.SeedSequence((purpose, seed, number)).generate_state(count)
