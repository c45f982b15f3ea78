"""The picture of a sensitivity report: what each group of layers does to whole runs, by form and by t."""

from __future__ import annotations

import numpy as np

from ..runtime.evaluation.figures import new_figure, png
from .ranges import BAND_EDGES
from .sensitivity import Sensitivity

_LEAST = 1e-4
"""Drift below this is drawn as this: a logarithmic axis has no zero."""


def sensitivity_chart(found: Sensitivity) -> bytes:
    """PNG: a panel of drift by group and form, and one of the first form's drift by the band of t that it is in.

    Raises :class:`BackendError` where matplotlib is not installed.
    """
    names = list(dict.fromkeys(cost.group for cost in found.groups))
    forms = list(dict.fromkeys(cost.form for cost in found.groups))
    figure = new_figure(12, 1.6 + 0.3 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(names))
    for number, form in enumerate(forms):
        drift = {cost.group: cost.drift for cost in found.groups if cost.form == form}
        left.plot([max(drift[name], _LEAST) for name in names], at, "o", label=form, alpha=0.8, markersize=4 + number)
    left.set(xscale="log", yticks=at, yticklabels=names, xlabel="relative L2 against fp32, this group alone quantised")
    if found.seeds is not None:
        left.axvline(found.seeds, color="#888888", linestyle=":", label="two seeds of fp32")
    left.legend(fontsize=8)
    left.invert_yaxis()
    first = [cost for cost in found.groups if cost.form == forms[0]]
    for band in range(max(len(cost.run_by_band or cost.call) for cost in first)):
        values = [(cost.run_by_band or cost.call)[band] for cost in first]
        drawn = [np.nan if value is None else max(value, _LEAST) for value in values]
        label = f"t from {BAND_EDGES[band]} to {BAND_EDGES[band + 1]}"
        right.plot(drawn, at, "s", label=label, alpha=0.8, markersize=5)
    right.set(xscale="log", xlabel=f"the same, {forms[0]} in the calls of one band of t alone")
    right.legend(fontsize=8)
    for panel in (left, right):
        panel.grid(axis="x", alpha=0.3)
    what = "at the end of whole runs" if found.seeds is not None else "of a single call"
    figure.suptitle(f"{found.component}, {found.precision}: drift {what}")
    return png(figure)
