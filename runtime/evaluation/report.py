"""A report as one HTML file: tables and pictures, nothing to fetch."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..modalities import FAMILIES
from .regression import metric_units

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6em 0;font-size:13px}td,th{padding:2px 10px;text-align:right}
td:first-child,th:first-child{text-align:left}th{border-bottom:1px solid #999}img{max-width:100%}
p.note{color:#555}
"""

Row = Sequence[str]


def html(title: str, notes: Sequence[str], sections: Sequence[tuple[str, str]]) -> str:
    """A page of ``sections``: (heading, HTML)."""
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{said}{body}</body></html>\n"
    )


def table(columns: Row, rows: Sequence[Row]) -> str:
    """A table, the first column left-aligned."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def picture(png: bytes, alt: str) -> str:
    """``png`` inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def figure(value: Any) -> str:
    """A number in four digits or as a whole, a pair as an interval, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return f"{figure(value[0])} to {figure(value[1])}"
    if isinstance(value, (int, str)):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


SCORE_COLUMNS = (
    "modality",
    "measure",
    "mean over samples",
    "95 %",
    "best sample",
    "CRPS",
    "spread/skill",
    "climatology",
)


def score_rows(scores: Mapping[str, Any]) -> list[Row]:
    """The scores against the truth, a row a modality, in :data:`SCORE_COLUMNS`."""
    rows: list[Row] = []
    for key, entry in scores["modalities"].items():
        guess = entry.get("climatology", {})
        if "mae" in entry:
            ratios = [b["spread_skill"] for b in entry["bands"].values() if b.get("spread_skill") is not None]
            ratio = sum(ratios) / len(ratios) if ratios else None
            cells = (
                f"MAE, {entry['units']}",
                entry["mae"],
                entry["mae_interval"],
                entry["best_mae"],
                entry["crps"],
                ratio,
            )
            climate = f"{figure(guess.get('mae'))}, CRPS {figure(guess.get('crps'))}" if guess else "-"
        elif "top1" in entry:
            cells = ("top-1", entry["top1"], entry["top1_interval"], entry["best_top1"], None, None)
            climate = figure(guess.get("top1"))
        elif "mean_km" in entry:
            cells = ("km", entry["mean_km"], entry["mean_km_interval"], entry["best_km"], None, None)
            climate = figure(guess.get("mean_km"))
        else:
            cells = ("days", entry["mean_days"], entry["mean_days_interval"], entry["best_days"], None, None)
            climate = figure(guess.get("mean_days"))
        rows.append((key, *(figure(cell) for cell in cells), climate))
    return rows


SPECTRA_COLUMNS = (
    "family", "sets", "recall", "precision", "1-NN accuracy", "range coverage", "MMD2", "intra real", "intra drawn",
)  # fmt: skip


def spectra_rows(scores: Mapping[str, Any]) -> list[Row]:
    """The stochastic benchmark, a row a family, in :data:`SPECTRA_COLUMNS`."""
    names = ("recall", "precision", "nn_accuracy", "mean_range_coverage", "mmd2", "intra_real", "intra_generated")
    return [
        (family, entry["sets"], *(figure(entry[name]) for name in names)) for family, entry in scores["spectra"].items()
    ]


DRIFT_COLUMNS = ("", "this run", "95 %", "another seed", "95 %")
_WORDS = {
    "nn_accuracy": "1-NN accuracy",
    "mmd2": "MMD2",
    "wasserstein_mean": "Wasserstein, mean of bands",
    "range_coverage": "range coverage",
    "total_variation": "total variation of classes",
}


def drift_rows(comparison: Mapping[str, Any]) -> list[Row]:
    """Drift against the baseline, in :data:`DRIFT_COLUMNS`: latents, then each family's distribution."""
    paired, floor = comparison["paired"], comparison["paired_floor"]
    rows: list[Row] = [
        ("latents, relative L2", figure(paired["latents_relative_l2"]), "-", figure(floor["latents_relative_l2"]), "-")
    ]
    for key, entry in paired["physical"].items():
        (words, value), (_, least) = _telling(key, entry), _telling(key, floor["physical"][key])
        rows.append((f"{key}: {words}", figure(value), "-", figure(least), "-"))
    for family, entry in comparison["distribution"].items():
        theirs = comparison["distribution_floor"][family]
        for name, value in entry.items():
            if isinstance(value, float):
                words = f"{family}: {_WORDS.get(name, name)}"
                if name == "wasserstein_mean":
                    words += f", {metric_units(FAMILIES[family][0])}"
                cells = (value, entry.get(f"{name}_interval"), theirs[name], theirs.get(f"{name}_interval"))
                rows.append((words, *(figure(cell) for cell in cells)))
    return rows


def _telling(key: str, errors: Mapping[str, Any]) -> tuple[str, float]:
    """What one line tells of a modality's physical drift, in words and as a figure: means over bands for images."""
    for name, words in (("top1", "share of equal classes"), ("mean_km", "mean, km"), ("mean_days", "mean, days")):
        if name in errors:
            return words, errors[name]
    bands = [band["mae"] for band in errors.values()]
    return f"MAE, {metric_units(key)}", sum(bands) / len(bands)


NARROWING_COLUMNS = ("given", "distance between samples", "95 %", "spread of a pixel", "CRPS", "true means inside")


def narrowing_rows(figures: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The narrowing experiment, a row a stage, in :data:`NARROWING_COLUMNS`."""
    return [
        (
            " + ".join(entry["given"]) or "nothing",
            *(figure(entry[name]) for name in ("intra_set", "intra_set_interval", "spread", "crps", "inside")),
        )
        for entry in figures
    ]
