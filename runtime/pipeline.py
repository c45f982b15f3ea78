"""Encode, denoise, decode: COP-GEN on NumPy arrays keyed by modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import transforms
from .backends import Backend, create_backend
from .bundle import Bundle
from .components import STEP
from .errors import NonFiniteError, RequestError
from .modalities import JOINT_SIZE, JOINT_SLICES, KEYS, get, resolve
from .noise import latent_noise
from .schedule import TRAIN_STEPS
from .solver import Plan, make_plan

if TYPE_CHECKING:
    from .raster.conditions import ReadOptions
    from .scene.arrays import GeoArray

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total) while the pipeline works."""

DEFAULT_BATCH = 4
"""Rows a call of a component, at most: it bounds memory, and changes results by float32 rounding at most."""


def _silent(what: str, done: int, total: int) -> None:
    pass


class Pipeline:
    """A bundle on a backend. Made by :meth:`load`."""

    def __init__(
        self, bundle: Bundle, backend: Backend, *, low_memory: bool = False, batch: int = DEFAULT_BATCH
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1:
            raise RequestError(f"found batch {batch!r}, expected a whole number from 1")
        self.bundle = bundle
        self.backend = backend
        self._low_memory = low_memory
        self.batch = batch

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        precision: str = "auto",
        max_drift: float | None = None,
        low_memory: bool = False,
        batch: int = DEFAULT_BATCH,
        threads: int = 0,
        cuda_graph: bool = True,
    ) -> Pipeline:
        """Open the folder ``bundle`` on ``backend`` (:data:`~copgen_edge.runtime.backends.BACKENDS`).

        Components load at first use; with ``low_memory`` each is released as soon as its part is done. The other
        arguments are :func:`~copgen_edge.runtime.backends.create_backend`'s. Raises :class:`BundleError` for a folder
        that is no whole bundle and :class:`BackendError` where the backend cannot run.
        """
        opened = Bundle.open(bundle)
        runner = create_backend(
            opened, backend, precision=precision, max_drift=max_drift, threads=threads, cuda_graph=cuda_graph
        )
        return cls(opened, runner, low_memory=low_memory, batch=batch)

    def encode(self, key: str, image: ArrayLike, noise: ArrayLike | None = None) -> Floats:
        """Scaled latents (rows, C, h, w) of ``image`` (rows, channels, H, W) in model space.

        ``noise``, of the latents' shape, draws from the autoencoder's posterior; None takes its mean. The latent of a
        scalar modality is the array itself. Raises :class:`RequestError` for wrong shapes or non-finite values,
        :class:`NonFiniteError` where the encoder gives them.
        """
        m = get(key)
        array = _rows_of(key, image, m.image_shape if m.is_image else m.latent_shape)
        if not m.is_image:
            return array
        draw = None if noise is None else _rows_of(key, noise, m.latent_shape, rows=len(array))
        moments = self._run(f"encoder_{key}", "image", "moments", array)
        latent, log_variance = (half.copy() for half in np.split(moments, 2, axis=1))
        if draw is not None:
            latent += np.exp(np.clip(log_variance, -30, 20) / 2) * draw
        return latent * np.float32(self.bundle.scale_factors[key])

    def decode(self, key: str, latent: ArrayLike) -> Floats:
        """Image (rows, channels, H, W) in model space of scaled latents (rows, C, h, w); a scalar is its own image.

        Raises as :meth:`encode` does.
        """
        m = get(key)
        array = _rows_of(key, latent, m.latent_shape)
        return self._run(f"decoder_{key}", "latent", "image", array) if m.is_image else array

    def denoise(
        self,
        conditions: Mapping[str, ArrayLike],
        outputs: Sequence[str],
        *,
        steps: int | None = None,
        initial_noise: Mapping[str, ArrayLike] | None = None,
        absent_noise: Mapping[str, ArrayLike] | None = None,
        seed: int = 0,
        solver: str | None = None,
        progress: Progress = _silent,
    ) -> dict[str, Floats]:
        """Sampled latents of ``outputs`` given the scaled latents ``conditions``.

        All arrays have the rows of the result. Noise that is not given is drawn from ``seed``, row r as sample r; with
        neither conditions nor noise there is one row. Conditions are held at t = 0; a modality neither given nor asked
        for is one draw of noise held at t = 1000. ``steps`` and ``solver`` default to the manifest's.

        Raises :class:`RequestError` for unknown, repeated or no outputs, an output that is also a condition, and arrays
        that do not fit; :class:`NonFiniteError` naming the step at which the network gave NaN or infinity.
        """
        wanted = self._outputs(conditions, outputs)
        plan = self.plan(solver, steps)
        absent = tuple(key for key in KEYS if key not in wanted and key not in conditions)
        given = {
            "condition": (dict(conditions), tuple(conditions)),
            "initial noise": (dict(initial_noise or {}), wanted),
            "absent noise": (dict(absent_noise or {}), absent),
        }
        rows = _common_rows(given)
        state = np.empty((rows, JOINT_SIZE), np.float32)
        for purpose, (arrays, keys) in zip(("condition", "initial", "absent"), given.values(), strict=True):
            for key in keys:
                if key in arrays:
                    values = _rows_of(key, arrays[key], get(key).latent_shape, rows=rows)
                else:
                    values = latent_noise(key, rows, seed=seed, purpose=purpose)
                state[:, JOINT_SLICES[key]] = values.reshape(rows, -1)
        batches = range(0, rows, self.batch)
        progress("denoise", 0, len(batches) * len(plan))
        self.backend.load(STEP)
        for number, start in enumerate(batches):
            stop = start + self.batch

            def report(done: int, number: int = number) -> None:
                progress("denoise", number * len(plan) + done, len(batches) * len(plan))

            state[start:stop] = self._loop(plan, state[start:stop], wanted, absent, report)
        if self._low_memory:
            self.backend.release(STEP)
        return {key: state[:, JOINT_SLICES[key]].reshape(rows, *get(key).latent_shape) for key in wanted}

    def generate(
        self,
        conditions: Mapping[str, ArrayLike],
        outputs: Sequence[str],
        *,
        samples: int = 1,
        steps: int | None = None,
        seed: int = 0,
        solver: str | None = None,
        progress: Progress = _silent,
    ) -> dict[str, NDArray[np.generic]]:
        """``samples`` draws of ``outputs`` for each of the N ``conditions``, all in physical units (see
        :mod:`~copgen_edge.runtime.transforms`).

        Outputs are keys or families, conditions are keys. Conditions have N rows (one where there are none), the result
        N * samples, sample s of condition n in row n * samples + s. But for rounding, a draw depends on ``seed`` and s
        alone, not on n or the batch; the draw from an encoder's posterior is shared by a condition's samples. Raises as
        :meth:`encode` and :meth:`denoise` do, and :class:`BundleError` where the bundle lacks a component that the run
        needs.
        """
        latents = self.generate_latents(
            conditions, outputs, samples=samples, steps=steps, seed=seed, solver=solver, progress=progress
        )
        return self.to_physical(latents, progress=progress)

    def generate_latents(
        self,
        conditions: Mapping[str, ArrayLike],
        outputs: Sequence[str],
        *,
        samples: int = 1,
        steps: int | None = None,
        seed: int = 0,
        solver: str | None = None,
        progress: Progress = _silent,
    ) -> dict[str, Floats]:
        """What :meth:`generate` draws, before it is decoded: scaled latents by key. Arguments and errors are the
        same."""
        if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 1:
            raise RequestError(f"found {samples!r} samples, expected a whole number from 1")
        wanted = self._outputs(conditions, resolve(outputs))
        self.check_request(tuple(conditions), wanted)
        plan = self.plan(solver, steps)
        images = {key: transforms.to_model(key, conditions[key]) for key in KEYS if key in conditions}
        counts = {key: len(image) for key, image in images.items()}
        if len(set(counts.values())) > 1:
            raise RequestError(f"conditions differ in their rows: {counts}; give the same number of each")
        count = next(iter(counts.values()), 1)
        latents = {}
        for done, (key, image) in enumerate(images.items()):
            progress("encode", done, len(images))
            draw = latent_noise(key, 1, seed=seed, purpose="posterior").repeat(count, axis=0)
            latents[key] = self.encode(key, image, draw if get(key).is_image else None).repeat(samples, axis=0)
            progress("encode", done + 1, len(images))
        purposes = {key: "initial" if key in wanted else "absent" for key in KEYS if key not in images}
        noise = {
            key: np.tile(latent_noise(key, samples, seed=seed, purpose=purpose), (count, 1, 1, 1))
            for key, purpose in purposes.items()
        }
        return self.denoise(
            latents,
            wanted,
            steps=len(plan),
            initial_noise={key: noise[key] for key in wanted},
            absent_noise={key: noise[key] for key in noise if key not in wanted},
            solver=plan.solver,
            progress=progress,
        )

    def generate_scene(
        self,
        conditions: Mapping[str, GeoArray],
        outputs: Sequence[str],
        *,
        place: bool = False,
        date: tuple[int, int, int] | None = None,
        samples: int = 1,
        steps: int | None = None,
        seed: int = 0,
        solver: str | None = None,
        overlap: int = 25,
        bbox: tuple[float, float, float, float] | None = None,
        options: ReadOptions | None = None,
        progress: Progress = _silent,
    ) -> dict[str, Any]:
        """``samples`` draws of ``outputs`` for a scene of any size, all windows of 1920 m denoised together.

        ``conditions`` are keys with their :class:`~copgen_edge.runtime.scene.arrays.GeoArray`; they may differ in grid
        and CRS, and NaN or ``nodata`` marks what is not known. ``place`` takes each window's middle as a condition,
        ``date`` a year, month and day. The scene is ``bbox`` (west, south, east, north in degrees) or where the
        conditions overlap, on the grid of the Sentinel-2 condition or of the UTM zone. ``overlap`` is 0, 25 or 50
        percent. All of it is held in memory; ``copgen-edge scene`` works in files.

        Results are, by key, a GeoArray of values (samples, bands, H, W) at the modality's own resolution, float32 or
        uint8 codes; for the place an array (samples, windows, 2) of degrees, for the date (samples, 3). A scene of one
        window gives what :meth:`generate` gives. Raises as :meth:`generate` does, and :class:`RasterError` for
        conditions that cannot serve.
        """
        from .scene.arrays import generate_scene

        return generate_scene(
            self,
            conditions,
            outputs,
            place=place,
            date=date,
            samples=samples,
            steps=steps,
            seed=seed,
            solver=solver,
            overlap=overlap,
            bbox=bbox,
            options=options,
            progress=progress,
        )

    def to_physical(
        self, latents: Mapping[str, ArrayLike], *, progress: Progress = _silent
    ) -> dict[str, NDArray[np.generic]]:
        """Scaled ``latents`` by key, decoded and in physical units. Raises as :meth:`decode` does."""
        results = {}
        for done, key in enumerate(latents):
            progress("decode", done, len(latents))
            results[key] = transforms.to_physical(key, self.decode(key, latents[key]))
            progress("decode", done + 1, len(latents))
        return results

    def check_request(self, conditions: Sequence[str], outputs: Sequence[str]) -> None:
        """Raise :class:`BundleError` or :class:`BackendError` where a component that the run would need is not there.

        A long run must not end at a decoder that was never there.
        """
        needed = [STEP]
        for prefix, keys in (("encoder", conditions), ("decoder", outputs)):
            needed += [f"{prefix}_{key}" for key in keys if get(key).is_image]
        for component in needed:
            self.bundle.component(component)
            self.backend.check(component)

    def _loop(
        self, plan: Plan, state: Floats, wanted: Sequence[str], absent: Sequence[str], report: Callable[[int], None]
    ) -> Floats:
        """Run ``plan`` on the joint latents ``state`` (rows, 26118); only the columns of ``wanted`` move."""
        moving = np.zeros(JOINT_SIZE, bool)
        for key in wanted:
            moving[JOINT_SLICES[key]] = True
        times = np.zeros((len(plan), len(KEYS)), np.float32)
        times[:, [KEYS.index(key) for key in absent]] = TRAIN_STEPS
        times[:, [KEYS.index(key) for key in wanted]] = plan.times[:, None] * TRAIN_STEPS
        return self.backend.denoise(plan, state, times, moving, report)

    def _run(self, component: str, source: str, target: str, array: Floats) -> Floats:
        parts = []
        for start in range(0, len(array), self.batch):
            part = self.backend.run(component, {source: array[start : start + self.batch]})[target]
            if not np.isfinite(part).all():
                raise NonFiniteError(
                    f"{component} ({self.backend.precision}) gave NaN or infinity; nothing was written; try "
                    "--precision fp32, and 'copgen-edge verify' on the bundle"
                )
            parts.append(part)
        if self._low_memory:
            self.backend.release(component)
        return np.concatenate(parts)

    def plan(self, solver: str | None, steps: int | None) -> Plan:
        """The plan of a run; None takes the manifest's solver or steps. Raises :class:`RequestError` as
        :func:`make_plan` does."""
        manifest = self.bundle.manifest
        return make_plan(manifest.solver if solver is None else solver, manifest.steps if steps is None else steps)

    def _outputs(self, conditions: Mapping[str, ArrayLike], outputs: Sequence[str]) -> tuple[str, ...]:
        for key in (*conditions, *outputs):
            get(key)
        if not outputs:
            raise RequestError("nothing to generate: name at least one output modality")
        if both := [key for key in outputs if key in conditions]:
            raise RequestError(f"{', '.join(both)} is both given and asked for; leave it out of one of the two")
        if len(set(outputs)) != len(outputs):
            raise RequestError(f"an output is named twice in {', '.join(outputs)}")
        return tuple(key for key in KEYS if key in outputs)


def _rows_of(key: str, array: ArrayLike, shape: tuple[int, ...], rows: int | None = None) -> Floats:
    values = np.asarray(array, np.float32)
    if values.ndim != 4 or values.shape[1:] != shape or (rows is not None and len(values) != rows) or not len(values):
        expected = f"({rows if rows is not None else 'rows'}, {str(shape)[1:]}"
        raise RequestError(f"{key}: found an array of shape {values.shape}, expected {expected}")
    if not np.isfinite(values).all():
        raise RequestError(f"{key}: found NaN or infinity in what was given")
    return values


def _common_rows(given: Mapping[str, tuple[Mapping[str, ArrayLike], Sequence[str]]]) -> int:
    counts: dict[str, int] = {}
    for what, (arrays, allowed) in given.items():
        for key, array in arrays.items():
            if key not in allowed:
                raise RequestError(f"{what} was given for {key}, which has another role in this run")
            counts[f"{what} of {key}"] = len(np.atleast_1d(np.asarray(array)))
    if len(set(counts.values())) > 1:
        raise RequestError(f"arrays differ in their rows: {counts}")
    return next(iter(counts.values()), 1)
