"""How predictions fare against pairs of pictures, per predictor version: the page of `predictor drift`.

The comparison is `scheduler.drift`'s; it takes a moment, so it is kept until another pair is there.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from db.pairs import ShadowPair, newest_pairs
from db.repository import Repository
from routet2i.settings import Settings
from scheduler.api.deployment import repository_of
from scheduler.api.pages import charts
from scheduler.api.pages.frame import Overseer, pages
from scheduler.api.pages.rendering import page
from scheduler.comparison import Compared, compare
from scheduler.drift import RULE

NEWEST = 1_000  # pairs that are compared
POINTS = 400  # drawn
WINDOWS = 40  # listed

router = pages()


@dataclass(slots=True)
class Comparison:
    """The newest pairs, compared."""

    settings: Settings
    repository: Repository
    _of: tuple[Any, ...] | None = None
    _compared: list[Compared] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> list[Compared]:
        """Return each version's comparison."""
        pairs = newest_pairs(self.repository.engine, limit=NEWEST)
        with self._lock:
            if self._of != _state(pairs):
                self._compared = compare(
                    pairs,
                    yardsticks=self.repository.yardsticks(),
                    tiers=self.settings.read_tiers(),
                    weights=self.settings.read_metrics().weights,
                )
                self._of = _state(pairs)
            return self._compared


def _state(pairs: list[ShadowPair]) -> tuple[Any, ...]:
    return tuple(pair.shadow_job_id for pair in pairs)


@router.get("/drift")
def drift(request: Request, found: Overseer) -> Response:
    """Show predicted beside measured PRS."""
    compared: list[Compared] = request.app.state.comparison.now()
    return page(
        request,
        "drift.html.j2",
        found,
        title="Predictor drift",
        compared=list(reversed(compared)),
        newest=NEWEST,
        rule=RULE,
        points=POINTS,
        shown=WINDOWS,
        line=charts.line,
        predictors=repository_of(request).predictors(),
    )
