"""The engines of a bundle: what may be used, what may not and why, and what is removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.engines.cache import entries, locked, prune, record_path
from copgen_edge.runtime.engines.record import UPDATE, EngineRecord, differences
from copgen_edge.runtime.errors import BackendError, RequestError

from ...conftest import HALF as NAMES


def test_built_engines_are_listed_with_their_records(engines: Bundle) -> None:
    found = entries(engines)
    assert sorted(entry.record.component for entry in found if entry.record) == sorted((*NAMES, UPDATE))
    assert [entry.problem for entry in found] == [None] * 4
    assert all(entry.bytes == entry.path.stat().st_size > 100_000 for entry in found)


def _truncate(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])


def _flip(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)


def _no_record(engine: Path) -> None:
    record_path(engine).unlink()


def _half_record(engine: Path) -> None:
    text = record_path(engine).read_text()
    record_path(engine).write_text(text[: len(text) // 2])


def _other_onnx(engine: Path) -> None:
    content = json.loads(record_path(engine).read_text())
    content["onnx"] = dict.fromkeys(content["onnx"], "0" * 64)
    record_path(engine).write_text(json.dumps(content))


def _another_components_record(engine: Path) -> None:
    other = engine.with_name("encoder_DEM_DEM.fp16.engine")
    assert engine.name == "dit_step.fp16.engine" and other.is_file()
    record_path(engine).write_bytes(record_path(other).read_bytes())


def _no_components_record(engine: Path) -> None:
    content = json.loads(record_path(engine).read_text())
    record_path(engine).write_text(json.dumps({**content, "component": "moon"}))


def _later_schema(engine: Path) -> None:
    content = json.loads(record_path(engine).read_text())
    record_path(engine).write_text(json.dumps({**content, "schema_version": 9}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_truncate, "not the one that was built"),
        (_flip, "not the one that was built"),
        (_no_record, "cannot be read"),
        (_half_record, "no engine record"),
        (_other_onnx, "other ONNX files"),
        (_another_components_record, "its record is of 'encoder_DEM_DEM' in 'fp16'"),
        (_no_components_record, "its record is of 'moon' in 'fp16'"),
        (_later_schema, "schema version 9"),
    ],
)
def test_a_damaged_engine_is_told_of_and_pruned_alone(
    engines: Bundle, damage: Callable[[Path], None], told: str
) -> None:
    damaged = entries(engines)[1].path
    damage(damaged)
    bad = [entry for entry in entries(engines) if entry.problem is not None]
    assert [entry.path for entry in bad] == [damaged] and told in str(bad[0].problem)
    assert [entry.path for entry in prune(engines)] == [damaged]
    assert not damaged.exists() and not record_path(damaged).exists()
    assert [entry.problem for entry in entries(engines)] == [None] * 3


def test_an_engine_that_the_bundle_has_no_component_for_is_told_of(engines: Bundle) -> None:
    encoder = next(entry.path for entry in entries(engines) if entry.path.name.startswith("encoder_DEM_DEM"))
    moved = encoder.rename(encoder.with_name("encoder_LULC_LULC.fp16.engine"))
    record = EngineRecord.read(record_path(encoder))
    record_path(moved).write_text(replace(record, component="encoder_LULC_LULC").to_json())
    problems = [entry.problem for entry in entries(engines) if entry.path == moved]
    assert problems == ["the bundle has no encoder_LULC_LULC in fp16"]


def test_left_overs_are_told_of_and_pruned(engines: Bundle) -> None:
    folder = entries(engines)[0].path.parent
    (folder / "dit_step.fp16.engine.partial").write_bytes(b"half")
    (folder / "encoder_LULC_LULC.fp16.json").write_text("{}")
    told = {entry.path.name: entry.problem for entry in entries(engines) if entry.problem}
    assert told == {
        "dit_step.fp16.engine.partial": "left by a build that was stopped",
        "encoder_LULC_LULC.fp16.json": "a record without its engine",
    }
    assert len(prune(engines)) == 2 and len(entries(engines)) == 4


def test_all_can_be_removed(engines: Bundle) -> None:
    assert len(prune(engines, everything=True)) == 4
    assert not (engines.root / "engines").exists() and entries(engines) == []
    assert prune(engines) == []


def test_differences_are_told_in_words(engines: Bundle) -> None:
    record = entries(engines)[0].record
    assert record is not None
    assert differences(replace(record, seconds=1e9, sha256="x"), record) == []
    other = replace(
        record,
        version="9.9",
        gpu="NVIDIA Orin",
        options=replace(record.options, batch=(1, 1, 1), weight_streaming=True),
        onnx={},
    )
    told = "; ".join(differences(other, record))
    for words in ("version is 9.9, not 1.", "gpu is NVIDIA Orin, not portable", "batch is (1, 1, 1), not (1, 2, 4)",
                  "weight_streaming is True, not False", "other ONNX files"):  # fmt: skip
        assert words in told


def test_a_record_is_read_as_it_was_written(engines: Bundle, tmp_path: Path) -> None:
    record = entries(engines)[0].record
    assert record is not None
    (tmp_path / "x.json").write_text(record.to_json())
    assert EngineRecord.read(tmp_path / "x.json") == record
    for content in ("[]", "{}", '{"schema_version": 1}', "nonsense"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(BackendError, match="copgen-edge build"):
            EngineRecord.read(tmp_path / "x.json")
    assert issubclass(BackendError, RequestError)


def test_prune_touches_nothing_that_no_build_made(engines: Bundle, tmp_path: Path) -> None:
    root = engines.root / "engines"
    folder = entries(engines)[0].path.parent
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = [
        root / "mine" / "yolo.engine",
        root / "mine" / "yolo.json",
        folder / "tuning.json",
        outside / "package.json",
    ]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    (root / "empty").mkdir()
    (root / "tensorrt-rtx-1.0-portable").symlink_to(outside)
    (outside / "dit_step.fp16.engine.partial").write_text("half")
    assert len(prune(engines, everything=True)) == 4
    assert all(path.exists() for path in kept) and (root / "empty").is_dir()
    assert (outside / "dit_step.fp16.engine.partial").exists()


def test_what_is_no_file_is_told_of_and_does_not_stop_the_rest(engines: Bundle) -> None:
    folder = entries(engines)[0].path.parent
    (folder / "encoder_LULC_LULC.fp16.engine").symlink_to("/nowhere/at/all")
    (folder / "decoder_LULC_LULC.fp16.engine").mkdir()
    assert (
        sorted(str(entry.problem) for entry in entries(engines) if entry.problem)
        == ["it is no file but a link or a folder"] * 2
    )
    assert [entry.path.name for entry in prune(engines)] == ["encoder_LULC_LULC.fp16.engine"]
    assert len(entries(engines)) == 5


def test_one_build_or_prune_at_a_time(engines: Bundle) -> None:
    with locked(engines), pytest.raises(RequestError, match="another build or prune is at work"):
        prune(engines)
    prune(engines)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": ["fp16"]},
        {"seconds": "long"},
        {"version": "a.b"},
        {"version": 7},
        {"capability": None},
        {"attention": "x"},
        {"bytes": True},
    ],
)
def test_a_record_of_wrong_types_is_no_record(engines: Bundle, changes: dict[str, object]) -> None:
    path = record_path(entries(engines)[0].path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert "is no engine record" in str(entries(engines)[0].problem)


def test_a_record_nested_beyond_reading_is_no_record(engines: Bundle) -> None:
    record_path(entries(engines)[0].path).write_text("[" * 100_000)
    assert "is no engine record" in str(entries(engines)[0].problem)
