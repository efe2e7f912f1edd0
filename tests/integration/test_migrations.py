"""The schema: up, down and up again; the same as `db.models`; and refused if it is not ours."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, inspect, text
from sqlalchemy.exc import IntegrityError

from db.audit import check_invariants
from db.models import metadata
from db.repository import Repository
from db.session import _migrate, check_schema, downgrade, make_engine, transaction, upgrade
from db.views import VIEWS
from routet2i.contracts import JobOutcome, JobState
from routet2i.errors import RouteT2IError, SchemaMismatch, ServiceUnavailable


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path) -> Engine:
    """An engine on a database without tables."""
    if request.param == "sqlite":
        engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'new' / 'routet2i.db'}")
        (tmp_path / "new").mkdir()
    else:
        engine = make_engine(request.getfixturevalue("empty_postgresql"))
    yield engine
    engine.dispose()


def test_the_schema_goes_up_and_down_and_up(empty):
    # When it goes up, twice
    upgrade(empty)
    upgrade(empty)
    check_schema(empty)
    # Then the view and all tables are there
    assert set(metadata.tables) <= set(inspect(empty).get_table_names())
    assert sorted(inspect(empty).get_view_names()) == sorted(VIEWS)
    # And down it leaves nothing but alembic's own table
    downgrade(empty)
    assert inspect(empty).get_table_names() == ["alembic_version"]
    assert inspect(empty).get_view_names() == []
    upgrade(empty)
    check_schema(empty)


def test_what_an_older_program_wrote_is_still_there_after_the_upgrade(empty):
    # Given a database of the first schema with a budget
    _migrate(empty, lambda config: command.upgrade(config, "0001"))
    with pytest.raises(SchemaMismatch, match="routet2i db upgrade"):
        check_schema(empty)
    with transaction(empty) as connection:
        connection.execute(text("INSERT INTO budget VALUES('batch:b', 'total', 100, 20, 30)"))
    # When this program upgrades it
    upgrade(empty)
    # Then the row is there, and the registry is empty
    check_schema(empty)
    with empty.connect() as connection:
        assert connection.execute(text("SELECT lim, reserved, spent FROM budget")).all() == [(100, 20, 30)]
    assert Repository(empty).predictors() == []


# A home of schema 0003: one batch in an hour of its deployment; of its three jobs one is done at 60 of 65
# micro-USD, and two are in the parts of a microbatch that was split, claimed and ready.
AT_0003 = """
INSERT INTO batch VALUES('b', 'default', 'k', 'h', 'n', 'open', 3, 0, 3, 0);
INSERT INTO budget VALUES('batch:b', 'total', 500, 130, 60);
INSERT INTO budget VALUES('deployment:default', '3600', 1000, 130, 60);
INSERT INTO decision_window VALUES('w', NULL, 'p', 'c', '1', 3, 0, 0, 500, 7, 0);
INSERT INTO microbatch VALUES('m', 'b', 'w', 'cloud', 64, 64, 'split', 2, NULL, 'a', 0, 1, 2,
                              'deployment:default', '3600', 0, NULL, 0, 0);
INSERT INTO microbatch VALUES('m1', 'b', 'w', 'cloud', 64, 64, 'claimed', 1, 1, 'a', 0, 1, 2,
                              'deployment:default', '3600', 65, 'm', 0, NULL);
INSERT INTO microbatch VALUES('m2', 'b', 'w', 'cloud', 64, 64, 'ready', 0, NULL, NULL, NULL, 0, 2,
                              'deployment:default', '3600', 65, 'm', 0, NULL);
INSERT INTO job VALUES('j0', 'b', 1, 'c0', 'p', NULL, 1, NULL, NULL, 1, 0, NULL, 0, NULL, 0, 'done', 'm', 0,
                       NULL);
INSERT INTO job VALUES('j1', 'b', 2, 'c1', 'p', NULL, 1, NULL, NULL, 1, 0, NULL, 0, NULL, 0, 'assigned',
                       'm1', 0, NULL);
INSERT INTO job VALUES('j2', 'b', 3, 'c2', 'p', NULL, 1, NULL, NULL, 1, 0, NULL, 0, NULL, 0, 'assigned',
                       'm2', 0, NULL);
INSERT INTO assignment VALUES('j0', 'w', 'cloud', 'r', 0.3, 0.4, 65, '{}', NULL);
INSERT INTO assignment VALUES('j1', 'w', 'cloud', 'r', 0.3, 0.4, 65, '{}', NULL);
INSERT INTO assignment VALUES('j2', 'w', 'cloud', 'r', 0.3, 0.4, 65, '{}', NULL);
INSERT INTO attempt VALUES('j0', 'm', 1, 'a', 0, 1, NULL, NULL);
INSERT INTO attempt VALUES('j1', 'm1', 1, 'a', 2, NULL, NULL, NULL);
INSERT INTO outcome VALUES('j0', 'failed', 'cloud', 'm', 1, 60, 0.5, NULL, NULL, NULL, 'E', 'e', 1);
INSERT INTO ledger VALUES(1, 'reserve:m', 'batch:b', 'total', 'reserve', 195, 0, 5);
INSERT INTO ledger VALUES(2, 'reserve:m', 'deployment:default', '3600', 'reserve', 195, 0, 5);
INSERT INTO ledger VALUES(3, 'settle:j0', 'batch:b', 'total', 'settle', -60, 60, 6);
INSERT INTO ledger VALUES(4, 'settle:j0', 'deployment:default', '3600', 'settle', -60, 60, 6);
INSERT INTO ledger VALUES(5, 'release:j0', 'batch:b', 'total', 'release', -5, 0, 6);
INSERT INTO ledger VALUES(6, 'release:j0', 'deployment:default', '3600', 'release', -5, 0, 6)
"""


def read(engine, statement):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_money_under_way_survives_the_budgets_migration_up_and_down(empty):
    # Given a home of schema 0003 with work in flight
    _migrate(empty, lambda config: command.upgrade(config, "0003"))
    with transaction(empty) as connection:
        for statement in AT_0003.split(";"):
            connection.execute(text(statement))
    sums = read(empty, "SELECT id, period, lim, reserved, spent FROM budget ORDER BY id")
    lines = read(empty, "SELECT * FROM ledger ORDER BY id")
    microbatches = (
        "SELECT id, period_budget_id, period, reserved_left, state, parent_id FROM microbatch ORDER BY id"
    )
    before = read(empty, microbatches)
    # When it is upgraded
    upgrade(empty)
    # Then all sums are what they were, every promise holds, and the old lines come first
    assert read(empty, "SELECT id, period, lim, reserved, spent FROM budget ORDER BY id") == sums
    assert check_invariants(empty) == []
    assert read(empty, "SELECT id, event_id FROM ledger ORDER BY id")[:6] == [line[:2] for line in lines]
    # When it goes down and up again
    _migrate(empty, lambda config: command.downgrade(config, "0003"))
    assert read(empty, "SELECT * FROM ledger ORDER BY id") == lines
    assert read(empty, microbatches) == before
    assert read(empty, "SELECT id, period, lim, reserved, spent FROM budget ORDER BY id") == sums
    upgrade(empty)
    check_schema(empty)
    # Then the work goes on, and both accounts are charged
    repository = Repository(empty)
    claim = repository.poll(tier="cloud", worker="a", lease_seconds=45)
    outcome = JobOutcome(
        job_id="j2", state=JobState.FAILED, micro_usd=65, error_class="GenerationFailed", error="no picture"
    )
    assert repository.record(claim, [outcome])
    assert repository.finish(claim)
    repository.sweep(resend_seconds=30, max_deaths=2, heartbeat_seconds=5)
    assert read(empty, "SELECT id, reserved, spent FROM budget ORDER BY id") == [
        ("batch:b", 0, 125),
        ("deployment:default", 0, 125),
    ]
    assert check_invariants(empty) == []


def test_a_batch_from_a_preview_is_an_ordinary_one_after_the_way_down_and_up(empty):
    # Given a home of this schema with a job that waits for what a preview promised
    upgrade(empty)
    with transaction(empty) as connection:
        for statement in (
            "INSERT INTO preview VALUES('v', 'h', 'text', 'c', '1', NULL, 1, 65, 0)",
            "INSERT INTO preview_line VALUES('v', 1, 'cloud', 'r', 0.3, 0.4, 65, '{}')",
            "INSERT INTO batch VALUES('b', 'default', 'k', 'h', 'n', 'open', 1, 0, 1, 0, 'v', 0, NULL)",
            "INSERT INTO budget(id, period, lim, reserved, spent) VALUES('batch:b', 'total', 65, 0, 0)",
            """INSERT INTO job VALUES('j', 'b', 1, 'c', 'p', NULL, 1, NULL, NULL, 1, 0, NULL, 0, NULL, 0,
                                       'queued', NULL, 0, NULL, 'default', NULL, NULL, NULL, NULL, NULL)""",
            "INSERT INTO waiting VALUES('b', 0, 0, '', 1, 1)",
        ):
            connection.execute(text(statement))
    work = Repository(empty).open_window(limit=1)
    assert [(job.locked.tier, job.locked.micro_usd) for job in work.jobs] == [("cloud", 65)]
    # When it goes down to 0004 and up again
    _migrate(empty, lambda config: command.downgrade(config, "0004"))
    assert not {"preview", "preview_line"} & set(inspect(empty).get_table_names())
    upgrade(empty)
    check_schema(empty)
    # Then the job is there, and free
    assert [job.locked for job in Repository(empty).open_window(limit=1).jobs] == [None]


def test_what_waits_is_counted_by_the_migration(empty):
    # Given a home of schema 0005 with jobs of two sizes that wait, and one that is done
    _migrate(empty, lambda config: command.upgrade(config, "0005"))
    jobs = (("j1", "NULL", 2, "queued"), ("j2", "64", 1, "queued"), ("j3", "NULL", 1, "queued"))
    with transaction(empty) as connection:
        connection.execute(
            text("INSERT INTO batch VALUES('b', 'default', 'k', 'h', 'n', 'open', 4, 0, 4, 0, NULL)")
        )
        for seq, (job_id, pixels, n, state) in enumerate((*jobs, ("j4", "NULL", 1, "done")), start=1):
            connection.execute(
                text(
                    f"""INSERT INTO job VALUES('{job_id}', 'b', {seq}, 'c{seq}', 'p', NULL, 1, {pixels},
                                               {pixels}, {n}, 0, NULL, 0, NULL, 0, '{state}', NULL, 0,
                                               NULL)"""
                )
            )
    # When it is upgraded
    upgrade(empty)
    # Then they are counted by size
    counted = "SELECT width, height, jobs, pictures FROM waiting ORDER BY width"
    assert read(empty, counted) == [(0, 0, 2, 3), (64, 64, 1, 1)]
    assert "I13" not in {one.invariant for one in check_invariants(empty)}
    # And counted anew after the way down and up
    _migrate(empty, lambda config: command.downgrade(config, "0005"))
    upgrade(empty)
    assert read(empty, counted) == [(0, 0, 2, 3), (64, 64, 1, 1)]


def test_a_migration_that_fails_leaves_everything_and_checks_keys_again(tmp_path):
    # Given a home of schema 0003 in which a job points nowhere, as only a hand can make it
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'routet2i.db'}")
    _migrate(engine, lambda config: command.upgrade(config, "0003"))
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        raw.execute("PRAGMA foreign_keys=OFF")
        raw.execute("INSERT INTO rejected VALUES('nobody', 1, 'r', 'r', 'h')")
        raw.execute("PRAGMA foreign_keys=ON")
    # When it is upgraded
    with pytest.raises(RouteT2IError, match="1 references"):
        upgrade(engine)
    # Then nothing was done, and keys are checked as before
    assert read(engine, "SELECT version_num FROM alembic_version") == [("0003",)]
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.execute(text("INSERT INTO rejected VALUES('nobody', 2, 'r', 'r', 'h')"))
    engine.dispose()


def test_the_migrated_schema_equals_the_tables_in_models(engine):
    def is_comparable(_object, name, _kind, _reflected, _other):
        # on an expression, which SQLAlchemy cannot reflect in SQLite
        return name not in ("ix_job_queue", "ix_job_jump")

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True, "include_object": is_comparable},
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*expression-based index.*")
            assert compare_metadata(context, metadata) == []


def test_the_queue_index_exists_and_is_partial(engine):
    # Given the index that the comparison above leaves out
    catalogue = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE name = 'ix_job_queue'",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_job_queue'",
    }
    with engine.connect() as connection:
        definition = connection.execute(text(catalogue[engine.dialect.name])).scalar_one()
    assert "priority DESC" in definition
    assert "queued" in definition


def test_several_processes_may_upgrade_at_once(empty):
    barrier = threading.Barrier(3, timeout=10)

    def start() -> None:
        mine = make_engine(empty.url.render_as_string(hide_password=False))
        barrier.wait()
        upgrade(mine)
        mine.dispose()

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(start) for _ in range(3)]:
            future.result(30)
    check_schema(empty)


def test_a_database_without_our_tables_says_what_to_type(empty):
    with pytest.raises(SchemaMismatch, match="routet2i db upgrade"):
        check_schema(empty)
    with pytest.raises(SchemaMismatch, match="routet2i db upgrade"):
        Repository(empty).open_window(limit=1)


def test_a_newer_schema_is_refused(empty):
    # Given a schema of the future
    upgrade(empty)
    with transaction(empty) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    # Then neither work nor upgrade goes on
    with pytest.raises(SchemaMismatch, match="newer"):
        check_schema(empty)
    with pytest.raises(SchemaMismatch, match="newer"):
        upgrade(empty)


def test_upgrade_makes_the_folder_of_an_sqlite_file(tmp_path):
    url = f"sqlite+pysqlite:///{tmp_path / 'a' / 'b' / 'routet2i.db'}"
    upgrade(url)
    engine = make_engine(url)
    check_schema(engine)
    engine.dispose()


def test_a_silent_database_is_named_without_its_secret():
    # Given an address where nobody listens
    engine = make_engine("postgresql+psycopg://user:s3cret@127.0.0.1:1/routet2i")
    # When something is asked of it
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1/routet2i does not answer") as caught:
        Repository(engine).open_window(limit=1)
    # Then the error tells where, and keeps the secret
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in str(caught.value.__cause__)


def test_a_postgresql_that_is_read_only_for_a_while_is_unavailable(migrated_postgresql):
    # Given a server that takes no writes, as a standby does
    engine = make_engine(migrated_postgresql)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("SET TRANSACTION READ ONLY"))
    # When something is written
    with pytest.raises(ServiceUnavailable, match="read-only transaction"):
        Repository(engine).elect(holder="test", ttl_seconds=1)
    # Then it counts as one that does not answer: it is waited for
    engine.dispose()


def test_an_sqlite_file_that_cannot_be_opened_is_unavailable(tmp_path):
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'missing' / 'routet2i.db'}")
    with pytest.raises(ServiceUnavailable, match="unable to open"):
        check_schema(engine)


def test_another_kind_of_database_is_refused():
    with pytest.raises(ServiceUnavailable, match="no database that is served"):
        make_engine("mysql+pymysql://localhost/routet2i")


def test_sqlite_is_set_to_lose_nothing(tmp_path):
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'routet2i.db'}")
    with engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
