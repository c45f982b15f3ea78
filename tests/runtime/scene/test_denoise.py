"""Joint denoising and decoding, with the exported network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import NonFiniteError
from copgen_edge.runtime.modalities import JOINT_SLICES, get
from copgen_edge.runtime.pipeline import Pipeline
from copgen_edge.runtime.scene.decode import decode_strips
from copgen_edge.runtime.scene.denoise import denoise_scene
from copgen_edge.runtime.scene.draw import DATE, PLACE, Given, Layout, Windows, begin
from copgen_edge.runtime.scene.encode import encode_windows, given_place
from copgen_edge.runtime.solver import SOLVERS, PlanState, make_plan
from numpy.typing import NDArray

from .conftest import ArraySource, relief, scene_grid

OUTPUTS = ("S1RTC_vh_vv", "S2L2A_B05_B06_B07_B11_B12_B8A", DATE)


def given_relief(pipeline: Pipeline, layout: Layout) -> Given:
    source = ArraySource("DEM_DEM", layout.grid, relief(layout.grid))
    encoded = encode_windows(pipeline, layout, source, range(len(layout.windows)), seed=4)
    everywhere = np.ones(len(layout.windows), bool)
    return Given(
        {"DEM_DEM": encoded.latents, PLACE: given_place(pipeline, layout)},
        {"DEM_DEM": encoded.present, PLACE: everywhere},
    )


def draw(
    pipeline: Pipeline, layout: Layout, given: Given, *, sample: int = 0, batch: int = 4, solver: str = "dpmpp-3s"
) -> dict[str, NDArray[np.float32]]:
    windows = Windows(layout, given, seed=4, sample=sample)
    start = PlanState.begin(begin(layout, seed=4, sample=sample)[np.newaxis])
    flat = denoise_scene(pipeline.backend, make_plan(solver, 5), windows, start, batch=batch)
    return windows.split(flat)


def decoded(pipeline: Pipeline, layout: Layout, key: str, *samples: NDArray[np.float32]) -> NDArray[np.generic]:
    strips = list(decode_strips(pipeline, layout, key, samples))
    assert [first for first, _ in strips] == list(np.cumsum([0, *(part.shape[2] for _, part in strips[:-1])]))
    return np.concatenate([part for _, part in strips], axis=2)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_a_scene_of_one_window_is_generate_to_the_last_bit(pipeline: Pipeline, solver: str) -> None:
    layout = Layout(scene_grid(1920, 1920), 25, OUTPUTS)
    given = given_relief(pipeline, layout)
    expected = pipeline.generate(
        {"DEM_DEM": relief(layout.grid)[np.newaxis], PLACE: np.array([layout.grid.ground((0, 0)).center])},
        OUTPUTS,
        samples=3,
        steps=5,
        seed=4,
        solver=solver,
    )
    drawn = [draw(pipeline, layout, given, sample=sample, solver=solver) for sample in range(3)]
    for key in OUTPUTS[:2]:
        found = decoded(pipeline, layout, key, *(latents[key] for latents in drawn))
        np.testing.assert_array_equal(found, expected[key])


def test_the_batch_changes_a_scene_by_rounding_at_most(pipeline: Pipeline) -> None:
    layout = Layout(scene_grid(3840, 2400), 50, OUTPUTS)
    given = given_relief(pipeline, layout)
    one, many = draw(pipeline, layout, given, batch=1), draw(pipeline, layout, given, batch=7)
    for key in OUTPUTS:
        np.testing.assert_allclose(one[key], many[key], rtol=1e-4, atol=1e-4)


def test_windows_of_a_joint_draw_differ_from_windows_drawn_alone(pipeline: Pipeline) -> None:
    joint, tiles = (Layout(scene_grid(3840, 1920), overlap, OUTPUTS) for overlap in (25, 0))
    key = "S1RTC_vh_vv"
    a = draw(pipeline, joint, given_relief(pipeline, joint))[key]
    b = draw(pipeline, tiles, given_relief(pipeline, tiles))[key]
    assert a.shape == b.shape == (8, 24, 48)
    assert np.isfinite(a).all()
    assert np.abs(a - b).max() > 1e-3


def test_a_draw_taken_up_half_way_ends_as_it_would_have(pipeline: Pipeline) -> None:
    layout = Layout(scene_grid(2880, 1920), 25, OUTPUTS)
    windows = Windows(layout, given_relief(pipeline, layout), seed=4, sample=0)
    plan = make_plan("dpmpp-3s", 5)
    kept: list[PlanState] = []

    def keep(state: PlanState) -> None:
        kept.append(PlanState(state.done, state.x.copy(), state.anchor.copy(), [p.copy() for p in state.predictions]))

    start = PlanState.begin(begin(layout, seed=4, sample=0)[np.newaxis])
    whole = denoise_scene(pipeline.backend, plan, windows, start, batch=4, keep=keep)
    assert [state.done for state in kept] == [1, 2, 3, 4, 5]
    for state in kept[:4]:
        again = denoise_scene(pipeline.backend, plan, windows, state, batch=4)
        np.testing.assert_array_equal(again, whole)


def test_progress_counts_the_windows_of_all_calls(pipeline: Pipeline) -> None:
    layout = Layout(scene_grid(2880, 1920), 0, (DATE,))
    windows = Windows(layout, Given(), seed=0, sample=0)
    done: list[int] = []
    start = PlanState.begin(begin(layout, seed=0, sample=0)[np.newaxis])
    denoise_scene(pipeline.backend, make_plan("ddim", 2), windows, start, batch=1, report=done.append)
    assert done == [1, 2, 3, 4]


class Spoiled:
    """A backend whose network gives NaN for one window at one call."""

    def __init__(self, bundle: Path) -> None:
        self._real = Pipeline.load(bundle, backend="onnxruntime-cpu").backend
        self.precision, self.calls = "fp32", 0

    def run(self, component: str, inputs: dict[str, Any]) -> dict[str, Any]:
        out = self._real.run(component, inputs)
        self.calls += component == STEP
        if self.calls == 3:
            out["noise"][0, JOINT_SLICES["S1RTC_vh_vv"].start] = np.nan
        return out


def test_a_network_that_fails_is_named_with_its_step(bundle: Path) -> None:
    layout = Layout(scene_grid(1920, 1920), 0, OUTPUTS)
    windows = Windows(layout, Given(), seed=0, sample=0)
    start = PlanState.begin(begin(layout, seed=0, sample=0)[np.newaxis])
    with pytest.raises(NonFiniteError, match=r"dit_step \(fp32\) gave NaN or infinity at step 3 of 4"):
        denoise_scene(Spoiled(bundle), make_plan("ddim", 4), windows, start, batch=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [0, 25, 50])
@pytest.mark.parametrize("key", ["LULC_LULC", "S2L2A_B05_B06_B07_B11_B12_B8A"])
def test_strips_fill_a_scene_of_odd_size(pipeline: Pipeline, key: str, overlap: int) -> None:
    grid = scene_grid(2940, 2460)
    layout = Layout(grid, overlap, (key,))
    latents = layout.noise(key, seed=0, sample=0, purpose="probe")
    image = decoded(pipeline, layout, key, latents)[0]
    m = get(key)
    assert image.shape == (len(m.bands), *grid.shape(m.resolution))
    alone = pipeline.to_physical({key: layout.part(key, latents, 0).reshape(1, *m.latent_shape)})[key][0]
    # Where no other window reaches, the picture is that window's own, but for the rounding of another batch.
    free = m.size // 4
    np.testing.assert_allclose(image[:, :free, :free], alone[:, :free, :free], rtol=1e-3)
