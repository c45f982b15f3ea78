"""Results as tables on standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from ..drift import Drift
from ..verification import Check
from .common import err_console


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> None:
    """A table whose first ``text_columns`` columns are words and whose others are figures."""
    # Paths and names may hold what rich takes for markup.
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        words = number < text_columns
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = err_console()
    # A log file has no width of its own: rows must not be cut there.
    console.width = max(console.width, 180)
    console.print(table)


def check_table(checks: Iterable[Check]) -> None:
    """Parity checks, a row each."""
    print_table(
        "Parity with the reference",
        ("component", "precision", "reference", "", "batch", "max abs", "relative L2", "tolerance", "cosine", "p99.9"),
        (
            (
                check.component,
                check.precision,
                check.reference,
                "ok" if check.passed else "FAILED",
                str(check.rows),
                f"{check.figures.max_abs:.2e}",
                f"{check.figures.relative_l2:.2e}",
                f"{check.tolerance:.0e}",
                f"{check.figures.cosine:.8f}",
                f"{check.figures.p99_9:.2e}",
            )
            for check in checks
        ),
        text_columns=4,
    )


_BAR = 40


def drift_table(drifts: Sequence[Drift]) -> None:
    """The drift along a run, a row for each call, drawn as a bar."""
    most = max(one.figures.relative_l2 for one in drifts)
    print_table(
        "Drift",
        ("", "call", "t", "relative L2", "max abs"),
        (
            (
                "#" * round(_BAR * one.figures.relative_l2 / most) if 0 < most < math.inf else "",
                str(one.call),
                f"{one.timestep:.0f}",
                f"{one.figures.relative_l2:.2e}",
                f"{one.figures.max_abs:.2e}",
            )
            for one in drifts
        ),
    )
