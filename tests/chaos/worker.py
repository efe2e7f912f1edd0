"""The workers of the harness: the product's application, with models that take time and die when asked to.

`celery -A tests.chaos.worker worker`. Poisonous prompts (`tests.chaos.poison`) end the process that draws
them. Everything else is real.
"""

import os
import time
from collections.abc import Sequence

from db.repository import Repository
from db.session import check_schema, make_engine
from routet2i.contracts import TierKind
from routet2i.execution import Buyer, Generator, RenderRequest, Scorer
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from routet2i.worker import make_worker
from tests.chaos import doubles, poison
from tests.chaos.hands import Hands

SLOWER = 20  # times, while the world asks for slow workers
SLICE_SECONDS = 0.02
MODULE = "tests.chaos.worker"


class FragileGenerator(FakeGenerator):
    """A fake that takes time, counts what it draws, and obeys poisonous prompts."""

    def __init__(self, hands: Hands, *, seconds: float, style: str) -> None:
        """Take so many seconds a picture."""
        super().__init__(style=style)
        self._hands = hands
        self._seconds = seconds

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        """See `execution.Generator.generate`."""
        for request in requests:
            self._take_time()
            poison.swallow(request.prompt)
        made = super().generate(requests)
        self._hands.note_drawn(len(made))
        return made

    def _take_time(self) -> None:
        left = self._seconds
        while (left > 0 and not self._hands.has("quick")) or self._hands.has("endless"):
            time.sleep(min(left, SLICE_SECONDS) if left > 0 else SLICE_SECONDS)
            left -= SLICE_SECONDS / (SLOWER if self._hands.has("slow") else 1)


def open_store(settings: Settings) -> Repository:
    """Connect as the product's workers do, whose modules each make an application of their own."""
    engine = make_engine(settings.database)
    check_schema(engine)
    return Repository(engine)


def load(settings: Settings, profile: TierProfile) -> tuple[Generator | Buyer, Scorer]:
    """Return the fragile models."""
    scorer = FakeScorer(settings.read_metrics().names)
    if profile.endpoint is not None:
        from tests.chaos.buyer import open_buyer  # an HTTP client that other workers need not load

        return open_buyer(settings, profile), scorer
    seconds = float(os.environ.get("CHAOS_PICTURE_SECONDS", "0.02"))
    generator = FragileGenerator(Hands(settings.home), seconds=seconds, style=profile.name)
    return generator, scorer


def _defuse(settings: Settings) -> Settings:
    """Leave a failpoint to the main process and its first child; those that replace it live on."""
    fuse = os.environ.get("CHAOS_FUSE")
    if settings.failpoint is None or fuse is None:
        return settings
    hands = Hands(settings.home)
    if hands.take(f"{fuse}.main") or hands.take(f"{fuse}.child"):
        return settings
    return settings.with_changes(failpoint=None)


doubles.put_in_place()
_settings = _defuse(Settings())
_kind = _settings.read_tiers()[_settings.tier or "edge"].kind
app = make_worker(_settings, kind=TierKind(_kind), module=MODULE, open_store=open_store, load=load)
app.conf.worker_soft_shutdown_timeout = float(os.environ.get("CHAOS_SOFT_STOP_SECONDS", "3"))
