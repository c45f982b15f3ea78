"""Choosing a form for each group of layers under a budget, from what each was measured to cost.

Errors of groups are taken as independent: their squares add up. That is an estimate; what is built is measured again as
a whole, on runs that the choice has not seen, before a bundle takes it (:mod:`.quantise`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import CalibrationError, RequestError
from ..runtime.folders import whole_file
from .sensitivity import Cost, Sensitivity

SCHEMA_VERSION = 1
FLOAT = "float"
"""The form of a group that stays in the base."""

_BUDGET = re.compile(r"(drift|size|time)\s*<=\s*([0-9.eE+-]+)")


@dataclass(frozen=True)
class Budget:
    """``quantity`` may be ``limit`` at most: ``drift``, relative L2 at the end of whole runs; ``size``, 10^6 bytes of
    the component; ``time``, a call's share of the time of the base."""

    quantity: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From ``drift<=0.05``, ``size<=100`` or ``time<=0.5``; :class:`RequestError` for anything else."""
        match = _BUDGET.fullmatch(text.strip())
        try:
            limit = float(match[2]) if match else float("nan")
        except ValueError:
            limit = float("nan")
        if match is None or not 0 < limit < float("inf"):
            raise RequestError(
                f"found the budget {text!r}, expected drift<=0.05, size<=100 (MB) or time<=0.5 (of fp32)"
            )
        return cls(match[1], limit)

    def __str__(self) -> str:
        return f"{self.quantity}<={self.limit:g}"


@dataclass(frozen=True)
class Plan:
    """A form for each layer, by its path, and what that is expected to cost: ``drift`` relative L2, ``megabytes`` of
    the component, ``time`` as a share of the base's, None where it cannot be told here. ``groups`` has the forms by
    group."""

    component: str
    precision: str
    base: Mapping[str, str]
    trajectories: str
    method: str
    budget: str
    forms: Mapping[str, str]
    groups: Mapping[str, str]
    drift: float
    megabytes: float
    time: float | None

    def save(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what :meth:`save` wrote; :class:`CalibrationError` for anything else."""
        content = read_json(path)
        try:
            if content.pop("schema_version") != SCHEMA_VERSION:
                raise CalibrationError(f"{path} is a plan of another version; plan again")
            plan = cls(**content)
            if not plan.forms or not all(isinstance(form, str) for form in plan.forms.values()):
                raise TypeError("it has no forms")
        except (KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"{path} is no plan of 'copgen-edge calibrate plan' ({error}); make one") from None
        return plan


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; :class:`CalibrationError` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{path} cannot be read ({error}); name a file that 'copgen-edge calibrate' made"
        ) from None
    if not isinstance(content, dict):
        raise CalibrationError(f"{path} holds no JSON object; name a file that 'copgen-edge calibrate' made")
    return content


def make_plan(sensitivity: Sensitivity, budget: Budget, *, forms: Sequence[str] | None = None) -> Plan:
    """The plan under ``budget``: with a drift to keep, the least time, or size where time is not told; with a size or
    a time to keep, the least drift.

    ``forms`` limits the choice. Raises :class:`RequestError` for a form that was not measured, and where no choice
    keeps the budget, saying what the nearest would be.
    """
    known = {cost.form for cost in sensitivity.groups}
    if forms is not None and (unknown := set(forms) - known):
        raise RequestError(f"{', '.join(sorted(unknown))} was not measured, only {', '.join(sorted(known))}")
    timed = all(cost.time is not None for cost in sensitivity.groups)
    if budget.quantity == "time" and not timed:
        raise RequestError(
            f"time is not measured for {sensitivity.precision}, which runs on a GPU; give a budget of drift or size"
        )
    choices = _choices(sensitivity, forms)
    # By what each quantity of a choice adds up.
    parts: dict[str, Callable[[Cost], float]] = {
        "drift": lambda cost: cost.drift**2,
        "size": lambda cost: cost.megabytes - sensitivity.megabytes,
        "time": lambda cost: (1.0 if cost.time is None else cost.time) - 1,
    }
    totals: dict[str, Callable[[Sequence[Cost]], float]] = {
        "drift": lambda chosen: float(np.sqrt(sum(map(parts["drift"], chosen)))),
        "size": lambda chosen: sensitivity.megabytes + sum(map(parts["size"], chosen)),
        "time": lambda chosen: 1 + sum(map(parts["time"], chosen)),
    }
    aim = "drift" if budget.quantity != "drift" else "time" if timed else "size"
    kept, least, price, other = totals[budget.quantity], totals[aim], parts[aim], parts[budget.quantity]
    best: list[Cost] | None = None
    nearest = float("inf")
    # Each price of one unit of what is kept gives the best choice for some budget (Lagrange); a choice that keeps this
    # one is then improved group by group while it does.
    for exchange in (0.0, *np.geomspace(1e-9, 1e9, 361)):
        chosen = [min(group, key=lambda cost: price(cost) + exchange * other(cost)) for group in choices]
        nearest = min(nearest, kept(chosen))
        if kept(chosen) > budget.limit:
            continue
        chosen = _improved(chosen, choices, lambda found: kept(found) <= budget.limit, least)
        if best is None or least(chosen) < least(best):
            best = chosen
    if best is None:
        raise RequestError(
            f"no choice of forms keeps {budget}: the least {budget.quantity} is {nearest:.3g}; allow more, or measure "
            "other forms"
        )
    taken = [cost for cost in best if cost.form != FLOAT]
    if not taken:
        raise RequestError(f"{budget} leaves every layer as it is, so there is nothing to quantise; allow more")
    return Plan(
        sensitivity.component,
        sensitivity.precision,
        dict(sensitivity.base),
        sensitivity.trajectories,
        sensitivity.method,
        str(budget),
        {path: cost.form for cost in taken for path in cost.layers},
        {cost.group: cost.form for cost in best},
        totals["drift"](best),
        totals["size"](best),
        totals["time"](best) if timed else None,
    )


def _choices(sensitivity: Sensitivity, forms: Sequence[str] | None) -> list[list[Cost]]:
    """For each group, its costs, that of staying as it is first."""
    by_group: dict[str, list[Cost]] = {}
    for cost in sensitivity.groups:
        stay = Cost(cost.group, FLOAT, cost.layers, (0.0,), 0.0, (), {}, {}, sensitivity.megabytes, 1.0)
        members = by_group.setdefault(cost.group, [stay])
        if (forms is None or cost.form in forms) and np.isfinite(cost.drift):
            members.append(cost)
    return list(by_group.values())


def _improved(
    chosen: list[Cost],
    choices: list[list[Cost]],
    allowed: Callable[[Sequence[Cost]], bool],
    least: Callable[[Sequence[Cost]], float],
) -> list[Cost]:
    while True:
        moves = [
            [*chosen[:i], cost, *chosen[i + 1 :]]
            for i, group in enumerate(choices)
            for cost in group
            if cost is not chosen[i]
        ]
        better = [move for move in moves if allowed(move) and least(move) < least(chosen) * (1 - 1e-9)]
        if not better:
            return chosen
        chosen = min(better, key=least)
