"""Runs that are replayed are the runs that were recorded, and another network acts where it is put."""

from __future__ import annotations

import numpy as np
import pytest
from copgen_edge.calibration.ranges import BANDS, calls_of_bands
from copgen_edge.calibration.replay import Replay, Start, band_importance, relative, starts
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS
from copgen_edge.runtime.solver import make_plan

from .small_recording import SAMPLES, Pretence


def network(scale: float = 0.9):  # type: ignore[no-untyped-def]
    engine = Pretence()

    def noise(latents: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        found = engine.run(STEP, {"latents": latents, "timesteps": timesteps})["noise"]
        return (found * np.float32(scale / 0.9)).astype(np.float32)

    return noise


def test_a_replay_ends_where_the_recorded_run_did(recording: Trajectories) -> None:
    """To the half precision in which its start and its end were stored."""
    plan = make_plan(recording.solver, recording.steps)
    for run in recording.runs:
        for number, start in enumerate(starts(recording, [run])):
            latents = Replay(network(), start, plan).latents(Replay(network(), start, plan).end)
            assert set(latents) == {key for key in KEYS if run.roles[key] == "generated"}
            for key, latent in latents.items():
                entries = [e for e in run.entries if e.component == f"decoder_{key}" and e.sample == number]
                if entries:
                    expected = recording.inputs(run, entries)["latent"]
                    assert relative([latent], [expected]) < 2e-3
        assert number == SAMPLES - 1


@pytest.mark.parametrize("solver", ["dpmpp-3s", "dpmpp-2m", "ddim"])
def test_another_network_acts_in_its_calls_alone(recording: Trajectories, solver: str) -> None:
    start = starts(recording, recording.runs[:1])[0]
    plan = make_plan(solver, 7)
    mine, other = network(0.9), network(0.7)
    replay = Replay(mine, start, plan, keep=[3])
    np.testing.assert_array_equal(replay.whole(mine), replay.end)
    np.testing.assert_array_equal(replay.with_calls(other, 3, 3), replay.end)
    np.testing.assert_array_equal(replay.whole(other), Replay(other, start, plan).end)
    seen: list[float] = []

    def at_three(latents: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        seen.append(float(timesteps.max()))
        return (other if len(seen) in (4, 5) else mine)(latents, timesteps)

    expected = Replay(at_three, start, plan).end
    np.testing.assert_array_equal(replay.with_calls(other, 3, 5), expected)
    # What was kept is not used up.
    np.testing.assert_array_equal(replay.with_calls(other, 3, 5), expected)
    assert not np.array_equal(expected, replay.end)


def test_conditions_stand_still(recording: Trajectories) -> None:
    start = starts(recording, recording.runs[:1])[0]
    plan = make_plan("ddim", 3)
    given = np.zeros(JOINT_SIZE, bool)
    for key in KEYS:
        given[JOINT_SLICES[key]] = start.roles[key] == "given"
    assert given.any() and not (given & start.moving).any()

    def watch(latents: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        np.testing.assert_array_equal(latents[:, ~start.moving], start.latents[:, ~start.moving])
        for column, key in enumerate(KEYS):
            if start.roles[key] != "generated":
                assert timesteps[0, column] == {"given": 0, "absent": 1000}[start.roles[key]]
        return network()(latents, timesteps)

    Replay(watch, start, plan)


def test_another_seed_changes_what_is_drawn_alone(recording: Trajectories) -> None:
    start = starts(recording, recording.runs[1:2])[0]
    other = start.reseeded(5)
    changed = start.latents != other.latents
    assert not changed[:, ~start.moving].any()
    assert changed[:, start.moving].mean() > 0.99
    assert 0.9 < other.latents[:, start.moving].std() < 1.1


def test_importance_is_what_an_error_does_to_the_end() -> None:
    """With a network that mends nothing, by the solver's arithmetic: an error of the last call weighs little."""
    roles = dict.fromkeys(KEYS, "generated")
    start = Start(np.random.default_rng(0).standard_normal((1, JOINT_SIZE), np.float32), roles)
    plan = make_plan("ddim", 12)
    fixed = np.random.default_rng(1).standard_normal((1, JOINT_SIZE), np.float32)
    found = band_importance(lambda latents, timesteps: fixed, start, plan)
    assert len(found) == BANDS and max(found) == 1

    def end(nudged: range) -> np.ndarray:
        x = start.latents.astype(np.float64)
        grid = np.append(plan.times, 0.001)
        from copgen_edge.runtime import schedule

        for k in range(len(plan)):
            noise = fixed * (1.01 if k in nudged else 1.0)
            clean = (x - plan.sigma[k] * noise) / plan.alpha[k]
            x = schedule.alpha(grid[k + 1]) * clean + schedule.sigma(grid[k + 1]) * noise
        return x

    plain = end(range(0))
    squares = [np.square(end(range(*calls_of_bands(plan)[band])) - plain).sum() for band in range(BANDS)]
    # Errors of one direction add up over the calls of a band, random ones only as their squares do.
    assert np.argmax(found) == np.argmax(squares)


def test_relative_errors_of_several_arrays_are_taken_together() -> None:
    a, b = np.array([3.0, 0.0], np.float32), np.array([[4.0]], np.float32)
    assert relative([a + 1, b], [a, b]) == pytest.approx(np.sqrt(2) / 5)
    assert relative([a * np.nan, b], [a, b]) == float("inf")
