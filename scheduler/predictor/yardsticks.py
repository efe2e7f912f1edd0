"""What a predictor measures PRS with: the constants it was fitted with, where it has them.

A rule that only ranks (`prompt_length`) was fitted with none. It knows neither pictures nor SQL.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from routet2i.contracts import Yardstick
from scheduler.prs import Floats


@runtime_checkable
class Measures(Protocol):
    """A predictor that was fitted on measured PRS."""

    @property
    def yardstick(self) -> Yardstick:
        """Return the constants of the PRS it predicts."""


def yardstick_of(predictor: object) -> Yardstick | None:
    """Return what a predictor measures PRS with; None if it was not fitted on any."""
    return predictor.yardstick if isinstance(predictor, Measures) else None


def make_yardstick(metrics: Sequence[str], *, weights: Floats, spans: Floats) -> Yardstick:
    """Return the constants of N metrics by name; one of weight 0 does not decide and is left out.

    Args:
        weights: (N,) of PRS, sum 1.
        spans: (N,) Gamma g, > 0.
    """
    weighted = [
        (name, float(weight), float(span))
        for name, weight, span in zip(metrics, weights, spans, strict=True)
        if weight > 0
    ]
    return Yardstick(
        weights={name: weight for name, weight, _ in weighted},
        spans={name: span for name, _, span in weighted},
    )
