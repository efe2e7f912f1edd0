"""Previews that are submitted: each job gets what was promised, and the bill is the preview."""

import hashlib
import json
import random
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
    Prediction,
    PreviewHead,
    PreviewLine,
    Scope,
    TierKind,
    Yardstick,
)
from routet2i.errors import BudgetTooSmall, Conflict, NotFound, TierError
from routet2i.execution import Outcome, run_microbatch
from routet2i.fakes import FakeGenerator, FakePictures, FakeScorer
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.cli.results import tell
from scheduler.intake import guess_format
from scheduler.preview import plan
from scheduler.preview_lines import preview_lines
from scheduler.prompt_file import read_prompt_file
from scheduler.service import run_window
from scheduler.submit import submit_file

TIERS = read_tiers(packaged("pocket"))  # edge 9,000 and cloud 65,000 micro-dollars a picture
SQLITE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
SIZES = (None, (64, 64), (96, 64), (128, 128), (48, 80))
BATCHES = {"sqlite": 100, "postgresql": 10}


class ByNumber:
    """A predictor for prompts that end in their PRS in percent; it remembers what it was asked."""

    name = "by_number"
    version = "test"

    def __init__(self):
        self.asked = []

    def predict(self, prompts):
        self.asked += prompts
        return [_prediction(int(prompt.split()[-1]) / 100) for prompt in prompts]


def _prediction(prs):
    scores = {"edge": prs, "middle": 0.6, "cloud": 1 - prs}
    return Prediction(prs=prs, scores={tier: {"clarity": score / 3} for tier, score in scores.items()})


def write(path, numbers, **fields):
    path.write_text("".join(json.dumps({"prompt": f"a dog {one}"} | fields) + "\n" for one in numbers))
    return path


def preview(repository, path, *, tiers=TIERS, budget=None, share=None, yardstick=None):
    """Keep the plan of a file, as the command does; `share` puts the budget between least and most."""
    requests = [one for one in read_prompt_file(path, settings=Settings()) if hasattr(one, "prompt")]
    predictions = ByNumber().predict([one.prompt for one in requests])
    if share is not None:
        curve = plan(requests, predictions, tiers=tiers, yardstick=yardstick).curve
        budget = curve.floor + round(share * (curve.ceiling - curve.floor))
    made = plan(requests, predictions, tiers=tiers, yardstick=yardstick, budget=budget)
    head = PreviewHead(
        file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        fmt=guess_format(path),
        predictor_name=ByNumber.name,
        predictor_version=ByNumber.version,
        budget_micro_usd=budget,
        jobs=len(requests),
        micro_usd=made.preview.micro_usd,
    )
    lines = preview_lines(made, requests, predictions, tiers=tiers)
    return repository.find_preview(repository.add_preview(head, lines)), lines


def submit(repository, path, stored, *, tiers=TIERS, budget=None, key=None):
    return submit_file(
        repository, path, tiers=tiers, settings=Settings(), budget_micro_usd=budget, preview=stored, key=key
    )


def window(repository, predictor=None, *, tiers=TIERS, now=0.0, **settings):
    return run_window(
        repository, predictor or ByNumber(), tiers=tiers, settings=Settings(**settings), term=None, now=now
    )


def assigned(repository, batch_id):
    """What each line of a batch was assigned, as the lines of a preview."""
    with repository.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT j.seq, a.tier, a.reason, a.prs, a.threshold, a.micro_usd, a.scores FROM assignment a "
                "JOIN job j ON j.id = a.job_id WHERE j.batch_id = :id ORDER BY j.seq"
            ),
            {"id": batch_id},
        ).all()
    return [
        PreviewLine(
            line_no=row.seq,
            tier=row.tier,
            reason=row.reason,
            prs=row.prs,
            threshold=row.threshold,
            micro_usd=row.micro_usd,
            scores=json.loads(row.scores),
        )
        for row in rows
    ]


def waiting(repository, batch_id):
    """The reasons for which jobs of a batch wait, by line."""
    with repository.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT seq, defer_reason FROM job WHERE batch_id = :id AND state = 'queued'"),
            {"id": batch_id},
        )
        return {row.seq: row.defer_reason for row in rows}


def draw_all(repository, tiers):
    """Work off every ready microbatch as workers do, with fakes in place of models."""
    pictures = FakePictures()
    for tier in tiers.routed:
        while sent := repository.mark_sent(limits={tier: 1_000}):
            for one in sent:
                ended = run_microbatch(
                    one.microbatch_id,
                    store=repository,
                    profile=tiers[tier],
                    worker=f"fake-{tier}",
                    load=lambda: (FakeGenerator(distinct=False), FakeScorer(["clarity"])),
                    pictures=pictures,
                    lease_seconds=30.0,
                )
                assert ended is Outcome.DONE


# ---------------------------------------------------------------- the bill


def random_tiers(chance):
    """Tiers of two or three, with prices by picture, by pixels and steps, and by size."""

    def priced(name, kind, most):
        sizes = [size for size in SIZES if size is not None and chance.random() < 0.3]
        return replace(
            TIERS[kind.value],
            name=name,
            kind=kind,
            queue=name,
            micro_usd_per_image=chance.randint(0, most),
            micro_usd_per_megapixel_step=chance.choice((0, chance.randint(1, 5_000))),
            prices={f"{width}x{height}": chance.randint(0, 2 * most) for width, height in sizes},
        )

    profiles = {
        "edge": priced("edge", TierKind.EDGE, 10_000),
        "middle": priced("middle", TierKind.CLOUD, 40_000),
        "cloud": priced("cloud", TierKind.CLOUD, 90_000),
    }
    routed = ("edge", "middle", "cloud") if chance.random() < 0.5 else ("edge", "cloud")
    return replace(TIERS, profiles=profiles, routed=routed)


def random_file(path, chance):
    """Good lines of random size, number and priority, and a bad one now and then."""
    lines = []
    for number in range(chance.randint(1, 60)):
        size = chance.choice(SIZES)
        line = {
            "prompt": f"a dog {chance.randint(0, 100)}" if number == 0 or chance.random() < 0.95 else "",
            "n": chance.randint(1, 4),
            "priority": chance.randint(0, 2),
        }
        lines.append(line | ({} if size is None else {"width": size[0], "height": size[1]}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_a_preview_costs_is_reserved_and_charged_to_the_micro_dollar(repository, shop, tmp_path):
    yardstick = Yardstick(weights={"clarity": 1.0}, spans={"clarity": 0.1})
    tiers_used, moved = set(), 0
    for seed in range(BATCHES[repository.engine.dialect.name]):
        # Given a preview of a random file at random prices under a random budget
        chance = random.Random(seed)
        tiers = random_tiers(chance)
        path = random_file(tmp_path / f"{seed}.jsonl", chance)
        share = chance.choice((None, 0.0, 1.0, chance.random()))
        stored, lines = preview(repository, path, tiers=tiers, share=share, yardstick=yardstick)
        cost = stored.head.micro_usd
        assert sum(line.micro_usd for line in lines) == cost
        # When it is submitted, half of the times at other prices, and decided in windows of any size
        later = tiers if seed % 2 else random_tiers(chance)
        later = replace(later, routed=tiers.routed)
        submission = submit(repository, path, stored, tiers=later)
        moved += submission.repriced_micro_usd != cost
        predictor = ByNumber()
        size, parts = chance.randint(1, 80), chance.randint(1, 20)
        while window(repository, predictor, tiers=later, window_jobs=size, microbatch_jobs=parts):
            pass
        # Then each line has what the preview said, nobody asked for a prediction, and its cost is reserved
        assert assigned(repository, submission.batch_id) == lines
        assert predictor.asked == []
        assert submission.budget_micro_usd == cost
        assert shop.money(submission.batch_id) == (cost, 0)
        # And when all of it is drawn, that is the bill
        draw_all(repository, later)
        assert shop.money(submission.batch_id) == (0, cost)
        assert shop.states(submission.batch_id) == {"succeeded": len(lines)}
        tiers_used |= {line.tier for line in lines}
    assert tiers_used == {"edge", "middle", "cloud"}
    assert moved > 0
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
    preview(repository, write(tmp_path / "a.jsonl", [1]))
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
