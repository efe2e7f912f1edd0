"""Numbers into the points of SVG shapes: radar, line, bars, scatter.

Pure geometry in the shapes' own units; how they look is the style sheet's, what they mean the page's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RADIUS = 100.0  # of a radar's rim
LABEL = 1.13  # of the radius: where the names stand


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One score of a radar."""

    name: str
    x: float  # of the rim
    y: float
    label_x: float
    label_y: float
    anchor: str  # of the label: start, middle, end


@dataclass(frozen=True, kw_only=True, slots=True)
class Radar:
    """Scores around a circle; the centre is (0, 0), a score of 1 lies on the rim."""

    axes: tuple[Axis, ...]
    rings: tuple[str, ...]  # polygons at 1/4, 1/2, 3/4 and 1
    shapes: Mapping[str, str]  # series -> polygon
    dots: Mapping[str, tuple[tuple[float, float], ...]]  # series -> corners


def radar(names: Sequence[str], series: Mapping[str, Mapping[str, float]]) -> Radar | None:
    """Return the shapes of a radar; None for fewer than three scores, which enclose nothing.

    Args:
        names: of the scores, clockwise from the top.
        series: name -> score -> [0, 1]; a score that is missing counts as 0.
    """
    if len(names) < 3:
        return None
    turns = [2 * math.pi * place / len(names) for place in range(len(names))]
    corners = {
        name: tuple(
            _at(turn, RADIUS * min(1.0, max(0.0, scores.get(metric, 0.0))))
            for metric, turn in zip(names, turns, strict=True)
        )
        for name, scores in series.items()
    }
    return Radar(
        axes=tuple(_axis(name, turn) for name, turn in zip(names, turns, strict=True)),
        rings=tuple(points([_at(turn, RADIUS * part / 4) for turn in turns]) for part in (1, 2, 3, 4)),
        shapes={name: points(own) for name, own in corners.items()},
        dots=corners,
    )


def _at(turn: float, radius: float) -> tuple[float, float]:
    return round(radius * math.sin(turn), 2), round(-radius * math.cos(turn), 2)


def _axis(name: str, turn: float) -> Axis:
    (x, y), (label_x, label_y) = _at(turn, RADIUS), _at(turn, RADIUS * LABEL)
    side = math.sin(turn)
    anchor = "middle" if abs(side) < 0.1 else "start" if side > 0 else "end"
    return Axis(name=name, x=x, y=y, label_x=label_x, label_y=label_y, anchor=anchor)


def points(corners: Sequence[tuple[float, float]]) -> str:
    """Return corners as SVG wants them."""
    return " ".join(f"{x:g},{y:g}" for x, y in corners)


def line(values: Sequence[float], *, width: float, height: float, most: float | None = None) -> str:
    """Return a line through values from left to right, 0 at the bottom, the greatest at the top.

    Args:
        most: the value at the top; None = the greatest of these.
    """
    if not values:
        return ""
    top = most or max(values) or 1.0
    step = width / max(1, len(values) - 1)
    return points(
        [
            (round(place * step, 2), round(height - height * value / top, 2))
            for place, value in enumerate(values)
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One piece of a stacked bar, in percent of its width."""

    name: str
    start: float
    width: float


def stacked(amounts: Mapping[str, float], *, whole: float | None = None) -> tuple[Part, ...]:
    """Return the pieces of a bar, in the given order; what is nothing has none.

    Args:
        whole: what fills the bar; None = the amounts together.
    """
    total = whole or sum(amounts.values()) or 1.0
    parts, start = [], 0.0
    for name, amount in amounts.items():
        width = min(100.0 - start, 100.0 * amount / total)
        if width > 0:
            parts.append(Part(name=name, start=round(start, 3), width=round(width, 3)))
            start += width
    return tuple(parts)
