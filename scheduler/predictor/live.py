"""Follow promotions: which predictor decides the next window.

It asks now and then which version is live and loads another one when that has changed; what a version is and
where it lies is asked of its loader. It promotes nothing and judges no prompt.
"""

import time
from collections.abc import Callable

import structlog

from routet2i.errors import RouteT2IError, ServiceUnavailable
from routet2i.tiers import Tiers
from scheduler.predictor.interface import LIVE, Predictor, Registry, open_predictor

LOOK_SECONDS = 2.0  # a promotion is a person's act: they wait that long, and idle windows ask seldom

_log = structlog.get_logger(__name__)


class LivePredictor:
    """The predictor of the version that was promoted last."""

    def __init__(
        self,
        *,
        live: Callable[[], str | None],
        load: Callable[[str | None], Predictor],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load what is live now.

        Args:
            live: returns the version promoted last, or None before the first promotion.
            load: returns the predictor of such a version; never the same object for two versions.
            clock: seconds.
        Raises:
            RouteT2IError: whatever `live` and `load` raise.
        """
        self._live, self._load, self._clock = live, load, clock
        self._look_at = clock() + LOOK_SECONDS
        self._version = live()  # that was looked at last, loaded or refused
        self._predictor = load(self._version)

    def current(self) -> Predictor:
        """Return the predictor for one whole window.

        A version that cannot be loaded is logged as an error, once, and the one before it goes on until
        another is promoted.

        Raises:
            ServiceUnavailable: the database does not answer.
        """
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_SECONDS
            self._follow()
        return self._predictor

    def _follow(self) -> None:
        version = self._live()
        if version == self._version:
            return
        try:
            loaded = self._load(version)
        except ServiceUnavailable:
            raise  # the database went away between two questions: the next look tries again
        except RouteT2IError as error:
            _log.error("predictor_not_loaded", wanted=version, kept=self._predictor.version, error=str(error))
        else:
            _log.info("predictor", name=loaded.name, version=loaded.version, before=self._predictor.version)
            self._predictor = loaded
        self._version = version


def follow(name: str, *, tiers: Tiers, registry: Registry) -> Callable[[], Predictor]:
    """Return who is asked before each window for the predictor of the setting ROUTET2I_PREDICTOR.

    Raises:
        UsageError, ModelError: as `open_predictor`.
    """
    if name != LIVE:
        fixed = open_predictor(name, tiers=tiers, registry=registry)
        return lambda: fixed

    def load(version: str | None) -> Predictor:
        return open_predictor(version or tiers.predictor, tiers=tiers, registry=registry)

    return LivePredictor(live=registry.live_predictor, load=load).current
