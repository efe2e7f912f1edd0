"""The Celery application of a worker with a leak: `celery -A tests.soak.worker worker`.

Everything but the generator is the product's; runs without a leak use the product's own modules.
"""

import os

from db.repository import Repository
from db.session import check_schema, make_engine
from routet2i.contracts import TierKind
from routet2i.execution import Generator, Scorer
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from routet2i.worker import make_worker
from tests.soak.leaks import LEAKS, Leaking


def open_store(settings: Settings) -> Repository:
    """Connect as the product does; importing its module would make its application, which then runs."""
    engine = make_engine(settings.database)
    check_schema(engine)
    return Repository(engine)


def load(settings: Settings, profile: TierProfile) -> tuple[Generator, Scorer]:
    """Return the stand-ins of models, and the leak."""
    leak = LEAKS[os.environ["SOAK_LEAK"]]
    return Leaking(FakeGenerator(), settings, leak), FakeScorer(settings.read_metrics().names)


_settings = Settings().with_changes(fake_models=False)  # a worker with fakes loads nothing
_tier = _settings.read_tiers()[_settings.tier or "edge"]
app = make_worker(
    _settings, kind=TierKind(_tier.kind), module="tests.soak.worker", open_store=open_store, load=load
)
