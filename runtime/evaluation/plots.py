"""The pictures of a report, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modalities import get
from ..raster.render import measure_limits, measure_spread, render
from .figures import new_figure, png
from .narrowing import Stage
from .regression import metric_units, to_metric_units
from .spectra import spectral_bands

Array = NDArray[Any]
Arrays = Mapping[str, Array]

_TRUTH, _DRAWN = "#222222", "#c2452d"
_BINS = 60
_SHOWN_SAMPLES = 4


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    figure = new_figure(columns * width, rows * height)
    return figure, figure.subplots(rows, columns, squeeze=False)


def histograms(found: Arrays, reference: Arrays, names: tuple[str, str]) -> bytes | None:
    """Densities of pixel values, a panel a band, of two sets of images (rows, ..., C, H, W) keyed by modality;
    ``names`` are those of ``found`` and ``reference``. None where there are no bands to show."""
    panels = [
        (key, i, band)
        for key in found
        if key in reference and get(key).is_image and not get(key).is_codes
        for i, band in enumerate(get(key).bands)
    ]
    if not panels:
        return None
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, 2.6, 1.9)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (key, i, band) in zip(axes.flat, panels, strict=False):
        pair = [to_metric_units(key, values[key][..., i, :, :]).ravel() for values in (found, reference)]
        lows, highs = zip(*(np.percentile(values, (0.5, 99.5)) for values in pair), strict=True)
        low, high = min(lows), max(highs)
        edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
        for values, colour, name in zip(pair, (_DRAWN, _TRUTH), names, strict=True):
            density, _ = np.histogram(values, edges, density=True)
            axis.stairs(density, edges, color=colour, label=name, linewidth=1.3)
        axis.set_title(f"{get(key).family} {band}", fontsize=9)
        axis.set_xlabel(metric_units(key), fontsize=7)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=7, frameon=False)
    return png(figure)


def samples(drawn: Arrays, truth: Arrays, patch: int) -> bytes:
    """One patch: a row a modality of ``drawn`` (N, S, C, H, W), with the truth where it is known, up to four samples,
    and their spread."""
    keys = [key for key in drawn if get(key).is_image]
    count = min(_SHOWN_SAMPLES, drawn[keys[0]].shape[1])
    figure, axes = _figure(len(keys), count + 2, 1.7, 1.8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, key in zip(axes, keys, strict=True):
        members = drawn[key][patch]
        right = [truth[key][patch][None]] if key in truth else []
        limits = measure_limits([(key, np.concatenate([members, *right]))])
        row[0].set_ylabel(key.replace("_", " ", 1), fontsize=6)
        if right:
            row[0].imshow(render(key, right[0][0], limits))
        row[0].set_title("truth" if right else "no truth", fontsize=7)
        for number in range(count):
            row[1 + number].imshow(render(key, members[number], limits))
            row[1 + number].set_title(f"sample {number}", fontsize=7)
        if len(members) > 1:
            spread = measure_spread(key, members)
            row[-1].imshow(spread.rgb)
            row[-1].set_title(f"{' '.join(spread.words)}: {spread.low}..{spread.high}", fontsize=6)
        else:
            row[-1].axis("off")
    return png(figure)


def narrowing(stages: Sequence[Stage], real: NDArray[np.float64], family: str, keys: tuple[str, ...]) -> bytes:
    """The narrowing experiment: its figures by stage, then for three bands how the samples' means of each stage lie
    about the truth. ``real`` (N, bands) are the truth's spectral vectors."""
    figure, axes = _figure(2, 3, 4.2, 3.2)
    labels = ["nothing", *(f"+ {stage.given[-1]}" for stage in stages[1:])]
    x = np.arange(len(stages))
    units = metric_units(keys[0])
    for axis, name, title in (
        (axes[0, 0], "intra_set", f"distance between samples ({units})"),
        (axes[0, 1], "crps", f"CRPS of a pixel ({units})"),
        (axes[0, 2], "inside", "share of true means inside the samples"),
    ):
        axis.plot(x, [stage.figures[name] for stage in stages], color=_DRAWN, marker="o")
        if name == "intra_set" and stages[0].figures["intra_set_interval"]:
            low, high = zip(*(stage.figures["intra_set_interval"] for stage in stages), strict=True)
            axis.fill_between(x, low, high, color=_DRAWN, alpha=0.15, linewidth=0)
        if name == "inside":
            axis.axhline(stages[0].figures["inside_if_calibrated"], color=_TRUTH, linestyle=":", linewidth=1)
            axis.set_ylim(-0.02, 1.02)
        else:
            axis.set_ylim(0, max(1.08 * axis.dataLim.ymax, 1e-6))
        axis.set_xticks(x, labels, rotation=30, ha="right", fontsize=7)
        axis.set_title(title, fontsize=9)
    bands = spectral_bands(keys)
    chosen = [bands.index(f"{family}_{band}") for band in _telling(keys)]
    for axis, band in zip(axes[1], chosen, strict=False):
        around = [(stage.vectors[:, :, band] - real[:, None, band]).ravel() for stage in stages]
        parts = axis.violinplot(around, positions=x, showextrema=False, widths=0.85)
        for body in parts["bodies"]:
            body.set_facecolor(_DRAWN)
        axis.axhline(0, color=_TRUTH, linestyle="--", linewidth=1)
        axis.set_xticks(x, labels, rotation=30, ha="right", fontsize=7)
        axis.set_title(f"{bands[band]}: drawn mean minus true ({units})", fontsize=9)
    for axis in axes[1, len(chosen) :]:
        axis.axis("off")
    return png(figure)


def _telling(keys: tuple[str, ...]) -> list[str]:
    """Up to three bands: blue, near and short-wave infrared where there are such."""
    bands = [band for key in keys for band in get(key).bands]
    return [band for band in ("B02", "B08", "B11") if band in bands] or bands[:3]


def drift(comparison: Mapping[str, Any]) -> bytes:
    """Paired drift of the latents of each modality beside its floor, on a logarithmic scale."""
    found = comparison["paired"]["latents_by_modality"]
    floor = comparison["paired_floor"]["latents_by_modality"]
    figure, axes = _figure(1, 1, 7.5, 0.9 + 0.32 * len(found))
    axis = axes[0, 0]
    y = np.arange(len(found))
    for shift, values, colour, name in ((-0.2, found, _DRAWN, "this run"), (0.2, floor, "#bbbbbb", "another seed")):
        # A logarithm has no zero; None, which stands for infinity, gets no bar.
        lengths = [np.nan if values[key] is None else max(values[key], 1e-9) for key in found]
        axis.barh(y + shift, lengths, 0.38, color=colour, label=name)
    axis.set_yticks(y, list(found), fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("relative L2 of the latents against the baseline", fontsize=8)
    axis.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return png(figure)
