"""The result of a scene as one HTML page: pictures, a map, figures and links, with nothing to fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import CopgenError
from ..evaluation.report import figure, table
from ..folders import whole_file
from ..modalities import KEYS, get
from ..weights import words_for
from .chart import draw_map
from .grid import SceneGrid

PAGE = "index.html"

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c2026;background:#fafaf8;max-width:1180px;
margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ced0d4}
.warning{background:#ce3a28;color:#fff;font-weight:600;padding:.7em 1em}
table{border-collapse:collapse;margin:.6em 0;font-size:13px}td,th{padding:2px 12px 2px 0;text-align:right}
td:first-child,th:first-child,table.facts td{text-align:left;vertical-align:top}th{border-bottom:1px solid #999}
td{overflow-wrap:anywhere}.gallery{display:flex;flex-wrap:wrap;gap:14px}
figure{margin:0;width:270px;font-size:12px;color:#686e76}figure img{width:100%;border:1px solid #ced0d4}
figcaption b{color:#1c2026}p.note{color:#686e76}svg{max-width:100%;height:auto}
"""
_ORDER = ("given", "mean", "mode", "std", "quantiles", "probability", "entropy", "sample")
_WORDS = {
    "given": "given",
    "mean": "mean",
    "mode": "most frequent class",
    "std": "standard deviation",
    "quantiles": "spread",
    "probability": "probability of the classes",
    "entropy": "entropy",
}


def write_page(folder: Path, grid: SceneGrid, files: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> Path:
    """Write ``index.html`` into ``folder`` and return its path; it works offline, opened from a disk.

    ``files`` are entries of files in ``folder`` as :func:`~.stac_item.write_item` takes them; those of pictures also
    have ``of`` and ``caption``, as :func:`~.pictures.write_pictures` returns them. ``result`` is
    :func:`~..provenance.describe_run`'s dictionary with, where known, ``samples``; ``grid`` with its ``overlap`` in
    percent; ``seams``, key -> {"joint": figure, "tiles": figure of windows drawn one by one}; and ``missing``, key ->
    shares "observed", "filled", "absent" and a count "absent_windows".

    Raises :class:`CopgenError` where the page cannot be written.
    """
    model = result["model"]
    weights = words_for(model["weights"])
    title = f"COP-GEN {model.get('variant', 'custom')}{weights.title}: a scene"
    warning = f'<p class="warning">{escape(_sentence(weights.note))}</p>' if weights.note else ""
    overlap = result.get("grid", {}).get("overlap")
    sections = [
        ("Where", draw_map(grid, overlap)),
        *_galleries(files),
        ("What is known of the conditions", _missing(files, result.get("missing") or {})),
        ("Borders of windows", _seams(result.get("seams") or {})),
        ("How it was made", _facts(grid, result)),
        ("Files", _links(files)),
    ]
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections if content)
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{warning}{body}</body></html>\n"
    )
    try:
        with whole_file(folder / PAGE) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CopgenError(f"cannot write {folder / PAGE}: {error.strerror}; make room, then run again") from error
    return folder / PAGE


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def _shows(entry: Mapping[str, Any]) -> str:
    """The kind of raster that a picture is of: it stands in its name after the modality's key."""
    return "sample" if entry["sample"] is not None else Path(entry["file"]).stem.rsplit(".", 1)[-1]


def _galleries(files: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    pictures = [e for e in files if e["kind"] == "picture" and not Path(e["file"]).name.startswith("validity.")]
    found = []
    for key in KEYS:
        ours = sorted(
            (entry for entry in pictures if entry["modality"] == key),
            key=lambda entry: (_ORDER.index(_shows(entry)), entry["sample"] or 0),
        )
        if ours:
            modality = get(key)
            heading = f"{key}: {modality.resolution} m, {' '.join(modality.bands)}, {modality.units}"
            found.append((heading, _gallery([(_heading(entry), entry) for entry in ours])))
    return found


def _heading(entry: Mapping[str, Any]) -> str:
    return f"sample {entry['sample']}" if entry["sample"] is not None else _WORDS[_shows(entry)]


def _gallery(pictures: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return f'<div class="gallery">{"".join(_figure(heading, entry) for heading, entry in pictures)}</div>'


def _figure(heading: str, entry: Mapping[str, Any]) -> str:
    link = f"<br>{_link(entry['of'])}" if entry["of"] else ""
    source, alt = _href(entry["file"]), escape(f"{entry['modality']} {heading}")
    return (
        f'<figure><a href="{source}"><img loading="lazy" src="{source}" alt="{alt}"></a>'
        f"<figcaption><b>{escape(heading)}</b><br>{escape(entry['caption'])}{link}</figcaption></figure>"
    )


def _href(name: str) -> str:
    return escape(quote(name))


def _link(name: str) -> str:
    return f'<a href="{_href(name)}">{escape(name)}</a>'


def _missing(files: Sequence[Mapping[str, Any]], missing: Mapping[str, Mapping[str, Any]]) -> str:
    pictures = [e for e in files if e["kind"] == "picture" and Path(e["file"]).name.startswith("validity.")]
    if not missing and not pictures:
        return ""
    columns = ("condition", "observed", "filled from neighbours", "absent", "windows without any")
    rows = [
        (
            key,
            *(f"{100 * entry[name]:.2f} %" for name in ("observed", "filled", "absent")),
            str(entry["absent_windows"]),
        )
        for key, entry in missing.items()
    ]
    return (table(columns, rows) if rows else "") + _gallery([(entry["modality"], entry) for entry in pictures])


def _seams(seams: Mapping[str, Mapping[str, float | None]]) -> str:
    if not seams:
        return ""
    rows = [(key, figure(entry.get("joint")), figure(entry.get("tiles"))) for key, entry in seams.items()]
    return (
        '<p class="note">The mean difference of neighbouring pixels across borders of windows over that elsewhere: 1 '
        "where a border is like the rest.</p>" + table(("modality", "this scene", "windows drawn one by one"), rows)
    )


def _facts(grid: SceneGrid, result: Mapping[str, Any]) -> str:
    model, backend = result["model"], result["backend"]
    bounds = grid.bounds
    facts = [
        ("model", f"COP-GEN {model.get('variant', 'custom')}, weights: {model['weights']}"),
        ("bundle", f"{result['bundle']['path']}, manifest SHA-256 {result['bundle']['manifest_sha256']}"),
        ("solver", f"{result['solver']}, {result['steps']} steps"),
        ("seed", f"{result['seed']}, {result.get('samples', 1)} samples"),
        ("backend", ", ".join(f"{name} {value}" for name, value in backend.items())),
        ("software", f"copgen-edge {result['copgen_edge']}, {result['created']}"),
        (
            "scene",
            f"{grid.width} x {grid.height} m of {grid.crs.to_string()}, {bounds.left:.10g} to {bounds.right:.10g}, "
            f"{bounds.bottom:.10g} to {bounds.top:.10g}",
        ),
    ]
    for name in ("condition_date", "date"):
        if result.get(name):
            days = result[name] if isinstance(result[name], str) else ", ".join(result[name])
            facts.append(("date given" if name == "condition_date" else "dates generated", days))
    for key, entry in result["conditions"].items():
        read = "; ".join(f"{Path(file['path']).name} SHA-256 {file['sha256']}" for file in entry["files"])
        facts.append((f"given: {key}", f"{entry['given_as']} {read}".strip()))
    facts += [("note", note) for note in result["notes"]]
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<table class="facts">{rows}</table>'


def _links(files: Sequence[Mapping[str, Any]]) -> str:
    rasters = [entry for entry in files if entry["kind"] != "picture"]
    names = [*(entry["file"] for entry in rasters), "item.json", "result.json"]
    return "<ul>" + "".join(f"<li>{_link(name)}</li>" for name in names) + "</ul>"
