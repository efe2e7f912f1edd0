"""The views for readers, held against `job_audit`, the ledger and the status after any course of events."""

from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from db.audit import batch_status, check_invariants
from db.balances import balances
from db.repository import JUST_BATCHES, Repository
from db.session import reading, transaction
from db.views import VIEWS
from routet2i.contracts import BudgetPolicy, Carry, JobState, Purse, Scope


def read(engine, statement, **parameters):
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]


def micro(usd):
    """Return dollars as exact micro-dollars: SQLite's are floats, PostgreSQL's are decimals."""
    return None if usd is None else round(Decimal(usd) * 1_000_000)


def test_every_view_has_the_columns_that_the_page_tells_of(engine):
    for name, view in VIEWS.items():
        with reading(engine) as connection:
            found = connection.execute(text(f"SELECT * FROM {name}"))
            assert list(found.keys()) == list(view.columns), name


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "window", "work", "fail", "take", "expire", "cancel", "cancel_job"]),
        st.integers(0, 5),
    ),
    min_size=4,
    max_size=18,
)


class Course:
    """A course of events on one database."""

    def __init__(self, shop):
        self.shop = shop
        self.batches = []
        self.claims = []

    def go(self, step, number):
        shop, repository = self.shop, self.shop.repository
        if step == "submit":
            client = ("default", "studio")[number % 2]
            self.batches.append(
                shop.submit(
                    number,
                    budget=None if number == 3 else 100 * number,
                    pictures=1 + number % 3,
                    client=client,
                )
            )
        elif step == "window":
            work = repository.open_window(limit=1 + number)
            if work is not None and work.jobs:
                tier, price = ("cloud", 65) if number % 2 else ("edge", 7)
                repository.record_window(
                    shop.plan(work, tier=tier, price=price, size=2, fallback_price=1 if number == 5 else None)
                )
        elif step in ("work", "fail", "take"):
            claim = repository.poll(tier=("edge", "cloud")[number % 2], worker=f"w{number}", lease_seconds=45)
            if claim is None:
                return
            if step == "take":
                self.claims.append(claim)
            else:
                repository.record(claim, [shop.outcome(job, fails=step == "fail") for job in claim.jobs])
                repository.finish(claim)
        elif step == "expire" and self.claims:
            shop.expire(self.claims.pop())
            shop.sweep()
        elif step == "cancel" and self.batches:
            repository.cancel_batch(self.batches[number % len(self.batches)])
        elif step == "cancel_job":
            found = read(shop.engine, "SELECT id FROM job ORDER BY id")
            if found:
                repository.cancel_job(found[number % len(found)]["id"])


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_the_views_say_what_the_rows_say_whatever_happened(dialect, make_database, shop_of, steps):
    # Given any course of events
    engine = make_database(dialect)
    shop = shop_of(Repository(engine))
    course = Course(shop)
    course.go("submit", 4)
    for step, number in steps:
        course.go(step, number)
    assert check_invariants(engine) == []
    # Then every view agrees with the rows
    agree_on_batches(engine, course.batches)
    agree_on_windows(engine)
    agree_on_tiers(engine)
    agree_on_budgets(engine)
    engine.dispose()


def agree_on_batches(engine, batch_ids):
    found = {row["batch_id"]: row for row in read(engine, "SELECT * FROM batch_summary")}
    assert set(found) == set(batch_ids)
    for batch_id in batch_ids:
        row, status = found[batch_id], batch_status(engine, batch_id)
        assert {state.value: row[state.value] for state in JobState} == dict(status.by_state)
        assert (row["accepted"], row["rejected"]) == (status.n_accepted, status.n_rejected)
        assert bool(row["complete"]) == status.complete
        assert (row["finished_at"] is not None) == status.complete
        assert micro(row["limit_usd"]) == status.limit_micro_usd
        assert (micro(row["reserved_usd"]), micro(row["spent_usd"])) == (
            status.reserved_micro_usd,
            status.spent_micro_usd,
        )
        assert row["device_seconds"] == pytest.approx(sum(status.device_seconds.values()))
        audited = read(engine, "SELECT * FROM job_audit WHERE batch_id = :id", id=batch_id)
        assert row["pictures"] == sum(one["image_sha256"] is not None for one in audited)
        assert row["spent_usd"] == pytest.approx(sum(one["cost_charged_usd"] or 0 for one in audited))
        # And one batch alone is the same row
        assert read(engine, "SELECT * FROM batch_summary WHERE batch_id = :id", id=batch_id) == [row]


def agree_on_windows(engine):
    rows = read(
        engine,
        """SELECT a.window_id, a.reason, a.prs, a.threshold, a.micro_usd, o.state, o.micro_usd AS charged
            FROM assignment a LEFT JOIN outcome o ON o.job_id = a.job_id""",
    )
    by_window = defaultdict(list)
    for row in rows:
        by_window[row["window_id"]].append(row)
    found = read(engine, "SELECT * FROM window_summary")
    assert {row["window_id"] for row in found} == {
        row["id"] for row in read(engine, "SELECT id FROM decision_window")
    }
    for row in found:
        every = by_window[row["window_id"]]
        ours = [one for one in every if one["reason"] != "shadow"]
        assert row["assigned"] == len(ours)
        assert row["shadows"] == len(every) - len(ours)
        assert row["finished"] == sum(one["state"] is not None for one in ours)
        assert row["succeeded"] == sum(one["state"] == "succeeded" for one in ours)
        assert micro(row["reserved_usd"]) == sum(one["micro_usd"] for one in ours)
        assert micro(row["charged_usd"]) == sum(one["charged"] or 0 for one in ours)
        assert micro(row["shadow_usd"]) == sum(one["micro_usd"] for one in every if one not in ours)
        assert row["prs_threshold"] == max((one["threshold"] for one in ours), default=None)


def agree_on_tiers(engine):
    audited = read(
        engine,
        """SELECT v.*, o.seconds FROM job_audit v JOIN outcome o ON o.job_id = v.job_id
            WHERE v.tier IS NOT NULL ORDER BY v.job_id, v.seed""",
    )
    by_tier = defaultdict(list)
    for row in audited:
        by_tier[row["finished_at"][:10], row["tier"]].append(row)
    found = read(engine, "SELECT * FROM tier_daily")
    assert {(row["day"], row["tier"]) for row in found} == set(by_tier)
    for row in found:
        rows = by_tier[row["day"], row["tier"]]
        jobs = {one["job_id"]: one for one in rows}.values()
        for state in ("succeeded", "failed", "cancelled"):
            assert row[state] == sum(one["state"] == state for one in jobs)
        drawn = [one for one in rows if one["image_sha256"] is not None]
        assert row["pictures"] == len(drawn)
        assert row["attempts"] == sum(one["attempts"] for one in jobs)
        assert micro(row["charged_usd"]) == sum(micro(one["cost_charged_usd"]) for one in rows)
        assert row["device_seconds"] == pytest.approx(sum(one["seconds"] for one in jobs))
        assert row["alignment_mean"] == (pytest.approx(0.75) if drawn else None)


def agree_on_budgets(engine):
    lines = read(engine, "SELECT * FROM ledger")
    for row in read(engine, "SELECT * FROM budget_status"):
        side = defaultdict(int)
        for line in lines:
            if (line["budget_id"], line["period"]) == (row["budget_id"], row["period"]):
                side[line["to_side"]] += line["micro_usd"]
                side[line["from_side"]] -= line["micro_usd"]
        assert micro(row["reserved_usd"]) == side["reserved"]
        assert micro(row["spent_usd"]) == side["spent"] + side["unknown"]
        assert micro(row["unknown_usd"]) == side["unknown"]
        assert micro(row["overrun_usd"]) == side["overrun"]
        if row["limit_usd"] is not None:
            assert micro(row["free_usd"]) == side["available"]


def test_shadows_stand_apart_in_windows_and_tiers_and_out_of_batches(shop):
    # Given a finished job and a shadow of it on the other tier
    batch_id = shop.submit(1)
    shop.window(price=65)
    shop.work()
    job = shop.read("SELECT id FROM job")
    with transaction(shop.engine) as connection:
        for statement in (
            """INSERT INTO batch(id, client, idem_key, body_sha256, name, state, n_accepted, n_rejected,
                                 cursor_line, created_ms)
                VALUES('s', 'shadow', 's', 's', 's', 'open', 1, 0, 1, 0)""",
            "INSERT INTO budget(id, period, lim, reserved, spent) VALUES('batch:s', 'total', 7, 0, 7)",
            f"""INSERT INTO job(id, batch_id, seq, custom_id, prompt, seed, n, priority, not_before_ms,
                    cancel_requested, state, created_ms, shadow_of, client, microbatch_id)
                SELECT 'sj', 's', 1, 'x', prompt, seed, 1, 0, 0, 0, 'done', 0, '{job}', 'shadow',
                       microbatch_id FROM job WHERE id = '{job}'""",
            f"""INSERT INTO assignment(job_id, window_id, tier, reason, prs, threshold, micro_usd, scores)
                SELECT 'sj', window_id, 'edge', 'shadow', prs, threshold, 7, scores FROM assignment
                 WHERE job_id = '{job}'""",
            f"""INSERT INTO outcome(job_id, state, tier, microbatch_id, fence, micro_usd, seconds, at_ms)
                SELECT 'sj', 'succeeded', 'edge', microbatch_id, 1, 7, 0.1, at_ms FROM outcome
                 WHERE job_id = '{job}'""",
        ):
            connection.execute(text(statement))
    # When the views are read
    (window,) = read(shop.engine, "SELECT * FROM window_summary")
    tiers = {row["tier"]: row for row in read(shop.engine, "SELECT * FROM tier_daily")}
    # Then users' jobs and money are what they were, and the shadow has columns of its own
    assert (window["assigned"], window["shadows"], micro(window["shadow_usd"])) == (1, 1, 7)
    assert (micro(window["reserved_usd"]), micro(window["charged_usd"])) == (65, 65)
    assert (tiers["cloud"]["succeeded"], tiers["cloud"]["shadows"]) == (1, 0)
    assert (tiers["edge"]["succeeded"], tiers["edge"]["pictures"], tiers["edge"]["shadows"]) == (0, 0, 1)
    assert (micro(tiers["edge"]["charged_usd"]), micro(tiers["edge"]["shadow_usd"])) == (0, 7)
    assert [row["batch_id"] for row in read(shop.engine, "SELECT * FROM batch_summary")] == [batch_id]
    assert {row["budget_id"] for row in read(shop.engine, "SELECT * FROM budget_status")} == {
        f"batch:{batch_id}",
        "batch:s",
    }


def test_a_purchase_whose_answer_was_lost_is_unknown_money(shop):
    # Given a budget and a ledger line of a lost answer
    batch_id = shop.submit(1, budget=100)
    line = """INSERT INTO ledger(event_id, budget_id, period, kind, from_side, to_side, micro_usd, at_ms)
              VALUES(:event, :budget, 'total', :kind, :source, :target, 30, 1)"""
    budget = f"batch:{batch_id}"
    shop.change(line, event="unknown:c", budget=budget, kind="settle", source="reserved", target="unknown")
    # Then it is unknown, until somebody knows
    question = "SELECT unknown_usd FROM budget_status"
    assert micro(read(shop.engine, question)[0]["unknown_usd"]) == 30
    shop.change(line, event="adjust:c", budget=budget, kind="adjust", source="unknown", target="spent")
    assert micro(read(shop.engine, question)[0]["unknown_usd"]) == 0


@pytest.mark.parametrize("span", ["minute", "hour", "day", "month", "total"])
def test_budget_status_knows_which_period_runs_and_who_set_it(shop, span):
    # Given a client's limit, set twice, on which a job has drawn
    for limit in (500, 900):
        shop.repository.set_budget(
            BudgetPolicy(
                scope=Scope.CLIENT, name="studio", span=span, limit_micro_usd=limit, carry=Carry.NONE
            ),
            who="ana",
            reason=f"limit {limit}",
        )
    for _ in range(3):  # a minute may end in between
        shop.submit(1, client="studio")
        shop.window(price=65)
        found = read(shop.engine, "SELECT * FROM budget_status WHERE scope = 'client' AND runs_now = 1")
        (shown,) = balances(shop.engine, purse=JUST_BATCHES, scope=Scope.CLIENT)
        if [one["period"] for one in found] == [shown.period]:
            break
    # Then the view says what `budget show` says
    (row,) = found
    assert (row["name"], row["span"], row["period"]) == ("studio", span, shown.period)
    assert (row["set_by"], row["reason"]) == ("ana", "limit 900")
    assert micro(row["limit_usd"]) == 900
    assert micro(row["free_usd"]) == shown.free_micro_usd
    # And a period that is over does not run
    shop.change("UPDATE budget SET reserved = 0 WHERE id LIKE 'batch:%'")
    if span != "total":
        shop.change(
            "INSERT INTO budget(id, period, lim, reserved, spent) VALUES(:id, '1999', 1, 0, 0)",
            id=row["budget_id"],
        )
        assert read(shop.engine, "SELECT runs_now FROM budget_status WHERE period = '1999'") == [
            {"runs_now": 0}
        ]


def test_a_budget_of_the_environments_period_says_that_its_length_is_not_known(shop):
    purse = Purse(
        deployment="default",
        policy=BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="900s", limit_micro_usd=1_000),
    )
    shop.submit(1)
    shop.window(price=65, purse=purse)
    (row,) = read(shop.engine, "SELECT * FROM budget_status WHERE scope = 'deployment'")
    assert (row["name"], row["span"], row["runs_now"], row["set_by"]) == ("default", "seconds", None, None)
    assert micro(row["reserved_usd"]) == 65
