"""Encode, denoise, decode on the exported components: who plays which part, and what a result may depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime import Pipeline, transforms
from copgen_edge.runtime.backends import Arrays, Backend, create_backend
from copgen_edge.runtime.backends.host_loop import denoise_on_host
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import BundleError, NonFiniteError, RequestError
from copgen_edge.runtime.modalities import FAMILIES, IMAGE_KEYS, JOINT_SLICES, KEYS, get
from copgen_edge.runtime.noise import latent_noise
from copgen_edge.runtime.parity import compare
from copgen_edge.runtime.solver import SOLVERS, Plan, make_plan
from numpy.typing import NDArray

PLACE, DATE = "3d_cartesian_lat_lon", "mean_timestamps"
SMALL = "S2L2A_B01_B09"
"""The smallest image, where a test needs some image."""

Floats = NDArray[np.float32]
Latents = dict[str, Floats]
Physical = dict[str, NDArray[Any]]
Edit = Callable[[str, int, Latents], Latents]
"""Outputs in place of those of the n-th call of a component: edit(component, n, outputs)."""


class Watched:
    """A real backend that is watched, and whose outputs a test may spoil by ``edit``."""

    def __init__(self, backend: Backend, edit: Edit | None = None) -> None:
        self._backend = backend
        self._edit = edit
        self.name, self.precision, self.reason = backend.name, backend.precision, backend.reason
        self.check = backend.check
        self.calls: list[tuple[str, dict[str, NDArray[Any]]]] = []
        self.events: list[tuple[str, str]] = []

    def run(self, component: str, inputs: Arrays) -> Latents:
        self.events.append(("run", component))
        self.calls.append((component, {name: values.copy() for name, values in inputs.items()}))
        outputs = self._backend.run(component, inputs)
        if self._edit is None:
            return outputs
        return self._edit(component, sum(name == component for name, _ in self.calls), outputs)

    def denoise(
        self,
        plan: Plan,
        latents: Floats,
        times: Floats,
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
    ) -> Floats:
        return denoise_on_host(self, plan, latents, times, moving, report)

    def load(self, component: str) -> None:
        self.events.append(("load", component))
        self._backend.load(component)

    def release(self, component: str) -> None:
        self.events.append(("release", component))
        self._backend.release(component)

    def describe(self) -> dict[str, Any]:
        return self._backend.describe()

    def steps(self) -> list[dict[str, NDArray[Any]]]:
        return [inputs for component, inputs in self.calls if component == STEP]


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def backend(opened: Bundle) -> Backend:
    """One backend for the whole file, so that every test runs on sessions that served others before."""
    return create_backend(opened, "onnxruntime-cpu", precision="fp32")


@pytest.fixture(scope="module")
def pipeline(opened: Bundle, backend: Backend) -> Pipeline:
    return Pipeline(opened, backend)


@pytest.fixture
def watched(backend: Backend) -> Watched:
    return Watched(backend)


def noise_for(keys: Iterable[str], rows: int, seed: int = 1, purpose: str = "probe") -> Latents:
    return {key: latent_noise(key, rows, seed=seed, purpose=purpose) for key in keys}


def given(rows: int = 1) -> Physical:
    """Physical conditions that are cheap to encode, every row another."""
    generator = np.random.default_rng(11)
    return {
        "DEM_DEM": generator.uniform(0, 3000, (rows, 1, 64, 64)),
        "S2L1C_B01_B09_B10": generator.integers(1, 9000, (rows, 3, 32, 32), np.uint16),
        DATE: np.array([(2019 + row, 2, 3 + row) for row in range(rows)]),
    }


def same(found: Mapping[str, NDArray[np.generic]], expected: Mapping[str, NDArray[np.generic]]) -> None:
    assert list(found) == list(expected)
    for key in found:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def close(found: Mapping[str, NDArray[np.generic]], expected: Mapping[str, NDArray[np.generic]]) -> None:
    """Equal to 1e-6 of relative L2: an engine may add in another order where a call has another number of rows."""
    assert list(found) == list(expected)
    for key in found:
        assert compare(found[key], expected[key]).relative_l2 <= 1e-6, key


def random_splits(count: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Splits of the twelve in given, asked for, and absent."""
    generator = np.random.default_rng(2603)
    splits: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    while len(splits) < count:
        parts = generator.integers(0, 3, len(KEYS))
        split = tuple(tuple(key for key, part in zip(KEYS, parts, strict=True) if part == which) for which in (0, 1))
        if split[1]:
            splits.append((split[0], split[1]))
    return splits


SPLITS = [
    ((), KEYS),
    ((), (PLACE,)),
    ((), ("S1RTC_vh_vv",)),
    ((PLACE, DATE), IMAGE_KEYS),
    (IMAGE_KEYS, (DATE, PLACE)),
    (KEYS[1:], (PLACE,)),
    (KEYS[:-1], (DATE,)),
    (("DEM_DEM",), ("LULC_LULC",)),
    *random_splits(12),
]


@pytest.mark.parametrize(("conditions", "outputs"), SPLITS)
def test_every_modality_plays_its_part(
    opened: Bundle, watched: Watched, conditions: tuple[str, ...], outputs: tuple[str, ...]
) -> None:
    rows, steps = 2, 2
    absent = [key for key in KEYS if key not in conditions and key not in outputs]
    clean, initial, held = (noise_for(keys, rows, seed) for seed, keys in enumerate((conditions, outputs, absent)))
    before = {key: values.copy() for key, values in clean.items()}
    found = Pipeline(opened, watched).denoise(clean, outputs, steps=steps, initial_noise=initial, absent_noise=held)
    assert tuple(found) == tuple(key for key in KEYS if key in outputs)
    same(clean, before)
    calls = watched.steps()
    plan = make_plan(opened.manifest.solver, steps)
    assert len(calls) == steps
    for k, inputs in enumerate(calls):
        assert inputs["latents"].shape == (rows, 26_118)
        assert inputs["timesteps"].shape == (rows, 12)
        for index, key in enumerate(KEYS):
            state = inputs["latents"][:, JOINT_SLICES[key]].reshape(rows, *get(key).latent_shape)
            times = inputs["timesteps"][:, index]
            if key in conditions:
                assert (times == 0).all()
                np.testing.assert_array_equal(state, clean[key])
            elif key in absent:
                assert (times == 1000).all()
                np.testing.assert_array_equal(state, held[key])
            else:
                np.testing.assert_allclose(times, 1000 * plan.times[k], rtol=1e-6)
                assert np.array_equal(state, initial[key]) == (k == 0)
    for key in outputs:
        assert found[key].shape == (rows, *get(key).latent_shape)
        assert found[key].dtype == np.float32
        assert np.isfinite(found[key]).all()
        assert not np.isclose(found[key], initial[key]).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_loop_does_what_the_plan_says(pipeline: Pipeline, backend: Backend, solver: str, steps: int) -> None:
    """The plan's formula once more, in float64, with every modality moving."""
    start = noise_for(KEYS, 1, 3)
    x = np.concatenate([start[key].reshape(1, -1) for key in KEYS], axis=1).astype(np.float64)
    plan = make_plan(solver, steps)
    anchor = x
    history: list[NDArray[np.float64]] = []
    for k in range(steps):
        times = np.full((1, 12), 1000 * plan.times[k], np.float32)
        noise = backend.run(STEP, {"latents": x.astype(np.float32), "timesteps": times})["noise"]
        anchor = x if plan.begins[k] else anchor
        history = [(x - plan.sigma[k] * noise) / plan.alpha[k], *history][:3]
        x = plan.anchor[k] * anchor + sum(w * m for w, m in zip(plan.history[k], history, strict=False))
    found = pipeline.denoise({}, KEYS, steps=steps, solver=solver, initial_noise=start)
    for key in KEYS:
        assert compare(found[key].reshape(1, -1), x[:, JOINT_SLICES[key]]).relative_l2 <= 1e-5, key


def test_the_order_of_the_names_changes_nothing(pipeline: Pipeline) -> None:
    conditions = noise_for(("DEM_DEM", DATE), 1)
    turned = dict(reversed(conditions.items()))
    one = pipeline.denoise(conditions, [PLACE, SMALL], steps=2)
    same(pipeline.denoise(turned, [SMALL, PLACE], steps=2), one)
    assert list(one) == [PLACE, SMALL]


def test_a_condition_an_absent_one_and_their_noise_all_count(pipeline: Pipeline) -> None:
    conditions, initial = noise_for(["DEM_DEM"], 1, 1), noise_for([SMALL], 1, 2)
    absent = noise_for([key for key in KEYS if key not in ("DEM_DEM", SMALL)], 1, 3)

    def run(condition: Latents, start: Latents, held: Latents) -> Floats:
        return pipeline.denoise(condition, [SMALL], steps=2, initial_noise=start, absent_noise=held)[SMALL]

    base = run(conditions, initial, absent)
    np.testing.assert_array_equal(base, run(conditions, initial, absent))
    for changed in (
        run(noise_for(["DEM_DEM"], 1, 4), initial, absent),
        run(conditions, noise_for([SMALL], 1, 4), absent),
        run(conditions, initial, noise_for(absent, 1, 4)),
    ):
        assert compare(changed, base).relative_l2 > 1e-4


def test_noise_that_is_not_given_is_the_seeds(pipeline: Pipeline) -> None:
    conditions = noise_for(["DEM_DEM"], 3)
    absent = [key for key in KEYS if key not in ("DEM_DEM", SMALL)]
    explicit = pipeline.denoise(
        conditions,
        [SMALL],
        steps=2,
        initial_noise=noise_for([SMALL], 3, 9, "initial"),
        absent_noise=noise_for(absent, 3, 9, "absent"),
    )
    same(pipeline.denoise(conditions, [SMALL], steps=2, seed=9), explicit)
    assert not np.isclose(pipeline.denoise(conditions, [SMALL], steps=2, seed=10)[SMALL], explicit[SMALL]).all()
    some = pipeline.denoise(conditions, [SMALL], steps=2, seed=9, absent_noise=noise_for(absent[:3], 3, 9, "absent"))
    same(some, explicit)


def test_steps_and_solver_default_to_the_manifests(opened: Bundle, watched: Watched) -> None:
    other = replace(opened, manifest=replace(opened.manifest, steps=3, solver="dpmpp-2m"))
    pipeline = Pipeline(other, watched)
    default = pipeline.denoise({}, [PLACE])
    assert len(watched.steps()) == 3
    same(pipeline.denoise({}, [PLACE], steps=3, solver="dpmpp-2m"), default)
    assert not np.isclose(pipeline.denoise({}, [PLACE], solver="ddim")[PLACE], default[PLACE]).all()
    watched.calls.clear()
    same(pipeline.generate({}, [PLACE]), pipeline.generate({}, [PLACE], steps=3, solver="dpmpp-2m"))
    assert len(watched.steps()) == 6


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_the_batch_changes_nothing(opened: Bundle, watched: Watched, pipeline: Pipeline, batch: int) -> None:
    conditions = given(2)
    outputs = (PLACE, SMALL, "S2L2A_B05_B06_B07_B11_B12_B8A")
    whole = Pipeline(opened, watched, batch=6).generate(conditions, outputs, samples=3, steps=2)
    assert [len(inputs["latents"]) for inputs in watched.steps()] == [6, 6]
    watched.calls.clear()
    parts = Pipeline(opened, watched, batch=batch).generate(conditions, outputs, samples=3, steps=2)
    assert max(len(next(iter(inputs.values()))) for _, inputs in watched.calls) == batch
    assert sum(len(inputs["latents"]) for inputs in watched.steps()) == 12
    close(parts, whole)


def test_sample_s_of_condition_n_is_row_n_samples_plus_s(pipeline: Pipeline) -> None:
    conditions, samples = given(2), 3
    together = pipeline.generate(conditions, [PLACE, SMALL], samples=samples, steps=2, seed=4)
    assert together[SMALL].shape == (6, 2, 32, 32)
    for n in range(2):
        own = {key: values[n : n + 1] for key, values in conditions.items()}
        alone = pipeline.generate(own, [PLACE, SMALL], samples=samples, steps=2, seed=4)
        close(alone, {key: values[n * samples : (n + 1) * samples] for key, values in together.items()})
    rows = together[SMALL].reshape(6, -1)
    assert all(compare(rows[i], rows[j]).relative_l2 > 1e-4 for i in range(6) for j in range(i))


def test_a_sample_does_not_depend_on_how_many_there_are(pipeline: Pipeline) -> None:
    conditions = given(2)
    one = pipeline.generate(conditions, [SMALL, PLACE], samples=1, steps=2, seed=4)
    three = pipeline.generate(conditions, [SMALL, PLACE], samples=3, steps=2, seed=4)
    close(one, {key: values[::3] for key, values in three.items()})


def test_the_same_seed_gives_the_same_and_another_another(opened: Bundle, pipeline: Pipeline) -> None:
    one = pipeline.generate(given(), [PLACE, SMALL], samples=2, steps=2, seed=4)
    fresh = Pipeline.load(opened.root, backend="onnxruntime-cpu")
    same(fresh.generate(given(), [PLACE, SMALL], samples=2, steps=2, seed=4), one)
    other = pipeline.generate(given(), [PLACE, SMALL], samples=2, steps=2, seed=5)
    assert compare(other[SMALL], one[SMALL]).relative_l2 > 1e-3
    assert not np.isclose(other[PLACE].astype(float), one[PLACE].astype(float)).all()


def test_generate_is_encode_denoise_decode_in_physical_units(pipeline: Pipeline) -> None:
    conditions, samples, seed = given(2), 2, 13
    found = pipeline.generate(conditions, [SMALL, "place"], samples=samples, steps=3, seed=seed)
    latents = {}
    for key, values in conditions.items():
        draw = latent_noise(key, 1, seed=seed, purpose="posterior").repeat(2, axis=0)
        latents[key] = pipeline.encode(key, transforms.to_model(key, values), draw).repeat(samples, axis=0)
    outputs = [SMALL, PLACE]
    drawn = pipeline.denoise(
        latents,
        outputs,
        steps=3,
        initial_noise={k: np.tile(v, (2, 1, 1, 1)) for k, v in noise_for(outputs, 2, seed, "initial").items()},
        absent_noise={
            k: np.tile(v, (2, 1, 1, 1))
            for k, v in noise_for([k for k in KEYS if k not in (*outputs, *conditions)], 2, seed, "absent").items()
        },
    )
    same(found, {key: transforms.to_physical(key, pipeline.decode(key, drawn[key])) for key in (PLACE, SMALL)})
    assert found[PLACE].dtype == np.float64
    assert found[SMALL].dtype == np.float32


def test_generate_is_latents_and_what_they_are_in_physical_units(opened: Bundle, watched: Watched) -> None:
    pipeline = Pipeline(opened, watched)
    conditions, asked = given(2), {"samples": 2, "steps": 2, "seed": 4, "solver": "ddim"}
    latents = pipeline.generate_latents(conditions, ["place", SMALL], **asked)
    assert {key: values.shape for key, values in latents.items()} == {PLACE: (4, 1, 1, 3), SMALL: (4, 8, 4, 4)}
    assert not any(component.startswith("decoder") for component, _ in watched.calls)
    before, heard = len(watched.calls), []
    found = pipeline.to_physical(latents, progress=lambda *event: heard.append(event))
    assert {component for component, _ in watched.calls[before:]} == {f"decoder_{SMALL}"}
    assert heard == [("decode", done, 2) for done in (0, 1, 1, 2)]
    same(found, pipeline.generate(conditions, ["place", SMALL], **asked))


def test_what_has_no_physical_units(opened: Bundle, watched: Watched) -> None:
    pipeline = Pipeline(opened, watched)
    assert pipeline.to_physical({}) == {}
    for latents, match in (
        ({"S2L2A": np.zeros((1, 8, 4, 4))}, "unknown modality 'S2L2A'"),
        ({SMALL: np.zeros((1, 8, 8, 8))}, r"S2L2A_B01_B09: found an array of shape \(1, 8, 8, 8\)"),
        ({PLACE: np.full((1, 1, 1, 3), np.nan)}, "3d_cartesian_lat_lon: found NaN or infinity"),
    ):
        refused(lambda latents=latents: pipeline.to_physical(latents), match, watched)


def test_families_are_outputs_too(pipeline: Pipeline) -> None:
    found = pipeline.generate({}, ["date", "place", PLACE], steps=1)
    assert list(found) == [PLACE, DATE]
    assert found[PLACE].shape == (1, 2)
    assert found[DATE].shape == (1, 3)
    assert FAMILIES["date"] == (DATE,)


def test_the_mean_of_the_posterior_and_a_draw_from_it(pipeline: Pipeline, backend: Backend, opened: Bundle) -> None:
    image = np.clip(np.random.default_rng(0).normal(size=(2, 2, 32, 32)), -1, 1).astype(np.float32)
    noise = latent_noise(SMALL, 2, seed=1, purpose="posterior")
    mean, log_variance = np.split(backend.run(f"encoder_{SMALL}", {"image": image})["moments"], 2, axis=1)
    factor = opened.scale_factors[SMALL]
    assert factor == pytest.approx(0.571367)
    np.testing.assert_allclose(pipeline.encode(SMALL, image), factor * mean, rtol=1e-6)
    np.testing.assert_array_equal(pipeline.encode(SMALL, image, np.zeros_like(noise)), pipeline.encode(SMALL, image))
    expected = factor * (mean + np.exp(log_variance / 2) * noise)
    np.testing.assert_allclose(pipeline.encode(SMALL, image, noise), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("log_variance", "clamped"), [(1000.0, 20.0), (-1000.0, -30.0), (3.0, 3.0)])
def test_the_posteriors_variance_is_clamped(
    opened: Bundle, backend: Backend, log_variance: float, clamped: float
) -> None:
    def spoil(component: str, call: int, outputs: Latents) -> Latents:
        moments = outputs["moments"].copy()
        moments[:, 8:] = log_variance
        return {"moments": moments}

    pipeline = Pipeline(opened, Watched(backend, spoil))
    image, ones = np.zeros((1, 2, 32, 32), np.float32), np.ones((1, 8, 4, 4), np.float32)
    spread = (pipeline.encode(SMALL, image, ones) - pipeline.encode(SMALL, image)) / opened.scale_factors[SMALL]
    np.testing.assert_allclose(spread, np.exp(clamped / 2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("key", [PLACE, DATE])
def test_a_scalar_is_its_own_latent(pipeline: Pipeline, key: str) -> None:
    values = np.random.default_rng(0).normal(size=(2, 1, 1, 3)).astype(np.float32)
    np.testing.assert_array_equal(pipeline.encode(key, values), values)
    np.testing.assert_array_equal(pipeline.decode(key, values), values)


def test_a_session_answers_the_input_of_the_call_and_not_of_the_first(pipeline: Pipeline) -> None:
    one, other = noise_for([SMALL], 1, 1)[SMALL], noise_for([SMALL], 1, 2)[SMALL]
    first = pipeline.decode(SMALL, one)
    second = pipeline.decode(SMALL, other)
    assert compare(second, first).relative_l2 > 1e-3
    np.testing.assert_array_equal(pipeline.decode(SMALL, one), first)


def test_low_memory_holds_one_component_at_a_time_and_changes_nothing(opened: Bundle, pipeline: Pipeline) -> None:
    outputs = [PLACE, "DEM_DEM", SMALL]
    conditions = {key: value for key, value in given(2).items() if key not in outputs}
    conditions["S2L1C_B05_B06_B07_B11_B12_B8A"] = np.full((2, 6, 96, 96), 2000.0)
    watched = Watched(create_backend(opened, "onnxruntime-cpu"))
    found = Pipeline(opened, watched, low_memory=True, batch=2).generate(conditions, outputs, samples=2, steps=2)
    same(found, Pipeline(opened, pipeline.backend, batch=2).generate(conditions, outputs, samples=2, steps=2))
    held: set[str] = set()
    for event, component in watched.events:
        if event == "release":
            held.remove(component)
        else:
            held.add(component)
        assert len(held) <= 1, (held, event, component)
    assert held == set()
    assert {component for event, component in watched.events if event == "release"} == {
        "encoder_S2L1C_B01_B09_B10",
        "encoder_S2L1C_B05_B06_B07_B11_B12_B8A",
        STEP,
        "decoder_DEM_DEM",
        f"decoder_{SMALL}",
    }


def test_without_low_memory_sessions_are_kept(opened: Bundle, watched: Watched) -> None:
    Pipeline(opened, watched).generate({}, [SMALL], steps=1)
    assert not [component for event, component in watched.events if event == "release"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_network_that_fails_is_named_with_its_step(opened: Bundle, backend: Backend, bad: float) -> None:
    def spoil(component: str, call: int, outputs: Latents) -> Latents:
        if component == STEP and call == 2:
            outputs["noise"][0, JOINT_SLICES[PLACE].start] = bad
        return outputs

    pipeline = Pipeline(opened, Watched(backend, spoil))
    with pytest.raises(NonFiniteError, match=r"dit_step \(fp32\) gave NaN or infinity at step 2 of 4") as caught:
        pipeline.denoise({}, [PLACE], steps=4)
    assert "\n" not in str(caught.value)
    # A modality that is not asked for is not moved, so what the network says of it does not matter.
    fresh = Pipeline(opened, Watched(backend, spoil))
    assert np.isfinite(fresh.denoise({}, [SMALL], steps=4)[SMALL]).all()


@pytest.mark.parametrize("component", ["encoder_DEM_DEM", f"decoder_{SMALL}"])
def test_an_autoencoder_that_fails_is_named(opened: Bundle, backend: Backend, component: str) -> None:
    def spoil(name: str, call: int, outputs: Latents) -> Latents:
        if name == component:
            next(iter(outputs.values())).flat[-1] = np.nan
        return outputs

    pipeline = Pipeline(opened, Watched(backend, spoil))
    with pytest.raises(NonFiniteError, match=rf"{component} \(fp32\) gave NaN or infinity; nothing was written"):
        pipeline.generate({"DEM_DEM": np.ones((1, 1, 64, 64))}, [SMALL], steps=1)


def test_progress_counts_each_stage_to_its_end(opened: Bundle, backend: Backend) -> None:
    heard: list[tuple[str, int, int]] = []
    conditions = given(2)
    Pipeline(opened, backend, batch=3).generate(
        conditions, [PLACE, SMALL], samples=2, steps=3, progress=lambda *event: heard.append(event)
    )
    assert heard == [
        *(("encode", done, 3) for done in (0, 1, 1, 2, 2, 3)),
        # Four rows in batches of three: two loops of three calls.
        *(("denoise", done, 6) for done in (0, 1, 2, 3, 4, 5, 6)),
        *(("decode", done, 2) for done in (0, 1, 1, 2)),
    ]


def refused(call: Callable[[], object], match: str, watched: Watched) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not watched.calls, "a request that is refused must cost nothing"


LATENT = np.zeros((2, 8, 8, 8), np.float32)
ELEVATION = np.ones((1, 1, 64, 64))


@pytest.mark.parametrize(
    ("conditions", "outputs", "extra", "match"),
    [
        ({}, [], {}, "nothing to generate"),
        ({}, ["S2L2A_B02"], {}, "unknown modality 'S2L2A_B02'"),
        ({}, ["DEM"], {}, "unknown modality 'DEM'"),
        ({"DEM": LATENT}, [PLACE], {}, "unknown modality 'DEM'"),
        ({"DEM_DEM": LATENT}, ["DEM_DEM", PLACE], {}, "DEM_DEM is both given and asked for"),
        ({}, [PLACE, PLACE], {}, "named twice"),
        ({"DEM_DEM": LATENT[0]}, [PLACE], {}, r"DEM_DEM: found an array of shape \(8, 8, 8\)"),
        (
            {"DEM_DEM": LATENT[:, :4]},
            [PLACE],
            {},
            r"shape \(2, 4, 8, 8\), expected \(2, 8, 8, 8\)",
        ),
        ({"DEM_DEM": LATENT[:0]}, [PLACE], {}, r"DEM_DEM: found an array of shape \(0, 8, 8, 8\)"),
        ({"DEM_DEM": 3.0}, [PLACE], {}, r"DEM_DEM: found an array of shape \(\)"),
        ({"DEM_DEM": LATENT * np.nan}, [PLACE], {}, "DEM_DEM: found NaN or infinity"),
        ({"DEM_DEM": LATENT, DATE: np.zeros((3, 1, 1, 3))}, [PLACE], {}, "differ in their rows.*DEM_DEM': 2.*': 3"),
        ({}, [PLACE], {"initial_noise": {DATE: np.zeros((1, 1, 1, 3))}}, f"initial noise was given for {DATE}"),
        ({}, [PLACE], {"absent_noise": {PLACE: np.zeros((1, 1, 1, 3))}}, f"absent noise was given for {PLACE}"),
        ({"DEM_DEM": LATENT}, [PLACE], {"absent_noise": {"DEM_DEM": LATENT}}, "absent noise was given for DEM_DEM"),
        ({"DEM_DEM": LATENT}, [PLACE], {"initial_noise": {PLACE: np.zeros((1, 1, 1, 3))}}, "differ in their rows"),
        ({}, [PLACE], {"initial_noise": {PLACE: np.full((1, 1, 1, 3), np.inf)}}, "found NaN or infinity"),
        ({}, [PLACE], {"seed": -1}, "seed -1"),
        ({}, [PLACE], {"steps": 0}, "found 0 steps"),
        ({}, [PLACE], {"steps": 2.5}, "found 2.5 steps"),
        ({}, [PLACE], {"solver": "euler"}, "unknown solver 'euler'"),
        ({}, [PLACE], {"solver": ""}, "unknown solver ''"),
    ],
)
def test_what_denoise_refuses(
    opened: Bundle,
    watched: Watched,
    conditions: dict[str, Any],
    outputs: list[str],
    extra: dict[str, Any],
    match: str,
) -> None:
    refused(lambda: Pipeline(opened, watched).denoise(conditions, outputs, **extra), match, watched)


@pytest.mark.parametrize(
    ("conditions", "outputs", "extra", "match"),
    [
        ({}, [], {}, "nothing to generate"),
        ({}, ["S2"], {}, "unknown modality 'S2'; families are"),
        ({"DEM": ELEVATION}, [PLACE], {}, "unknown modality 'DEM'; keys are"),
        ({"DEM_DEM": ELEVATION}, ["DEM", "place"], {}, "DEM_DEM is both given and asked for"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"samples": 0}, "found 0 samples"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"samples": -1}, "found -1 samples"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"samples": True}, "found True samples"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"samples": 1.5}, "found 1.5 samples"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"steps": 0}, "found 0 steps"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"solver": "euler"}, "unknown solver"),
        ({"DEM_DEM": ELEVATION}, ["place"], {"seed": 2**64}, "found seed"),
        ({"DEM_DEM": ELEVATION[:, :, :8]}, ["place"], {}, r"expected \(rows, 1, 64, 64\)"),
        ({"DEM_DEM": ELEVATION[:0]}, ["place"], {}, r"\(0, 1, 64, 64\)"),
        ({"DEM_DEM": ELEVATION * np.nan}, ["place"], {}, "DEM_DEM: found NaN or infinity"),
        ({"DEM_DEM": ELEVATION, DATE: [(2020, 1, 1)] * 2}, ["place"], {}, "conditions differ in their rows"),
        ({"DEM_DEM": ELEVATION, DATE: [(2021, 2, 29)]}, ["place"], {}, "calendar"),
    ],
)
def test_what_generate_refuses(
    opened: Bundle,
    watched: Watched,
    conditions: dict[str, Any],
    outputs: list[str],
    extra: dict[str, Any],
    match: str,
) -> None:
    refused(lambda: Pipeline(opened, watched).generate(conditions, outputs, **extra), match, watched)


def test_what_encode_and_decode_refuse(opened: Bundle, watched: Watched) -> None:
    pipeline = Pipeline(opened, watched)
    image, latent = np.zeros((2, 2, 32, 32)), np.zeros((2, 8, 4, 4))
    for call, match in (
        (lambda: pipeline.encode("S2L2A", image), "unknown modality 'S2L2A'"),
        (lambda: pipeline.encode(SMALL, image[0]), r"found an array of shape \(2, 32, 32\)"),
        (lambda: pipeline.encode(SMALL, image[:, :1]), r"expected \(rows, 2, 32, 32\)"),
        (lambda: pipeline.encode("LULC_LULC", np.zeros((1, 1, 192, 192))), r"expected \(rows, 10, 192, 192\)"),
        (lambda: pipeline.encode(SMALL, image * np.nan), "NaN or infinity"),
        (lambda: pipeline.encode(SMALL, image, latent[:1]), r"expected \(2, 8, 4, 4\)"),
        (lambda: pipeline.encode(SMALL, image, latent + np.inf), "NaN or infinity"),
        (lambda: pipeline.decode(SMALL, image), r"expected \(rows, 8, 4, 4\)"),
        (lambda: pipeline.decode(SMALL, latent * np.nan), "NaN or infinity"),
        (lambda: pipeline.decode("nothing", latent), "unknown modality 'nothing'"),
    ):
        refused(call, match, watched)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "4"])
def test_a_batch_that_is_none_is_refused(bundle: Path, batch: Any) -> None:
    with pytest.raises(RequestError, match="found batch"):
        Pipeline.load(bundle, backend="onnxruntime-cpu", batch=batch)


def test_a_component_that_is_missing_is_found_out_first(copy_part: Callable[..., Path]) -> None:
    opened = Bundle.open(copy_part("encoder_DEM_DEM", STEP))
    watched = Watched(create_backend(opened, "onnxruntime-cpu"))
    pipeline = Pipeline(opened, watched)
    with pytest.raises(BundleError, match="lacks the component decoder_LULC_LULC"):
        pipeline.generate({"DEM_DEM": ELEVATION}, ["LULC", "place"], steps=1)
    with pytest.raises(BundleError, match="lacks the component encoder_LULC_LULC"):
        pipeline.generate({"LULC_LULC": np.ones((1, 1, 192, 192), np.uint8)}, ["place"], steps=1)
    assert not watched.events
    # What is there is enough for what needs no more.
    assert pipeline.generate({"DEM_DEM": ELEVATION}, ["place", "date"], steps=1)[PLACE].shape == (1, 2)


def test_a_bundle_without_a_network_still_encodes(copy_part: Callable[..., Path]) -> None:
    pipeline = Pipeline.load(copy_part("encoder_DEM_DEM"), backend="onnxruntime-cpu")
    assert pipeline.encode("DEM_DEM", np.zeros((1, 1, 64, 64))).shape == (1, 8, 8, 8)
    with pytest.raises(BundleError, match="lacks the component dit_step"):
        pipeline.denoise({}, [PLACE], steps=1)
    with pytest.raises(BundleError, match="lacks the component dit_step"):
        pipeline.generate({}, [PLACE], steps=1)
