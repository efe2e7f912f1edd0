"""Both databases for every test that asks for `engine`, and an environment without ROUTET2I_*."""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, event, text

from db.audit import batch_status, check_invariants
from db.models import metadata
from db.repository import JUST_BATCHES, Repository
from db.session import make_engine, reading, transaction, upgrade
from routet2i.contracts import (
    Assignment,
    Claim,
    ClaimedJob,
    GenerationRequest,
    JobOutcome,
    JobState,
    Microbatch,
    Picture,
    Purse,
    RecordedWindow,
    SweepReport,
    TierKind,
    WindowJob,
    WindowPlan,
    WindowWork,
    new_id,
)
from scheduler.predictor.artefact import FORMAT, NAME, Artefact, check_artefact, version_of
from tests.postgresql import PostgresqlServer

# an example that takes long, or is long in the making, is a busy machine's
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ROUTET2I_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _log_as_at_start() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # commands send log lines elsewhere


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server from a wheel, started once and stopped with us."""
    # our tests kill no power: without the first three every commit waits for the disk;
    # and statistics that come in the middle of a test would change the plans it looks at
    off = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")
    server = PostgresqlServer(tmp_path_factory.mktemp("postgresql") / "data", **dict.fromkeys(off, "off"))
    yield server.url
    server.close()


@pytest.fixture
def empty_postgresql(postgresql_server: str) -> str:
    """The URL of a new PostgreSQL database without tables."""
    return _create_database(postgresql_server, f"test_{secrets.token_hex(6)}")


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: str) -> str:
    """The URL of a PostgreSQL database with our tables, shared by all tests: `make_database` empties it."""
    url = _create_database(postgresql_server, "routet2i")
    upgrade(url)
    return url


def _create_database(server: str, name: str) -> str:
    admin = make_engine(server)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return admin.url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an SQLite file with our tables: copying it is faster than migrating."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    upgrade(f"sqlite+pysqlite:///{path}")  # its last connection writes the log back into the file
    assert not path.with_suffix(".db-wal").exists()
    return path.read_bytes()


@pytest.fixture
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Engine]:
    """Make engines on databases with our tables and no rows; of PostgreSQL one at a time."""
    numbers = count(1)

    def make(dialect: str) -> Engine:
        if dialect == "postgresql":
            made = make_engine(request.getfixturevalue("migrated_postgresql"))
            with transaction(made) as connection:
                connection.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers
                connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY CASCADE"))
            return made
        path = tmp_path / f"routet2i-{next(numbers)}.db"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        made = make_engine(f"sqlite+pysqlite:///{path}")
        # as above: no test cuts the power, so none waits for the disk
        event.listen(made, "connect", lambda raw, _record: raw.execute("PRAGMA synchronous = OFF"))
        return made

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, make_database: Callable[[str], Engine]) -> Iterator[Engine]:
    """An engine on a fresh database with our tables; a test that asks for it runs on both databases."""
    made = make_database(request.param)
    yield made
    made.dispose()


@pytest.fixture
def repository(engine: Engine) -> Repository:
    """The verbs on a fresh database, SQLite and PostgreSQL."""
    return Repository(engine)


class Shop:
    """Short words for what the integration tests do to a repository again and again."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.engine = repository.engine
        self._keys = count(1)

    def submit(
        self,
        jobs: int = 3,
        *,
        budget: int | None = None,
        pictures: int = 1,
        priority: int = 0,
        client: str = "default",
    ) -> str:
        """Submit a batch of `jobs` lines and return its id."""
        key = f"key-{next(self._keys)}"
        opened = self.repository.open_batch(
            client=client, idem_key=key, body_sha256=key, name=key, budget_micro_usd=budget
        )
        requests = [
            GenerationRequest(
                line_no=line,
                custom_id=f"job-{line}",
                prompt=f"{line} red circles",
                seed=100 * line,
                n=pictures,
                priority=priority,
            )
            for line in range(1, jobs + 1)
        ]
        self.repository.add_jobs(opened.batch_id, requests, [], cursor_line=jobs)
        self.repository.close_intake(opened.batch_id)
        return opened.batch_id

    def plan(
        self,
        work: WindowWork,
        *,
        tier: str = "cloud",
        price: int = 65,
        fallback_price: int | None = None,
        size: int = 16,
        term: int | None = None,
        purse: Purse = JUST_BATCHES,
    ) -> WindowPlan:
        """Return a plan that sends all jobs to one tier, `price` micro-USD a picture."""
        microbatches = []
        for batch_id in dict.fromkeys(job.batch_id for job in work.jobs):
            theirs = [job for job in work.jobs if job.batch_id == batch_id]
            for start in range(0, len(theirs), size):
                part = theirs[start : start + size]
                fallback = () if fallback_price is None else self._assign(part, "edge", fallback_price)
                microbatches.append(
                    Microbatch(
                        microbatch_id=new_id(),
                        batch_id=batch_id,
                        tier=tier,
                        kind=TierKind(tier),
                        width=64,
                        height=64,
                        assignments=self._assign(part, tier, price),
                        fallback=fallback,
                        fallback_tier="edge" if fallback else None,
                    )
                )
        return WindowPlan(
            window_id=new_id(),
            microbatches=tuple(microbatches),
            policy="test",
            predictor_name="constant",
            predictor_version="1",
            available_micro_usd=1_000,
            solve_us=7,
            leader_term=term,
            purse=purse,
        )

    def _assign(self, jobs: Sequence[WindowJob], tier: str, price: int) -> tuple[Assignment, ...]:
        return tuple(
            Assignment(
                job_id=job.job_id,
                tier=tier,
                reason="predicted_better_on_cloud",
                prs=0.3,
                threshold=0.4,
                micro_usd=price * job.n,
                scores={tier: {"detail": 0.5}},
            )
            for job in jobs
        )

    def window(self, **plan: Any) -> RecordedWindow:
        """Open a window and record a plan for all of it."""
        work = self.repository.open_window(limit=1_000, purse=plan.get("purse", JUST_BATCHES))
        assert work is not None
        return self.repository.record_window(self.plan(work, **plan))

    def poll(self, *, tier: str = "cloud", worker: str = "w1") -> Claim:
        """Claim the oldest ready microbatch, which must exist."""
        claim = self.repository.poll(tier=tier, worker=worker, lease_seconds=45)
        assert claim is not None
        return claim

    def outcome(self, job: ClaimedJob, *, charged: int | None = None, fails: bool = False) -> JobOutcome:
        """Return what a worker would report: its pictures at the reserved price, or a failure at none."""
        if fails:
            return JobOutcome(
                job_id=job.job_id,
                state=JobState.FAILED,
                micro_usd=0,
                error_class="GenerationFailed",
                error="no picture",
            )
        pictures = tuple(
            Picture(
                index=index,
                seed=job.seed + index,
                sha256=sha256(f"{job.job_id}{index}".encode()).hexdigest(),
                width=64,
                height=64,
                scores={"detail": 0.25, "alignment": 0.75},
            )
            for index in range(job.n)
        )
        return JobOutcome(
            job_id=job.job_id,
            state=JobState.SUCCEEDED,
            micro_usd=job.micro_usd if charged is None else charged,
            pictures=pictures,
            seconds=0.5,
            model_id="pocket:cloud",
            model_revision="r1",
            settings="{}",
        )

    def outcomes(self, claim: Claim) -> list[JobOutcome]:
        """Return a success for every job of a claim."""
        return [self.outcome(job) for job in claim.jobs]

    def work(self, **poll: str) -> Claim:
        """Claim, record and finish one microbatch; return its claim."""
        claim = self.poll(**poll)
        assert self.repository.record(claim, self.outcomes(claim))
        assert self.repository.finish(claim)
        return claim

    def expire(self, claim: Claim) -> None:
        """Let a claim's lease lie in the past."""
        self.change(
            "UPDATE microbatch SET lease_until_ms = 1 WHERE id = :id AND state = 'claimed'",
            id=claim.microbatch_id,
        )

    def sweep(self, *, max_deaths: int = 4, resend_seconds: float = 30.0) -> SweepReport:
        """Sweep once with the usual patience."""
        return self.repository.sweep(
            resend_seconds=resend_seconds, max_deaths=max_deaths, heartbeat_seconds=5.0
        )

    def read(self, statement: str, **parameters: Any) -> Any:
        """Return the first column of the first row of a query."""
        with reading(self.engine) as connection:
            return connection.scalar(text(statement), parameters)

    def change(self, statement: str, **parameters: Any) -> None:
        """Execute one statement, as a hand at the database would."""
        with transaction(self.engine) as connection:
            connection.execute(text(statement), parameters)

    def states(self, batch_id: str) -> dict[str, int]:
        """Return state -> jobs, without zeros."""
        by_state = batch_status(self.engine, batch_id).by_state
        return {state.value: jobs for state, jobs in by_state.items() if jobs}

    def money(self, batch_id: str) -> tuple[int, int]:
        """Return (reserved, spent) of a batch, micro-USD."""
        status = batch_status(self.engine, batch_id)
        return status.reserved_micro_usd, status.spent_micro_usd

    def is_sound(self) -> bool:
        """Whether every invariant holds; shows what does not."""
        assert check_invariants(self.engine) == []
        return True


@pytest.fixture
def shop(repository: Repository) -> Shop:
    """A repository with short words for what tests do to it."""
    return Shop(repository)


@pytest.fixture(scope="session")
def shop_of() -> type[Shop]:
    """The class of `shop`, for tests that make their own repositories."""
    return Shop


@pytest.fixture
def make_artefact() -> Callable[..., Artefact]:
    """Make files of predictors that belong together, with weights of any bytes: they are no network."""

    def make(*, seed: int = 0, weights: bytes = b"weights") -> Artefact:
        content = {
            "format": FORMAT,
            "name": NAME,
            "tiers": ["edge", "cloud"],
            "metrics": ["detail", "alignment"],
            "encoder": "pocket:edge",
            "data_sha256": "d" * 64,
            "prompts": 300,
            "seed": seed,
            "weights_sha256": sha256(weights).hexdigest(),
        }
        manifest = json.dumps({**content, "version": version_of(content)}, indent=1)
        return check_artefact(manifest, weights, where="a test")

    return make


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT of random weights that knows a few words and pieces: a real encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from torch import manual_seed
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "blue", "circle", "star", "above", "left", "of"]
    words += ["big", "small", "snow", "##man", "##flake", "cube", "ring", "five", "near", "on", "gold", "old"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    folder = tmp_path_factory.mktemp("bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(str(folder))
    manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(str(folder))
    return folder
