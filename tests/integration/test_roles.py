"""Roles on a real PostgreSQL: the auditor reads all but secrets, the program writes rows, no more."""

import re
import secrets
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

import db
from db import audit
from db.asking import reader
from db.keys import Role
from db.models import metadata
from db.repository import Repository
from db.roles import LOCKED, Duty, grant
from db.session import check_schema, make_engine, transaction
from db.views import SECRETS, VIEWS
from routet2i.contracts import BudgetPolicy, Scope
from routet2i.errors import UsageError


@pytest.fixture
def owned(make_database):
    engine = make_database("postgresql")
    yield engine
    engine.dispose()


@pytest.fixture
def make_role(owned):
    """Make roles that can log in, and drop them with all they were granted."""
    made, engines = [], []

    def make(duty=None):
        role = f"test-{secrets.token_hex(4)}"
        with transaction(owned) as connection:
            connection.execute(text(f'CREATE ROLE "{role}" LOGIN'))
        made.append(role)
        if duty is not None:
            assert grant(owned, role, duty=duty)
        engine = make_engine(owned.url.set(username=role).render_as_string(hide_password=False))
        engines.append(engine)
        return engine, role

    yield make
    for engine in engines:
        engine.dispose()
    with transaction(owned) as connection:
        for role in made:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))


def refused(engine, statement):
    with pytest.raises(DBAPIError) as error, engine.connect() as connection, connection.begin():
        connection.execute(text(statement))
    return error.value.orig.sqlstate


DENIED = "42501"


def test_an_auditor_reads_every_view_and_table_but_no_secret(owned, make_role, shop_of):
    # Given work, a key, and an auditor
    shop = shop_of(Repository(owned))
    batch_id = shop.submit(2)
    shop.window()
    shop.work()
    shop.repository.add_key("k" * 43, client="studio", role=Role.SUBMITTER, name="x")
    engine, _ = make_role(Duty.AUDITOR)
    # When everything is read
    with engine.connect() as connection:
        for name in (*VIEWS, *metadata.tables):
            hidden = SECRETS.get(name, frozenset())
            columns = [one["name"] for one in inspect(owned).get_columns(name) if one["name"] not in hidden]
            connection.execute(text(f"SELECT {', '.join(columns)} FROM {name}")).all()
    # Then only secrets are missing, by column, and so in a star
    for name, hidden in SECRETS.items():
        for column in hidden:
            assert refused(engine, f"SELECT {column} FROM {name}") == DENIED
            assert refused(engine, f"SELECT 1 FROM {name} WHERE {column} = 'x'") == DENIED
        assert refused(engine, f"SELECT * FROM {name}") == DENIED
    # And the program's own readers work for it
    check_schema(engine)
    assert audit.batch_status(engine, batch_id).complete
    assert len(list(audit.rows(engine, batch_id=batch_id))) == 2
    assert audit.check_invariants(engine) == []
    with reader(engine.url.render_as_string(hide_password=False)) as asked:
        assert list(asked.ask("SELECT succeeded FROM batch_summary").rows) == [(2,)]
        with pytest.raises(UsageError, match="permission denied"):
            asked.ask("SELECT sha256 FROM api_key")


def test_an_auditor_writes_nothing(owned, make_role):
    engine, _ = make_role(Duty.AUDITOR)
    for table in (*metadata.tables, "alembic_version"):
        column = inspect(owned).get_columns(table)[0]["name"]
        for statement in (
            f"DELETE FROM {table}",
            f"UPDATE {table} SET {column} = {column}",
            f"INSERT INTO {table} DEFAULT VALUES",
            f"TRUNCATE {table}",
            f"LOCK TABLE {table}",
        ):
            assert refused(engine, statement) == DENIED, statement
    for statement in ("CREATE TABLE t(x integer)", "DROP VIEW job_audit", "SELECT nextval('ledger_id_seq')"):
        assert refused(engine, statement) == DENIED, statement


def test_the_tables_that_are_locked_as_a_whole_are_those_that_the_program_locks():
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(db.__path__[0]).glob("*.py"))
    assert set(LOCKED) == set(re.findall(r"LOCK TABLE (\w+)", sources))


def test_the_program_does_all_its_work_with_the_rights_of_app(owned, make_role, shop_of, make_artefact):
    # Given the program, logged in as app
    engine, _ = make_role(Duty.APP)
    check_schema(engine)
    repository = Repository(engine)
    shop = shop_of(repository)
    assert repository.elect(holder="h", ttl_seconds=30) == 1
    repository.set_weight("studio", weight=2)
    repository.add_key("r2i_x", client="studio", role=Role.ADMIN, name="x")
    assert repository.api_keys()
    policy = BudgetPolicy(scope=Scope.CLIENT, name="default", span="day", limit_micro_usd=10_000)
    repository.set_budget(policy, who="ana", reason="test")
    repository.resume_tier("cloud", who="ana", reason="test")
    made = make_artefact()
    repository.add_predictor(name="p", manifest=made.manifest, weights=made.weights, figures={})
    repository.promote_predictor(repository.predictors()[0].version, who="ana", reason="test")
    # When it submits, decides, draws, loses a worker, sweeps, cancels, retries, deletes pictures
    batch_id = shop.submit(6, budget=1_000)
    shop.window(size=2)
    shop.work()
    shop.expire(shop.poll())
    shop.sweep()
    claim = shop.poll()
    repository.record(claim, [shop.outcome(job, fails=True) for job in claim.jobs])
    repository.finish(claim)
    shop.expire(shop.poll())
    shop.sweep()
    repository.mark_sent(limits={"cloud": 5})
    repository.cancel_batch(batch_id)
    repository.beat(worker="w", tier="cloud", device="cpu", version="1", state="idle")
    names = shop.read("SELECT min(sha256) FROM picture")
    assert repository.delete_pictures([names], before_ms=2**60, batch_id=None, who="ana") == 1
    repository.finish_deletions([names])
    repository.recount_waiting()
    # Then every promise holds
    assert shop.is_sound()
    # And history and schema are out of its reach, not by triggers alone
    for table in ("ledger", "outcome", "assignment"):
        column = inspect(owned).get_columns(table)[0]["name"]
        assert refused(engine, f"UPDATE {table} SET {column} = {column}") == DENIED
        assert refused(engine, f"DELETE FROM {table}") == DENIED
    assert refused(engine, "DELETE FROM attempt") == DENIED
    for statement in (
        "CREATE TABLE t(x integer)",
        "ALTER TABLE job ADD COLUMN x TEXT",
        "DROP TABLE job CASCADE",
        "TRUNCATE job CASCADE",
        "UPDATE alembic_version SET version_num = '9999'",
        "DROP TRIGGER ledger_no_delete ON ledger",
    ):
        assert refused(engine, statement) == DENIED, statement


def test_the_statements_of_the_page_make_roles_that_can_be_granted_to(owned, tmp_path):
    # Given what docs/sql.md tells an administrator to type
    page = (Path(__file__).parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
    (statements,) = [one for one in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "CREATE ROLE" in one]
    roles = re.findall(r"CREATE ROLE (\w+)", statements)
    with transaction(owned) as connection:
        for statement in statements.split(";")[:-1]:
            connection.execute(text(statement))
    try:
        # When the owner types what the page goes on with
        granted = re.findall(r"routet2i db grant (\w+) --as (\w+)", page)
        assert [role for role, _ in granted] == roles
        for role, duty in granted:
            grant(owned, role, duty=Duty(duty))
        # Then the analyst reads, and cannot even begin to write
        engine = make_engine(owned.url.set(username="analyst").render_as_string(hide_password=False))
        assert list(audit.rows(engine)) == []
        assert refused(engine, "CREATE TEMP TABLE t(x integer)") == "25006"
        engine.dispose()
    finally:
        with transaction(owned) as connection:
            for role in roles:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))


def test_rights_of_another_duty_are_taken_away(owned, make_role):
    engine, role = make_role(Duty.APP)
    grant(owned, role, duty=Duty.AUDITOR)
    assert refused(engine, "INSERT INTO client(name, weight, virtual) VALUES('x', 1, 0)") == DENIED
    assert refused(engine, "SELECT sha256 FROM api_key") == DENIED


def test_roles_that_no_right_binds_and_roles_that_do_not_exist_are_refused(owned, make_role):
    with pytest.raises(UsageError, match="CREATE ROLE nobody-here"):
        grant(owned, "nobody-here", duty=Duty.AUDITOR)
    with pytest.raises(UsageError, match="superuser or owns"):
        grant(owned, owned.url.username or "postgres", duty=Duty.AUDITOR)
    with pytest.raises(UsageError, match="is no role"):
        grant(owned, 'x"; DROP TABLE job; --', duty=Duty.AUDITOR)
    # And where everybody may make tables, it is said, and nothing is granted
    engine, role = make_role()
    with transaction(owned) as connection:
        connection.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))
    try:
        with pytest.raises(UsageError, match="REVOKE CREATE ON SCHEMA public FROM PUBLIC"):
            grant(owned, role, duty=Duty.AUDITOR)
        assert refused(engine, "SELECT 1 FROM job") == DENIED
    finally:
        with transaction(owned) as connection:
            connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))


def test_sqlite_says_that_it_has_no_roles(make_database):
    engine = make_database("sqlite")
    with pytest.raises(UsageError, match="routet2i sql"):
        grant(engine, "auditor", duty=Duty.AUDITOR)
    engine.dispose()
