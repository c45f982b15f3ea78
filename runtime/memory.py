"""How much memory this process has used at most, and how much the machine has (Linux; elsewhere None where unknown)."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")


def _kilobytes(path: Path, field: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def peak_bytes() -> int | None:
    """Largest resident size of this process since its start or :func:`reset_peak` (VmHWM of proc(5))."""
    return _kilobytes(_STATUS, "VmHWM")


def reset_peak() -> None:
    """Start :func:`peak_bytes` anew; where the kernel does not let a process do that, it goes on from the start."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def total_bytes() -> int | None:
    """Memory of the machine."""
    return _kilobytes(_MEMINFO, "MemTotal")


def available_bytes() -> int | None:
    """Memory that can be had without swapping."""
    return _kilobytes(_MEMINFO, "MemAvailable")
