"""Tiers with a limit and jobs with a deadline, on real databases; a worker is played by claim and record."""

from collections import Counter
from dataclasses import replace

from sqlalchemy import text

from db.audit import check_invariants
from db.dialects import run
from db.session import reading, transaction
from routet2i.contracts import Pool
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.service import Scheduler, run_window
from scheduler.submit import submit_file
from tests.integration.test_service import DEADLINE, ByNumber, FakeWorker, Running

TIERS = read_tiers(packaged("pocket"))


def limited(**limits):
    profiles = {name: replace(one, max_backlog=limits.get(name)) for name, one in TIERS.profiles.items()}
    return replace(TIERS, profiles=profiles)


def submit(shop, tmp_path, prompts, *, budget=None):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return submit_file(
        shop.repository, path, tiers=TIERS, settings=Settings(), budget_micro_usd=budget
    ).batch_id


def window(shop, tiers, **settings):
    """Decide a window as if no job had been deferred a moment ago."""
    shop.change("UPDATE job SET not_before_ms = 0 WHERE state = 'queued'")
    return run_window(shop.repository, ByNumber(), tiers=tiers, settings=Settings(**settings), term=None)


def decisions(shop):
    with reading(shop.engine) as connection:
        return Counter(tuple(row) for row in connection.execute(text("SELECT tier, reason FROM assignment")))


def unfinished(shop, tier):
    return shop.repository.pools([tier])[tier].unfinished


def test_a_tier_with_a_limit_has_at_most_so_many_unfinished_pictures(shop, tmp_path):
    # Given a cloud that may have ten before it, and thirty jobs that all gain there
    tiers = limited(cloud=10)
    submit(shop, tmp_path, [f"{n} circles {n}" for n in range(1, 31)])
    # When they are decided
    recorded = window(shop, tiers, microbatch_jobs=4)
    # Then ten go there, those that gain most, and the others say why they do not
    assert (recorded.assigned, recorded.deferred) == (30, 0)
    assert decisions(shop) == {
        ("cloud", "predicted_better_on_cloud"): 10,
        ("edge", "tier_full"): 20,
    }
    assert shop.read("SELECT max(prs) FROM assignment WHERE tier = 'cloud'") == 0.1
    assert unfinished(shop, "cloud") == 10
    # And what is drawn makes room for as many
    drawn = len(shop.work(tier="cloud").jobs)
    submit(shop, tmp_path, [f"{n} squares 5" for n in range(1, 12)])
    window(shop, tiers)
    assert unfinished(shop, "cloud") == 10
    assert decisions(shop)["cloud", "predicted_better_on_cloud"] == 10 + drawn
    assert shop.is_sound()


def test_where_all_tiers_are_full_jobs_stay_in_their_order_until_there_is_room(shop, tmp_path):
    # Given tiers that may have ten and five pictures before them, and forty jobs
    tiers = limited(edge=10, cloud=5)
    batch = submit(shop, tmp_path, [f"{n} circles {10 if n % 2 else 90}" for n in range(1, 41)])
    seen = Counter()
    for _ in range(40):
        # When windows are decided until nobody waits, and a microbatch is drawn after each
        recorded = window(shop, tiers, microbatch_jobs=3)
        seen[recorded is None] += 1
        assert unfinished(shop, "edge") <= 10
        assert unfinished(shop, "cloud") <= 5
        assert check_invariants(shop.engine) == []
        tier = "edge" if unfinished(shop, "edge") >= unfinished(shop, "cloud") else "cloud"
        if unfinished(shop, tier):
            shop.work(tier=tier)
        # Then the jobs that are decided are the first ones of the file
        decided = shop.read("SELECT count(*) FROM job WHERE state <> 'queued'")
        ahead = shop.read("SELECT count(*) FROM job WHERE state <> 'queued' AND seq > :n", n=decided + 15)
        assert ahead == 0
        if shop.states(batch) == {"succeeded": 40}:
            break
    # And in the end each was decided and drawn once
    assert shop.states(batch) == {"succeeded": 40}
    assert sum(decisions(shop).values()) == 40


def test_full_tiers_open_no_window_and_a_job_without_room_says_so(shop, tmp_path):
    # Given an edge with room for two, a cloud for one, and jobs that gain nothing on the cloud
    tiers = limited(edge=2, cloud=1)
    submit(shop, tmp_path, [f"{n} circles 90" for n in range(1, 7)])
    recorded = window(shop, tiers)
    # Then of the three that could find room the third waits, and says for what
    assert (recorded.assigned, recorded.deferred) == (2, 1)
    assert shop.read("SELECT count(*) FROM job WHERE defer_reason = 'capacity'") == 1
    # And once a better one has taken the cloud's room, nothing more is even read
    submit(shop, tmp_path, ["a 10"])
    shop.change("UPDATE job SET priority = 1 WHERE prompt = 'a 10'")
    assert window(shop, tiers).assigned == 1
    assert window(shop, tiers) is None
    assert shop.is_sound()


def test_a_running_scheduler_draws_a_batch_through_tiers_that_take_a_few_at_a_time(shop, tmp_path):
    # Given twenty jobs and tiers that may have three and two pictures before them
    batch = submit(shop, tmp_path, [f"{n} circles {5 * n}" for n in range(1, 21)])
    worker = FakeWorker(shop.repository, expected=20)
    for tier in ("edge", "cloud"):
        shop.repository.beat(worker=f"w-{tier}", tier=tier, device="cpu", version="1", state="idle")
    scheduler = Scheduler(
        shop.repository,
        ByNumber,
        tiers=limited(edge=3, cloud=2),
        settings=Settings(window_seconds=0.02),
        publish=worker,
        holder="one",
    )
    # When it runs
    with Running(scheduler):
        assert worker.done.wait(DEADLINE)
    # Then all are drawn
    assert shop.states(batch) == {"succeeded": 20}
    assert shop.is_sound()


def test_deadlines_take_the_tier_that_is_in_time(shop, tmp_path):
    # Given an edge that needs a second a picture and has thirty before it, and a quick cloud
    profiles = {
        "edge": replace(TIERS["edge"], seconds_per_image=1.0),
        "cloud": replace(TIERS["cloud"], seconds_per_image=0.1),
    }
    tiers = replace(TIERS, profiles=profiles)
    submit(shop, tmp_path, ["a 90"] * 30)
    window(shop, tiers)
    # When a job that is as good on the edge is wanted in ten seconds, and another one some day
    submit(shop, tmp_path, ["b 90", "c 90"])
    now = shop.read("SELECT max(created_ms) FROM job")
    shop.change(
        "UPDATE job SET deadline_ms = :at WHERE state = 'queued' AND prompt = 'b 90'", at=now + 10_000
    )
    window(shop, tiers)
    # Then the first goes to the cloud, for that reason
    assert decisions(shop) == {
        ("edge", "predicted_better_on_edge"): 31,
        ("cloud", "deadline"): 1,
    }
    assert shop.is_sound()


def test_measured_speeds_decide_about_deadlines_before_those_of_the_tier_file(shop, tmp_path):
    # Given a tier file that takes the edge for quick, and an edge that took half a second a picture
    profiles = TIERS.profiles | {"edge": replace(TIERS["edge"], seconds_per_image=0.001)}
    tiers = replace(TIERS, profiles=profiles)
    submit(shop, tmp_path, ["a 90"] * 4)
    window(shop, tiers)
    shop.work(tier="edge")
    submit(shop, tmp_path, ["b 90"] * 40)
    window(shop, tiers)
    submit(shop, tmp_path, ["c 90"])
    now = shop.read("SELECT max(created_ms) FROM job")
    shop.change("UPDATE job SET deadline_ms = :at WHERE state = 'queued'", at=now + 10_000)
    window(shop, tiers)
    assert decisions(shop)["cloud", "deadline"] == 1


def test_pools_count_what_is_assigned_and_not_drawn_and_who_is_there(shop):
    # Given two microbatches of three jobs of two pictures, one of them begun, and one worker
    shop.submit(6, pictures=2)
    shop.window(size=3)
    shop.repository.beat(worker="w1", tier="cloud", device="cpu", version="1", state="busy")
    claim = shop.poll()
    shop.repository.record(claim, shop.outcomes(claim)[:1])
    # Then the job that has its outcome is not counted
    assert shop.repository.pools(["cloud", "edge"]) == {
        "cloud": Pool(tier="cloud", unfinished=10, workers=1),
        "edge": Pool(tier="edge", unfinished=0, workers=0),
    }
    # And a sample of one microbatch is taken for all
    assert shop.repository.pools(["cloud"], sample=1)["cloud"].unfinished in (8, 12)


def test_counting_a_pool_walks_indexes(shop):
    # Given many finished microbatches and few unfinished ones
    shop.submit(600)
    shop.window(size=1)
    shop.change("UPDATE microbatch SET state = 'cancelled' WHERE tier = 'cloud'")
    shop.submit(3)
    shop.window(size=1)
    with transaction(shop.engine) as connection:
        run(connection, "ANALYZE")
        explain = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        told = run(
            connection,
            explain + "SELECT sum(j.n) FROM (SELECT id FROM microbatch WHERE tier = :tier "
            "AND state IN ('ready', 'sent', 'claimed') LIMIT :sample) AS m "
            "JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL "
            "WHERE j.state = 'assigned'",
            {"tier": "cloud", "sample": 10},
        )
        steps = "\n".join(str(tuple(row)) for row in told)
    assert "ix_microbatch_tier_state" in steps
    assert "ix_job_microbatch" in steps
