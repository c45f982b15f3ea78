"""What the kernel says about memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from copgen_edge.runtime import memory
from copgen_edge.runtime.memory import available_bytes, peak_bytes, reset_peak, total_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@linux
def test_the_peak_rises_with_what_is_held() -> None:
    before = peak_bytes()
    assert before is not None
    reset_peak()
    held = bytearray(200 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    during = peak_bytes()
    assert during is not None
    assert during >= 200 << 20
    del held
    after = peak_bytes()
    assert after is not None
    assert after > 200 << 20


@linux
def test_the_peak_starts_anew() -> None:
    held = bytearray(300 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    high = peak_bytes()
    del held
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this kernel does not let a process reset its peak")
    reset_peak()
    low = peak_bytes()
    assert high is not None
    assert low is not None
    assert low < high - (200 << 20)


@linux
def test_the_machine_has_at_least_what_is_free() -> None:
    total, available = total_bytes(), available_bytes()
    assert total is not None
    assert available is not None
    assert 0 < available <= total
    assert total > 64 << 20


def test_figures_are_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:        1000 kB\nMemAvailable:     250 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", info)
    assert total_bytes() == 1_024_000
    assert available_bytes() == 256_000


def test_where_there_is_no_proc_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_STATUS", "_MEMINFO"):
        monkeypatch.setattr(memory, name, tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    reset_peak()
    assert peak_bytes() is None
    assert total_bytes() is None
    assert available_bytes() is None
