"""The Celery application of the cloud tier: `celery -A worker_cloud.app worker`.

It knows where the store and the models come from. What a task does is `routet2i.worker`; torch is imported by
`worker_cloud.pipeline` at the first task, never here.
"""

from db.repository import Repository
from db.session import check_schema, make_engine
from routet2i.contracts import TierKind
from routet2i.execution import Buyer, Generator, Scorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from routet2i.worker import make_worker


def open_store(settings: Settings) -> Repository:
    """Connect to the deployment's database; raises ServiceUnavailable and SchemaMismatch."""
    engine = make_engine(settings.database)
    check_schema(engine)
    return Repository(engine)


def load(settings: Settings, profile: TierProfile) -> tuple[Generator | Buyer, Scorer]:
    """Load the tier's models; raises ModelError."""
    from worker_cloud import pipeline

    return pipeline.load(settings, profile)


app = make_worker(Settings(), kind=TierKind.CLOUD, module=__name__, open_store=open_store, load=load)
