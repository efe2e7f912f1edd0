"""Previews that are submitted: each job gets what was promised, and the bill is the preview."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from db import previews
from db.audit import check_invariants
from db.repository import Repository
from db.session import transaction
from db.story import job_story
from routet2i.contracts import (
    BudgetPolicy,
    Scope,
)
from routet2i.errors import BudgetTooSmall, Conflict, NotFound, TierError
from routet2i.settings import Settings
from scheduler.cli.results import tell
from scheduler.submit import submit_file
from tests.allocation.bills import TIERS, ByNumber, assigned, bill, preview, submit, window

SQLITE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
BATCHES = {"sqlite": 100, "postgresql": 10}


def write(path, numbers, **fields):
    path.write_text("".join(json.dumps({"prompt": f"a dog {one}"} | fields) + "\n" for one in numbers))
    return path


def waiting(repository, batch_id):
    """The reasons for which jobs of a batch wait, by line."""
    with repository.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT seq, defer_reason FROM job WHERE batch_id = :id AND state = 'queued'"),
            {"id": batch_id},
        )
        return {row.seq: row.defer_reason for row in rows}


# ---------------------------------------------------------------- the bill


def test_what_a_preview_costs_is_reserved_and_charged_to_the_micro_dollar(repository, shop, tmp_path):
    # Given previews of random files at random prices under random budgets
    # When each is submitted, half of them at other prices, decided in windows of any size, and drawn
    seeds = range(BATCHES[repository.engine.dialect.name])
    bills = [bill(repository, tmp_path, seed=seed) for seed in seeds]
    for one in bills:
        # Then each line has what the preview said, nobody asked for a prediction, and its cost is reserved
        assert one.kept == one.lines
        assert one.asked == 0
        assert one.promised == sum(line.micro_usd for line in one.lines) == one.limit == one.reserved
        # And when all of it is drawn, that is the bill
        assert (one.charged, one.held_back) == (one.promised, 0)
        assert shop.states(one.batch_id) == {"succeeded": len(one.lines)}
    assert {line.tier for one in bills for line in one.lines} == {"edge", "middle", "cloud"}
    assert any(one.repriced for one in bills)
    assert shop.is_sound()


# ---------------------------------------------------------------- windows


def test_locked_jobs_wait_for_the_deployments_money_and_take_no_cheaper_tier(repository, shop, tmp_path):
    # Given a preview of four jobs on the cloud, and a deployment that has money for two an hour
    stored, lines = preview(repository, write(tmp_path / "a.jsonl", [1, 2, 3, 4]))
    batch_id = submit(repository, tmp_path / "a.jsonl", stored).batch_id
    settings = {"budget_micro_usd": 150_000, "budget_period_seconds": 3600}
    # When a window is decided
    recorded = window(repository, **settings)
    # Then two have their tier, and two wait for the deployment, as often as they are looked at
    assert (recorded.assigned, recorded.deferred, recorded.fallback) == (2, 2, 0)
    assert waiting(repository, batch_id) == {3: "deployment_budget", 4: "deployment_budget"}
    shop.change("UPDATE job SET not_before_ms = 0")
    assert window(repository, **settings).assigned == 0
    # And in the next period they get what was promised
    shop.change("UPDATE job SET not_before_ms = 0")
    assert window(repository, now=3600.0, **settings).assigned == 2
    assert assigned(repository, batch_id) == lines
    assert shop.is_sound()


def test_a_refusal_of_the_ledger_itself_leaves_locked_jobs_queued(repository, shop, tmp_path, monkeypatch):
    # Given a client's budget that is taken between the reading of a window and its writing
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1, 2]))
    batch_id = submit(repository, tmp_path / "a.jsonl", stored).batch_id
    record = Repository.record_window
    poor = BudgetPolicy(scope=Scope.CLIENT, name="default", span="total", limit_micro_usd=60_000)

    def late(self, plan):
        self.set_budget(poor, who="someone", reason="a test")
        return record(self, plan)

    monkeypatch.setattr(Repository, "record_window", late)
    # When the window is decided
    recorded = window(repository)
    # Then nothing took the cheaper tier
    assert (recorded.assigned, recorded.deferred, recorded.fallback) == (0, 2, 0)
    assert set(waiting(repository, batch_id).values()) == {"client_budget"}


def test_free_jobs_beside_locked_ones_are_decided_with_what_these_leave(repository, shop, tmp_path):
    # Given a locked job on the cloud and a free batch that would like to go there
    stored, lines = preview(repository, write(tmp_path / "a.jsonl", [1]))
    locked = submit(repository, tmp_path / "a.jsonl", stored).batch_id
    free = submit(repository, write(tmp_path / "b.jsonl", [2, 60]), None).batch_id
    # When the deployment has money for one on the cloud and two on the edge
    predictor = ByNumber()
    predictor.name = "newer"
    recorded = window(repository, predictor, budget_micro_usd=65_000 + 18_000, shadow_share=1.0)
    # Then the locked one has it, and only the free ones were predicted and may be shadowed
    assert (recorded.assigned, recorded.fallback) == (3, 0)
    assert predictor.asked == ["a dog 2", "a dog 60"]
    assert assigned(repository, locked) == lines
    assert {line.tier for line in assigned(repository, free)} == {"edge"}
    told = job_story(repository.engine, repository.resolve_job("line-1", batch_id=locked))
    assert (told.preview_id, told.predictor_name) == (stored.preview_id, "by_number")
    assert ("preview", f"{stored.preview_id} chose tier and price before the submission") in tell(told)
    shadowed = "SELECT count(*) FROM job s JOIN job j ON j.id = s.shadow_of WHERE j.batch_id = :id"
    assert [shop.read(shadowed, id=one) for one in (locked, free)] == [0, 2]
    hit = "SELECT count(a.propensity) FROM assignment a JOIN job j ON j.id = a.job_id WHERE j.batch_id = :id"
    assert [shop.read(hit, id=one) for one in (locked, free)] == [0, 2]
    assert shop.is_sound()


@SQLITE
def test_a_tier_that_vanishes_after_the_submission_is_waited_for(repository, shop, tmp_path):
    # Given a submitted preview that promises the cloud
    stored, lines = preview(repository, write(tmp_path / "a.jsonl", [1]))
    batch_id = submit(repository, tmp_path / "a.jsonl", stored).batch_id
    renamed = replace(TIERS["cloud"], name="heaven")
    without = replace(
        TIERS, profiles={"edge": TIERS["edge"], "heaven": renamed}, cloud="heaven", routed=("edge", "heaven")
    )
    # When a window is decided without it, then the job waits, and gets it once it is back
    window(repository, tiers=without)
    assert waiting(repository, batch_id) == {1: "tier_missing"}
    shop.change("UPDATE job SET not_before_ms = 0")
    window(repository)
    assert assigned(repository, batch_id) == lines


def test_what_is_promised_is_found_by_keys_alone(repository):
    # Given the statement that a window asks for its locked jobs
    seen = []
    with transaction(repository.engine) as connection:
        event.listen(connection, "before_cursor_execute", lambda *told: seen.append(told[2:4]))
        previews.promised(connection, ["a"])
    ((statement, parameters),) = seen
    # When the database is asked how it answers that
    sqlite = repository.engine.dialect.name == "sqlite"
    with transaction(repository.engine) as connection:
        if not sqlite:  # tables without rows are walked through unless that is forbidden
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        told = [row[-1] for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)]
    # Then neither lines nor jobs nor batches are walked through: it takes as long however many there are
    assert [line for line in told if line.strip().startswith(("SCAN j ", "SCAN b ", "SCAN p "))] == []
    assert [line for line in told if line in ("SCAN j", "SCAN b", "SCAN p")] == []
    assert [line for line in told if "Seq Scan" in line] == []


# ---------------------------------------------------------------- submitting


@SQLITE
def test_a_preview_is_submitted_once_per_key(repository, tmp_path):
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1, 90]))
    first, again = (submit(repository, tmp_path / "a.jsonl", stored) for _ in range(2))
    assert (again.batch_id, again.created) == (first.batch_id, False)
    # Another key is another batch; the same one without the preview is a conflict
    other = submit(repository, tmp_path / "a.jsonl", stored, key="mine")
    assert other.batch_id != first.batch_id
    with pytest.raises(Conflict, match="used before"):
        submit(repository, tmp_path / "a.jsonl", None, key="mine", budget=stored.head.micro_usd)
    # And without a key the plain submission of the same budget is a batch of its own
    plain = submit(repository, tmp_path / "a.jsonl", None, budget=stored.head.micro_usd)
    assert plain.batch_id != first.batch_id


@SQLITE
def test_a_budget_may_give_more_than_the_preview_costs_but_not_less(repository, shop, tmp_path):
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1, 90]))
    assert stored.head.micro_usd == 74_000
    with pytest.raises(BudgetTooSmall, match=r"type --budget 0\.074 or more, or leave it out"):
        submit(repository, tmp_path / "a.jsonl", stored, budget=73_999)
    assert shop.read("SELECT count(*) FROM batch") == 0
    more = submit(repository, tmp_path / "a.jsonl", stored, budget=80_000)
    assert shop.read("SELECT lim FROM budget WHERE id = :id", id=f"batch:{more.batch_id}") == 80_000


@SQLITE
def test_another_file_format_or_reading_is_a_conflict(repository, shop, tmp_path):
    path = write(tmp_path / "a.jsonl", [1, 90])
    stored, _ = preview(repository, path)
    with pytest.raises(Conflict, match="type --format jsonl"):
        submit_file(
            repository,
            path,
            tiers=TIERS,
            settings=Settings(),
            budget_micro_usd=None,
            preview=stored,
            fmt="text",
        )
    with pytest.raises(Conflict, match="ROUTET2I_MAX_PROMPT_CHARS"):
        submit_file(
            repository,
            path,
            tiers=TIERS,
            settings=Settings(max_prompt_chars=7),
            budget_micro_usd=None,
            preview=stored,
        )
    write(path, [1, 91])
    with pytest.raises(Conflict, match="is not the file that preview"):
        submit(repository, path, stored)
    assert shop.read("SELECT count(*) FROM batch") == 0


@SQLITE
def test_a_preview_whose_tier_is_gone_is_refused(repository, shop, tmp_path):
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1]))
    only = replace(TIERS, profiles={"edge": TIERS["edge"]})
    with pytest.raises(TierError, match=r"sends jobs to tier 'cloud', which is not in .*; put it back"):
        submit(repository, tmp_path / "a.jsonl", stored, tiers=only)
    assert shop.read("SELECT count(*) FROM batch") == 0


@SQLITE
def test_prices_that_changed_are_counted_and_the_previews_stand(repository, tmp_path):
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1, 90], n=2))
    dearer = replace(TIERS["cloud"], micro_usd_per_image=70_000)
    submission = submit(
        repository,
        tmp_path / "a.jsonl",
        stored,
        tiers=replace(TIERS, profiles={"edge": TIERS["edge"], "cloud": dearer}),
    )
    assert (submission.repriced_jobs, submission.repriced_micro_usd) == (1, 158_000)
    assert submission.preview_micro_usd == submission.budget_micro_usd == 148_000


# ---------------------------------------------------------------- rows


def test_previews_are_found_by_id_prefix_and_last(repository, tmp_path):
    with pytest.raises(NotFound, match="type: routet2i preview FILE"):
        repository.find_preview("last")
    path = write(tmp_path / "a.jsonl", [1, 90])
    (first, _), (second, lines) = preview(repository, path), preview(repository, path)
    assert repository.find_preview("last") == second
    assert repository.find_preview(first.preview_id) == first
    assert second.prices == {line.line_no: (line.tier, line.micro_usd) for line in lines}
    with pytest.raises(NotFound, match="several previews"):
        repository.find_preview(first.preview_id[:2])


def test_a_preview_that_was_cut_off_cannot_be_submitted(repository, tmp_path):
    stored, lines = preview(repository, write(tmp_path / "a.jsonl", [1, 90]))
    half = repository.add_preview(stored.head, lines[:1])
    with pytest.raises(Conflict, match="1 of 2 lines"):
        repository.find_preview(half)


@pytest.mark.parametrize("table", ["preview", "preview_line"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET micro_usd = 1", "DELETE FROM {}"])
def test_a_promise_is_never_changed(repository, tmp_path, table, verb):
    # Given a preview that a batch names
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1]))
    submit(repository, tmp_path / "a.jsonl", stored)
    with pytest.raises(DBAPIError, match=f"{table} is append-only"), repository.engine.begin() as connection:
        connection.execute(text(verb.format(table)))


@SQLITE
def test_a_broken_promise_breaks_an_invariant(repository, shop, tmp_path):
    stored, _ = preview(repository, write(tmp_path / "a.jsonl", [1]))
    submit(repository, tmp_path / "a.jsonl", stored)
    window(repository)
    assert shop.is_sound()
    shop.change("DROP TRIGGER assignment_no_update")
    shop.change("UPDATE assignment SET prs = 0.2")
    assert [one.invariant for one in check_invariants(repository.engine)] == ["I12"]
