"""Questions to the database: answered in parts, cancelled at once, and no way to change anything by one."""

import threading
import time

import pytest

from db import asking
from db.asking import Cancelled, reader, split
from db.outbox import CLAIM_LOCK
from db.repository import Repository
from db.session import make_engine
from routet2i.errors import ServiceUnavailable, UsageError

LONG = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}
MANY = {
    "sqlite": """WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3500)
                 SELECT x FROM n""",
    "postgresql": "SELECT x FROM generate_series(1, 3500) AS x",
}


@pytest.fixture
def asked(engine):
    with reader(engine.url.render_as_string(hide_password=False)) as opened:
        yield opened


def test_an_answer_has_columns_and_all_rows_though_it_is_read_in_parts(asked, engine):
    answer = asked.ask(MANY[engine.dialect.name])
    assert list(answer.columns) == ["x"]
    assert [row[0] for row in answer.rows] == list(range(1, 3501))
    # And the next question needs no more than to be asked
    assert list(asked.ask("SELECT 1 AS a, NULL AS b;").rows) == [(1, None)]
    # And one that was not read to its end is forgotten
    next(asked.ask(MANY[engine.dialect.name]).rows)
    assert list(asked.ask("VALUES (7)").rows) == [(7,)]


def test_what_was_committed_meanwhile_is_seen_by_the_next_question(asked, shop):
    question = "SELECT count(*) FROM batch_summary"
    assert list(asked.ask(question).rows) == [(0,)]
    shop.submit(1)
    assert list(asked.ask(question).rows) == [(1,)]


WRITES = [
    "DELETE FROM job",
    "  -- a comment\n /* and one */ UPDATE batch SET name = 'x'",
    "INSERT INTO client(name, weight, virtual) VALUES('x', 1, 0)",
    "INSERT INTO client(name, weight, virtual) VALUES('x', 1, 0) RETURNING name",
    "WITH x AS (SELECT 1) INSERT INTO client(name, weight, virtual) SELECT 'x', 1, 0 FROM x",
    "CREATE TABLE t(x INTEGER)",
    "CREATE TEMP TABLE t(x INTEGER)",
    "DROP TABLE client",
    "ALTER TABLE client ADD COLUMN x TEXT",
    "BEGIN",
    "COMMIT",
    "VACUUM",
    "ANALYZE",
    "SELECT 1; DELETE FROM client",
    "COMMIT; DELETE FROM client",
    "",
    ";",
    "-- nothing",
]
SQLITE_WRITES = [
    "ATTACH DATABASE '{other}' AS other",
    "PRAGMA query_only=OFF",
    "PRAGMA journal_mode=DELETE",
    "PRAGMA user_version=7",
    "PRAGMA writable_schema=ON",
    "SELECT load_extension('x')",
    "VACUUM INTO '{other}'",
    "REINDEX",
    "SAVEPOINT s",
    "EXPLAIN DELETE FROM client",
    "SELECT sha256 FROM api_key",
    "SELECT * FROM api_key",
]
POSTGRESQL_WRITES = [
    "WITH x AS (DELETE FROM client RETURNING name) SELECT * FROM x",
    "EXPLAIN ANALYZE DELETE FROM client",
    "EXPLAIN (ANALYZE) INSERT INTO client(name, weight, virtual) VALUES('x', 1, 0)",
    "SELECT nextval('ledger_id_seq')",
    "SELECT setval('ledger_id_seq', 77)",
    "SELECT * INTO t FROM client",
    "SELECT * FROM client FOR UPDATE",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT 1 UNION SELECT length(set_config('transaction_read_only', 'off', true))",
    "COPY client TO PROGRAM 'touch {other}'",
    "COPY client TO '{other}'",
    "COPY client FROM PROGRAM 'true'",
    "DO $$ BEGIN DELETE FROM client; END $$",
    "CALL x()",
    "LOCK TABLE client",
    "SELECT lo_create(0)",
    "SHOW x; DELETE FROM client",
    "SELECT $$;$$; DELETE FROM client",
    "SELECT 1 \\; DELETE FROM client",
    "NOTIFY x",
    "LISTEN x",
    "SELECT pg_read_file('PG_VERSION')",  # what follows a superuser may, as he is not asked here
    "SELECT pg_ls_dir('.')",
    "SELECT lo_export(1, '{other}')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT pg_reload_conf()",
    "SELECT pg_stat_reset()",
    "SELECT pg_switch_wal()",
]


def test_nothing_can_be_changed_by_any_question(asked, engine, shop, tmp_path):
    # Given a row
    shop.repository.set_weight("studio", weight=3)
    other = tmp_path / "other.db"
    theirs = SQLITE_WRITES if engine.dialect.name == "sqlite" else POSTGRESQL_WRITES
    for question in [*WRITES, *theirs]:
        # When somebody tries, then it is refused, in words
        with pytest.raises(UsageError) as refused:
            list(asked.ask(question.format(other=other) if "{other}" in question else question).rows)
        assert str(refused.value), question
        # And the next question is answered
        assert list(asked.ask("SELECT count(*), min(weight) FROM client").rows) == [(1, 3)], question
    # And the database is what it was
    assert not other.exists()
    assert shop.read("SELECT count(*) FROM client") == 1
    assert shop.repository.clients()[0].weight == 3
    shop.submit(1)
    assert shop.is_sound()


def test_a_setting_that_was_changed_does_not_outlive_its_question(asked, engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite refuses every PRAGMA that sets something")
    # When a question turns its session's default and its own time limit off, as functions may
    list(asked.ask("SELECT set_config('default_transaction_read_only', 'off', false)").rows)
    list(asked.ask("SELECT set_config('statement_timeout', '0', false)").rows)
    # Then the next one reads only, within its time
    assert list(asked.ask("SHOW transaction_read_only").rows) == [("on",)]
    assert list(asked.ask("SHOW statement_timeout").rows) == [("1min",)]
    # And who may do everything does not get that back either
    list(asked.ask("SELECT set_config('role', 'none', false)").rows)
    with pytest.raises(UsageError, match="permission denied"):
        asked.ask("SELECT pg_read_file('PG_VERSION')")


def test_a_lock_that_a_question_took_ends_with_it(asked, engine, shop):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no such locks")
    # Given a question that takes the lock under which deliveries are claimed
    list(asked.ask(f"SELECT pg_advisory_lock({CLAIM_LOCK})").rows)
    # When the next one is asked
    list(asked.ask("SELECT 1").rows)
    # Then whoever sends can claim
    assert shop.read(f"SELECT pg_try_advisory_xact_lock({CLAIM_LOCK})") is True


def test_a_question_is_cancelled_while_it_runs_and_the_connection_goes_on(asked, engine):
    # Given somebody who presses Ctrl-C until it is heard: one before the question is for no question
    over = threading.Event()

    def press():
        while not over.wait(0.3):
            asked.cancel()

    pressing = threading.Thread(target=press)
    pressing.start()
    begun = time.monotonic()
    try:
        with pytest.raises(Cancelled):
            list(asked.ask(LONG[engine.dialect.name]).rows)
    finally:
        over.set()
        pressing.join()
    # Then it does not run to its end, which is a minute away
    assert time.monotonic() - begun < 20
    assert list(asked.ask("SELECT 1").rows) == [(1,)]


def test_what_is_cancelled_between_two_of_its_statements_is_not_begun(asked, engine, monkeypatch):
    # Given a question that is cancelled while it is looked at, before the database hears of it
    known = asking._question

    def late(text):
        asked._cancelled = True
        return known(text)

    monkeypatch.setattr(asking, "_question", late)
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        list(asked.ask(LONG[engine.dialect.name]).rows)
    assert time.monotonic() - begun < 20
    monkeypatch.undo()
    assert list(asked.ask("SELECT 1").rows) == [(1,)]


def test_an_answer_is_cancelled_between_its_rows(asked, engine):
    rows = asked.ask(MANY[engine.dialect.name]).rows
    next(rows)
    asked.cancel()
    with pytest.raises(Cancelled):
        list(rows)
    assert list(asked.ask("SELECT 1").rows) == [(1,)]


def test_a_question_that_takes_too_long_ends_by_itself(engine, monkeypatch):
    monkeypatch.setattr(asking, "QUESTION_SECONDS", 0.2 if engine.dialect.name == "sqlite" else 1)
    with reader(engine.url.render_as_string(hide_password=False)) as asked:
        with pytest.raises(UsageError, match="takes longer than"):
            list(asked.ask(LONG[engine.dialect.name]).rows)
        assert list(asked.ask("SELECT 1").rows) == [(1,)]


@pytest.mark.parametrize(
    "question", ["SELECT * FROM nowhere", "SELEKT 1", "SELECT (", "SELECT 1 FROM job WHERE"]
)
def test_a_wrong_question_is_told_in_one_line(asked, question):
    with pytest.raises(UsageError) as told:
        list(asked.ask(question).rows)
    assert "\n" not in str(told.value)


def test_a_writer_is_not_kept_waiting_by_an_answer_that_is_read_slowly(asked, engine, shop):
    rows = asked.ask(MANY[engine.dialect.name]).rows
    next(rows)
    shop.submit(1)
    assert len(list(rows)) == 3499


def test_an_sqlite_file_is_neither_made_nor_touched_by_asking(tmp_path, sqlite_template):
    with (
        pytest.raises(ServiceUnavailable, match="cannot read"),
        reader(f"sqlite+pysqlite:///{tmp_path}/none.db"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    # And a database that is merely there is readable, whatever signs its path has
    file = tmp_path / "a #% b.db"
    file.write_bytes(sqlite_template)
    with reader(f"sqlite+pysqlite:///{file}") as asked:
        assert list(asked.ask("SELECT count(*) FROM job").rows) == [(0,)]
    assert file.read_bytes() == sqlite_template


def test_a_silent_database_is_told_without_its_secret():
    with (
        pytest.raises(ServiceUnavailable) as told,
        reader("postgresql+psycopg://user:s3cret@127.0.0.1:1/routet2i"),
    ):
        pass
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;\n-- x\nSELECT ';' ; ", ["SELECT 1", "-- x\nSELECT ';'"]),
        ('/* ; */ SELECT "a;b"; ; -- ;', ['/* ; */ SELECT "a;b"']),
        ("", []),
        ("  -- only\n", []),
        ("SELECT 'it''s; one'", ["SELECT 'it''s; one'"]),
    ],
)
def test_texts_are_split_where_a_semicolon_ends_a_statement(text, statements):
    assert list(split(text)) == statements


def test_asking_leaves_the_engines_of_others_alone(engine):
    with reader(engine.url.render_as_string(hide_password=False)) as asked:
        list(asked.ask("SELECT 1").rows)
    again = make_engine(engine.url.render_as_string(hide_password=False))
    assert Repository(again).clients() == []
    again.dispose()
