"""Recordings hold what the components were given, go on where they were stopped, and are what was asked for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.calibration.record import record
from copgen_edge.calibration.trajectories import ROLES, Trajectories
from copgen_edge.runtime import transforms
from copgen_edge.runtime.components import COMPONENTS, STEP
from copgen_edge.runtime.errors import CalibrationError, CopgenError, RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, JOINT_SIZE, JOINT_SLICES, KEYS, get
from copgen_edge.runtime.noise import latent_noise

from .small_recording import CALLS, RUNS, SAMPLES, STEPS, Pretence, patches, pretend, small, tree

SCRIPT = Path(__file__).with_name("small_recording.py")


@pytest.fixture(scope="module")
def whole(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """A recording that nothing stopped; tests must not write in it."""
    return small(bundle, tmp_path_factory.mktemp("whole") / "calib")


def step_inputs(found: Trajectories, run: int, call: int) -> dict[str, Any]:
    """The network's inputs at one call, a row a sample."""
    recorded = found.runs[run]
    entries = [entry for entry in recorded.entries if entry.component == STEP and entry.call == call]
    assert [entry.sample for entry in entries] == list(range(SAMPLES))
    return found.inputs(recorded, entries)


def test_a_recording_says_what_it_is(whole: Trajectories, bundle: Path) -> None:
    pipeline = pretend(bundle)
    assert {path.name for path in whole.root.parent.iterdir()} == {"calib"}
    assert {path.name for path in whole.root.iterdir()} == {
        "manifest.json", *(f"run-{run:05d}.safetensors" for run in range(RUNS))
    }  # fmt: skip
    assert (whole.bundle, whole.steps) == (pipeline.bundle.digest, STEPS)
    assert (whole.solver, whole.model) == (pipeline.bundle.manifest.solver, pipeline.bundle.manifest.model)
    assert [run.source for run in whole.runs] == ["patch 0", "patch 1", "patch 0"]
    rows = Counter(entry.component for run in whole.runs for entry in run.entries)
    assert set(rows) == set(COMPONENTS) and rows[STEP] == RUNS * SAMPLES * STEPS
    # The third run is over the first patch again, whose images are there already.
    assert all(rows[f"encoder_{key}"] == 2 for key in IMAGE_KEYS)
    made = json.loads((whole.root / "manifest.json").read_text())["made"]
    assert (made["samples"], made["seed"], made["patches"]) == (SAMPLES, 0, ["patch 0", "patch 1"])
    assert set(made["data"]) == set(KEYS)


def test_runs_are_those_that_generate_makes(whole: Trajectories, bundle: Path) -> None:
    """The latents given to the decoders are what the pipeline draws, without a recorder, with the run's seed."""
    for number, run in enumerate(whole.runs):
        truth = patches()
        given = {key: truth.physical[key][number % 2 :][:1] for key in KEYS if run.roles[key] == "given"}
        drawn = [key for key in KEYS if run.roles[key] == "generated"]
        pipeline = pretend(bundle)
        latents = pipeline.generate_latents(given, drawn, samples=SAMPLES, steps=STEPS, seed=run.seed)
        for key in IMAGE_KEYS:
            entries = [entry for entry in run.entries if entry.component == f"decoder_{key}"]
            if run.roles[key] == "absent":
                assert not entries
                continue
            expected = latents[key] if key in latents else encoded(pipeline, key, given[key], run.seed)
            assert [entry.sample for entry in entries] == list(range(len(expected)))
            stored = whole.inputs(run, entries)["latent"]
            np.testing.assert_array_equal(stored, expected.astype(np.float16).astype(np.float32))


def encoded(pipeline: Any, key: str, physical: Any, seed: int) -> Any:
    image = transforms.to_model(key, physical)
    return pipeline.encode(key, image, latent_noise(key, 1, seed=seed, purpose="posterior") if get(key).size else None)


def test_encoders_are_given_the_patches(whole: Trajectories) -> None:
    for number in range(2):
        for key in IMAGE_KEYS:
            (entry,) = (entry for entry in whole.runs[number].entries if entry.component == f"encoder_{key}")
            image = transforms.to_model(key, patches().physical[key][number : number + 1])
            stored = whole.inputs(whole.runs[number], [entry])["image"]
            np.testing.assert_array_equal(stored, image.astype(np.float16).astype(np.float32))


def test_the_first_call_holds_conditions_and_noise(whole: Trajectories, bundle: Path) -> None:
    roles_met = set()
    for number, run in enumerate(whole.runs):
        first = step_inputs(whole, number, 0)
        for position, key in enumerate(KEYS):
            role = run.roles[key]
            roles_met.add(role)
            shape = (SAMPLES, *get(key).latent_shape)
            there = first["latents"][:, JOINT_SLICES[key]].reshape(shape)
            if role == "given":
                expected = encoded(pretend(bundle), key, patches().physical[key][number % 2 :][:1], run.seed)
                expected = np.broadcast_to(expected, shape)
            else:
                purpose = {"generated": "initial", "absent": "absent"}[role]
                expected = latent_noise(key, SAMPLES, seed=run.seed, purpose=purpose)
            np.testing.assert_array_equal(there, expected.astype(np.float16).astype(np.float32))
            assert (first["timesteps"][:, position] == {"given": 0, "generated": 1000, "absent": 1000}[role]).all()
    assert roles_met == set(ROLES)


def test_timesteps_fall_for_what_is_drawn_alone(whole: Trajectories, bundle: Path) -> None:
    times = (pretend(bundle).plan(None, STEPS).times * 1000).astype(np.float32)
    run = whole.runs[1]
    for call in range(STEPS):
        inputs = step_inputs(whole, 1, call)
        assert {entry.timestep for entry in run.entries if entry.call == call} == {float(times[call])}
        for position, key in enumerate(KEYS):
            expected = {"given": 0, "generated": times[call], "absent": 1000}[run.roles[key]]
            assert (inputs["timesteps"][:, position] == expected).all()
    before, after = step_inputs(whole, 1, 0)["latents"], step_inputs(whole, 1, STEPS - 1)["latents"]
    for key in KEYS:
        same = np.array_equal(before[:, JOINT_SLICES[key]], after[:, JOINT_SLICES[key]])
        assert same == (run.roles[key] != "generated")


def test_a_run_can_be_replayed_from_its_first_call(whole: Trajectories, bundle: Path) -> None:
    """Starting at what is stored comes, but for half precision, to the state that was recorded at the last call."""
    first, last = step_inputs(whole, 2, 0), step_inputs(whole, 2, STEPS - 1)
    pipeline = pretend(bundle)
    moving = np.zeros(JOINT_SIZE, bool)
    for key in KEYS:
        moving[JOINT_SLICES[key]] = whole.runs[2].roles[key] == "generated"
    times = np.concatenate([step_inputs(whole, 2, call)["timesteps"][:1] for call in range(STEPS)])
    states: list[Any] = []

    class Watched(Pretence):
        def run(self, component: str, inputs: Any) -> dict[str, Any]:
            states.append(inputs["latents"].copy())
            return super().run(component, inputs)

    Watched().denoise(pipeline.plan(None, STEPS), first["latents"], times, moving, lambda done: None)
    np.testing.assert_allclose(states[-1], last["latents"], rtol=0, atol=0.02)


def test_the_size_is_kept(bundle: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = small(bundle, tmp_path / "calib", steps=12, max_mb=5.6, say=said.append)
    assert sum(path.stat().st_size for path in found.root.iterdir()) <= 5_600_000
    kept = [[(e.call, e.sample) for e in run.entries if e.component == STEP] for run in found.runs]
    assert len({len(pairs) for pairs in kept}) == 1 and SAMPLES < len(kept[0]) < 12 * SAMPLES
    assert f"keeping {len(kept[0])} of the 36 network calls of each run" in said
    for pairs in kept:
        assert pairs == sorted(pairs) and pairs[:SAMPLES] == [(0, sample) for sample in range(SAMPLES)]
    assert kept[0] != kept[1]
    all_of_it = small(bundle, tmp_path / "all", steps=12)
    for number, run in enumerate(found.runs):
        for entry in run.entries:
            if entry.component != STEP:
                continue
            other = all_of_it.runs[number]
            (same,) = (e for e in other.entries if (e.component, e.call, e.sample) == (STEP, entry.call, entry.sample))
            for name, values in found.inputs(run, [entry]).items():
                np.testing.assert_array_equal(values, all_of_it.inputs(other, [same])[name])


@pytest.mark.parametrize("steps", [2, 40])
def test_the_size_is_of_all_that_is_in_the_folder(bundle: Path, tmp_path: Path, steps: int) -> None:
    """One byte less than everything takes."""
    most = sum(map(len, tree(small(bundle, tmp_path / "all", runs=2, samples=2, steps=steps).root).values()))
    found = small(bundle, tmp_path / "calib", runs=2, samples=2, steps=steps, max_mb=(most - 1) / 1e6)
    assert most - 500_000 < sum(map(len, tree(found.root).values())) < most


def test_a_size_that_is_too_little(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="found 2 MB at most for 3 runs, expected 5 or more; raise --max-mb"):
        small(bundle, tmp_path / "calib", max_mb=2)
    assert not list(tmp_path.iterdir())
    assert len(small(bundle, tmp_path / "calib", max_mb=5).runs) == 3


def test_equal_requests_give_equal_bytes_and_another_seed_other_runs(
    whole: Trajectories, bundle: Path, tmp_path: Path
) -> None:
    again = small(bundle, tmp_path / "again")
    assert tree(again.root) == tree(whole.root) and again.digest == whole.digest
    other = small(bundle, tmp_path / "other", seed=1)
    assert other.runs[1].roles != whole.runs[1].roles
    assert not np.array_equal(step_inputs(other, 0, 0)["latents"], step_inputs(whole, 0, 0)["latents"])


@pytest.mark.parametrize("call", [0, 5, CALLS // RUNS, CALLS - 1])
def test_a_recording_goes_on_where_it_failed(whole: Trajectories, bundle: Path, tmp_path: Path, call: int) -> None:
    def fail(number: int) -> None:
        if number == call:
            raise CopgenError("the engine failed")

    with pytest.raises(CopgenError, match="the engine failed"):
        small(bundle, tmp_path / "calib", Pretence(fail))
    runs_done = call // (CALLS // RUNS)
    assert {path.name for path in tmp_path.iterdir()} == ({".calib.recording"} if runs_done else set())
    said: list[str] = []
    second = Pretence()
    found = small(bundle, tmp_path / "calib", second, say=said.append)
    assert second.calls == CALLS - runs_done * (CALLS // RUNS)
    assert ("going on with a recording that was stopped" in said) == bool(runs_done)
    assert tree(tmp_path) == {f"calib/{name}": content for name, content in tree(whole.root).items()}
    assert found.digest == whole.digest


def test_a_recording_goes_on_after_a_kill(whole: Trajectories, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "calib"
    for call in (CALLS // RUNS + 3, 1):
        words = [sys.executable, str(SCRIPT), str(bundle), str(out), str(call)]
        killed = subprocess.run(words, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not out.exists() and (tmp_path / ".calib.recording/result/run-00000.safetensors").exists()
    left = Pretence()
    small(bundle, out, left)
    assert left.calls == CALLS - CALLS // RUNS
    assert tree(tmp_path) == {f"calib/{name}": content for name, content in tree(whole.root).items()}


def stopped(bundle: Path, out: Path) -> Path:
    """The folder of a recording to ``out`` that was stopped in its last run."""

    def stop(number: int) -> None:
        if number == CALLS - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(bundle, out, Pretence(stop))
    return out.parent / f".{out.name}.recording"


def test_what_was_damaged_meanwhile_is_made_again(whole: Trajectories, bundle: Path, tmp_path: Path) -> None:
    folder = stopped(bundle, tmp_path / "calib")
    shard = folder / "result/run-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    (folder / "result/run-00001.safetensors").unlink()
    (folder / "result/run-00002.safetensors.partial").write_bytes(b"half")
    again = Pretence()
    small(bundle, tmp_path / "calib", again)
    assert again.calls == CALLS
    assert tree(tmp_path) == {f"calib/{name}": content for name, content in tree(whole.root).items()}


def test_another_request_does_not_go_on(whole: Trajectories, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "calib"
    stopped(bundle, out)
    before = tree(tmp_path)
    for other, difference in (
        ({"seed": 1}, "made seed 0 there, 1 here"),
        ({"runs": 2}, "runs 3 there, 2 here"),
        ({"samples": 2}, "made samples 3 there, 2 here"),
        ({"steps": 5}, f"steps {STEPS} there, 5 here"),
        ({"solver": "ddim"}, "solver .* there, ddim here"),
        ({"max_mb": 255}, "made max_mb 256 there, 255 here"),
    ):
        with pytest.raises(RequestError, match=rf"holds unfinished work of another request \({difference}"):
            small(bundle, out, **other)
    other_data = patches()
    other_data.physical["DEM_DEM"][0, 0, 0, 0] += 1
    asked: dict[str, Any] = {"runs": RUNS, "samples": SAMPLES, "steps": STEPS, "max_mb": 256}
    with pytest.raises(RequestError, match="data DEM_DEM has another SHA-256"):
        record(pretend(bundle), other_data, out, **asked)
    with pytest.raises(RequestError, match="bundle has another SHA-256"):
        pipeline = pretend(bundle)
        object.__setattr__(pipeline.bundle, "digest", "0" * 64)
        record(pipeline, patches(), out, **asked)
    assert tree(tmp_path) == before
    assert tree(small(bundle, out).root) == tree(whole.root)


def test_what_is_finished_is_refused(whole: Trajectories, bundle: Path) -> None:
    before = tree(whole.root)
    for other in ({}, {"seed": 1}):
        with pytest.raises(RequestError, match="calib holds a finished recording; name a new folder"):
            small(bundle, whole.root, **other)
    assert tree(whole.root) == before


def test_a_folder_of_something_else_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "mine").write_text("kept")
    with pytest.raises(RequestError, match="calib holds something already; name a new folder"):
        small(bundle, tmp_path / "calib")
    assert tree(tmp_path) == {"calib/mine": b"kept"}


def test_two_at_once(whole: Trajectories, bundle: Path, tmp_path: Path) -> None:
    refused = []

    def meet(number: int) -> None:
        if number == CALLS // 2:
            with pytest.raises(RequestError, match=r"is at work on .*calib; wait until it is done"):
                small(bundle, tmp_path / "calib")
            refused.append(number)

    small(bundle, tmp_path / "calib", Pretence(meet))
    assert refused and tree(tmp_path / "calib") == tree(whole.root)


def test_a_full_disk(whole: Trajectories, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, writes = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        writes.append(path)
        if len(writes) == 2:
            write(path, content[:1000])
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CopgenError, match=r"run-00001.* \(No space left on device\).* run the same request again"):
        small(bundle, tmp_path / "calib")
    assert not (tmp_path / "calib").exists()
    small(bundle, tmp_path / "calib")
    assert tree(tmp_path / "calib") == tree(whole.root)


def test_a_disk_with_too_little_room_is_told_of_before_the_work(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3_000_000})())
    backend = Pretence()
    with pytest.raises(RequestError, match="has 3 MB free and the recording needs up to 6 MB; make room"):
        small(bundle, tmp_path / "calib", backend)
    assert not backend.calls and not list(tmp_path.iterdir())


def test_what_half_precision_cannot_hold(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"is given latents? up to .* in float32, and half precision, which"):
        small(bundle, tmp_path / "calib", Pretence(scale=1e6))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"runs": 0}, "found 0 runs, expected a whole number from 1"),
        ({"samples": 0}, "found 0 samples, expected a whole number from 1"),
        ({"samples": True}, "found True samples"),
        ({"steps": 0}, "found 0 steps"),
        ({"solver": "euler"}, "unknown solver 'euler'"),
        ({"seed": -1}, "found seed -1"),
    ],
)
def test_what_is_refused(bundle: Path, tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        small(bundle, tmp_path / "calib", **asked)
    assert not list(tmp_path.iterdir())


def test_halves_are_no_measure(bundle: Path, tmp_path: Path) -> None:
    backend = Pretence()
    backend.precision = "fp16"
    with pytest.raises(RequestError, match="found a pipeline in fp16, expected fp32"):
        small(bundle, tmp_path / "calib", backend)


def test_data_and_bundles_that_lack_something(bundle: Path, tmp_path: Path) -> None:
    """What the data lacks, or the bundle cannot encode, is never given, and the user is told what has no rows."""
    lacking = ("encoder_DEM_DEM", "decoder_S2L2A_B01_B09")
    pipeline, said = pretend(bundle, without=lacking), []
    truth = patches(without=("mean_timestamps", "LULC_LULC"))
    found = record(pipeline, truth, tmp_path / "calib", max_mb=256, runs=4, steps=1, say=said.append)
    rows = Counter(entry.component for run in found.runs for entry in run.entries)
    assert set(COMPONENTS) - set(rows) == {*lacking, "encoder_LULC_LULC"}
    assert "no inputs of encoder_LULC_LULC: the data does not have them" in said
    for run in found.runs:
        assert "given" not in {run.roles[key] for key in ("mean_timestamps", "LULC_LULC", "DEM_DEM")}
    assert {run.roles["S1RTC_vh_vv"] for run in found.runs} == set(ROLES)
    with pytest.raises(RequestError, match="lacks the component dit_step"):
        record(pretend(bundle, without=(STEP,)), truth, tmp_path / "other", max_mb=256)


def test_few_runs_are_told_of(bundle: Path, tmp_path: Path) -> None:
    said: list[str] = []
    small(bundle, tmp_path / "calib", runs=1, samples=1, steps=1, say=said.append)
    assert "under 4 runs not every modality is given, generated and absent in some" in said


def test_progress_counts_all_calls(bundle: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    small(bundle, tmp_path / "calib", progress=lambda *words: heard.append(words))
    assert {(what, total) for what, _, total in heard} == {("record", CALLS)}
    done = [count for _, count, _ in heard]
    assert done == sorted(done) and done[-1] == CALLS
