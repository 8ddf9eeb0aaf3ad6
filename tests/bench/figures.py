"""Figures and their targets: quantiles, one row a figure, the table for a screen and for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be; `at least` for rates, `at most` for times and memory."""

    side: Literal["at least", "at most"]
    value: float

    def is_met_by(self, measured: float) -> bool:
        """Whether the measured value lies on the right side, the border included."""
        return measured >= self.value if self.side == "at least" else measured <= self.value


def at_least(value: float) -> Target:
    """The measured value must not be smaller."""
    return Target("at least", value)


def at_most(value: float) -> Target:
    """The measured value must not be larger."""
    return Target("at most", value)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; a figure without a target is there for comparison."""

    name: str
    measured: float
    unit: str
    """`ratio`, `ms` or `MB`."""
    target: Target | None = None
    detail: str = ""

    def cells(self) -> tuple[str, str, str, str, str]:
        """Name, measured value, target, verdict and detail, each as it is printed."""
        if self.target is None:
            return (self.name, self._text(self.measured), "", "", self.detail)
        sign = "≥" if self.target.side == "at least" else "≤"
        verdict = "met" if self.target.is_met_by(self.measured) else "MISSED"
        return (
            self.name,
            self._text(self.measured),
            f"{sign} {self.target.value:g}",
            verdict,
            self.detail,
        )

    def _text(self, value: float) -> str:
        match self.unit:
            case "ratio":
                return f"{value:.3f}"
            case "ms":
                return f"{value:.1f} ms"
            case _:
                return f"{value:.0f} {self.unit}"


_SPREAD = (0.50, 0.95, 0.99)
HEAD = ("figure", "measured", "target", "", "how")


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (say 0.99) of the values lie; needs at least two."""
    return quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def judged_by(
    name: str, share: float, seconds: Sequence[float], target: Target | None, how: str
) -> Figure:
    """One line for many times: the quantile that is judged, and p50, p95 and p99 beside it."""
    spread = (f"p{each * 100:.0f} {quantile(seconds, each) * 1000:.1f}" for each in _SPREAD)
    detail = f"{', '.join(spread)} ms; {len(seconds):,} requests {how}"
    judged = quantile(seconds, share) * 1000
    return Figure(f"{name}, p{share * 100:.0f}", judged, "ms", target, detail)


Row = tuple[str, ...]


def one_each(figures: Sequence[Figure]) -> list[Row]:
    """A table of one row a figure, its head included."""
    return [HEAD, *(figure.cells() for figure in figures)]


def side_by_side(tables: Mapping[str, Sequence[Figure]]) -> list[Row]:
    """A table of the figures that all tables have, with a column for each, its head included."""
    by_name = [{figure.name: figure for figure in figures} for figures in tables.values()]
    in_all = [name for name in by_name[0] if all(name in figures for figures in by_name)]
    return [
        ("figure", *tables),
        *((name, *(_judged(figures[name]) for figures in by_name)) for name in in_all),
    ]


def _judged(figure: Figure) -> str:
    _, measured, target, verdict, _ = figure.cells()
    return f"{measured} ({target} {verdict})" if target else measured


def as_text(rows: Sequence[Row]) -> str:
    """A table in columns, for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(rows: Sequence[Row]) -> str:
    """A table for a page."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
