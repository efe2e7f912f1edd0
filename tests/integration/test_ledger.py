"""Money: guarded, deterministic, append-only; on SQLite and PostgreSQL."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from db import ledger
from db.ledger import Account, Wish, batch_account
from db.session import transaction, write


def reserve(shop, name, accounts, micro_usd):
    wish = Wish(microbatch_id=name, accounts=tuple(accounts), prices=(micro_usd,))

    def ask(connection):
        (verdict,) = ledger.reserve(connection, [wish], free=ledger.lock(connection, accounts))
        return verdict.granted is not None

    return write(shop.engine, ask)


def test_a_reservation_beyond_the_limit_is_refused_without_a_trace(shop):
    # Given 100 micro-USD
    account = batch_account(shop.submit(budget=100))
    # Then 100 fit and one more does not
    assert reserve(shop, "m1", (account,), 100)
    assert not reserve(shop, "m2", (account,), 1)
    assert shop.read("SELECT count(*) FROM ledger WHERE kind = 'reserve'") == 1


def test_a_refusal_by_the_second_account_gives_back_the_first(shop):
    # Given a rich batch and a poor hour
    rich = batch_account(shop.submit(budget=100))
    hour = Account(budget_id="a-deployment", period="1")  # sorts before the batch
    write(shop.engine, lambda c: ledger.open_account(c, hour, limit=10))
    accounts = tuple(sorted((rich, hour)))
    # When too much for the hour is asked for
    assert not reserve(shop, "m1", accounts, 11)
    # Then neither holds anything
    assert shop.read("SELECT sum(reserved) FROM budget") == 0
    assert reserve(shop, "m1", accounts, 10)
    assert shop.read("SELECT sum(reserved) FROM budget") == 20


def test_an_unlimited_budget_refuses_nothing_but_counts(shop):
    batch_id = shop.submit(budget=None)
    assert reserve(shop, "m1", (batch_account(batch_id),), 10**12)
    assert shop.money(batch_id) == (10**12, 0)


def test_a_limit_is_fixed_once(shop):
    account = batch_account(shop.submit(budget=5))
    write(shop.engine, lambda c: ledger.open_account(c, account, limit=500))
    assert shop.read("SELECT lim FROM budget") == 5


def test_a_replayed_event_collides_instead_of_posting_twice(shop):
    # Given a settled job
    batch_id = shop.submit(budget=100)
    account = batch_account(batch_id)
    reserve(shop, "m1", (account,), 20)
    settle = [ledger.settled("j1", micro_usd=10)]
    write(shop.engine, lambda c: ledger.post(c, settle, accounts=(account,)))
    # When it is settled again
    with pytest.raises(IntegrityError):
        write(shop.engine, lambda c: ledger.post(c, settle, accounts=(account,)))
    # Then it is paid once
    assert shop.money(batch_id) == (10, 10)


def test_a_whole_batch_is_told_by_its_ledger(repository, shop):
    # Given a batch that was reserved, charged less, and released
    batch_id = shop.submit(2, budget=1_000)
    shop.window(price=65)
    claim = shop.poll()
    repository.record(
        claim, [shop.outcome(claim.jobs[0], charged=60), shop.outcome(claim.jobs[1], fails=True)]
    )
    repository.finish(claim)
    # Then its ledger has one line per event, in order, with ids that tell of what
    with shop.engine.connect() as connection:
        lines = connection.execute(
            text("SELECT event_id, from_side, to_side, micro_usd FROM ledger ORDER BY id")
        ).all()
    first, second = (job.job_id for job in claim.jobs)
    assert [tuple(line) for line in lines] == [
        (f"grant:batch:{batch_id}/total", "owner", "available", 1_000),
        (f"reserve:{claim.microbatch_id}", "available", "reserved", 130),
        (f"settle:{first}", "reserved", "spent", 60),
        (f"release:{first}", "reserved", "available", 5),
        (f"release:{second}", "reserved", "available", 65),
    ]


def test_the_database_itself_refuses_to_overspend(shop):
    shop.submit(budget=10)
    with pytest.raises(IntegrityError), transaction(shop.engine) as connection:
        connection.execute(text("UPDATE budget SET spent = 11"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET micro_usd = 0",
        "DELETE FROM ledger",
        "UPDATE outcome SET state = 'failed'",
        "DELETE FROM outcome",
        "UPDATE assignment SET reason = 'x'",
        "DELETE FROM assignment",
        "UPDATE attempt SET error = 'x'",
        "UPDATE attempt SET ended_ms = NULL",
        "DELETE FROM attempt",
    ],
)
def test_history_can_be_neither_changed_nor_deleted(statement, shop):
    # Given a finished job
    shop.submit(1)
    shop.window()
    shop.work()
    # Then the database refuses to forget or to amend
    with pytest.raises(DBAPIError, match="append-only"), shop.engine.begin() as connection:
        connection.execute(text(statement))


def test_a_running_attempt_may_get_its_end_but_nothing_else(shop):
    shop.submit(1)
    shop.window()
    shop.poll()
    with pytest.raises(DBAPIError, match="append-only"), shop.engine.begin() as connection:
        connection.execute(text("UPDATE attempt SET worker_id = 'somebody else'"))
    shop.change("UPDATE attempt SET ended_ms = 5")
