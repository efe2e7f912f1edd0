"""Clients share windows: places by weight, one client's jobs by haste, priority and age."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import event

from db import turns
from db.fairness import AGED, TICKS
from db.pauses import Paused
from db.repository import Repository
from db.session import make_engine, reading, upgrade
from db.vitals import vitals
from routet2i.contracts import SHADOW_CLIENT, BudgetPolicy, GenerationRequest, Scope


@pytest.fixture
def client_of(shop):
    """The client of each batch that was submitted."""

    def of(batch_id):
        return shop.read("SELECT client FROM batch WHERE id = :id", id=batch_id)

    return of


@pytest.fixture
def window(repository, shop, client_of):
    """Decide one window and return client -> jobs that were assigned."""

    def decide(limit):
        work = repository.open_window(limit=limit)
        if work is None:
            return Counter()
        repository.record_window(shop.plan(work))
        batches = Counter(job.batch_id for job in work.jobs)
        total = Counter()
        for batch_id, jobs in batches.items():
            total[client_of(batch_id)] += jobs
        return total

    return decide


def virtual(shop, name):
    """Jobs of weight 1 that a client's virtual time is long."""
    return shop.read("SELECT virtual FROM client WHERE name = :name", name=name) / TICKS


# ---------------------------------------------------------------- among clients


def test_a_client_with_many_jobs_delays_anothers_few_by_one_window_at_most(shop, window):
    # Given a client with much work, well under way
    shop.submit(500, client="big")
    for _ in range(3):
        assert window(20) == {"big": 20}
    # When another one submits ten jobs
    shop.submit(10, client="small")
    # Then they are all in the next window
    assert window(20) == {"big": 10, "small": 10}
    assert window(20) == {"big": 20}
    assert shop.is_sound()


def test_places_are_shared_by_weight(repository, shop, window):
    # Given two clients with much work, one of three times the weight
    repository.set_weight("gold", weight=3)
    shop.submit(400, client="gold")
    shop.submit(400, client="plain")
    # When twenty windows are decided
    total = sum((window(7) for _ in range(20)), Counter())
    # Then they got three quarters and one quarter, within one place
    assert abs(total["gold"] - 105) <= 1
    assert total["gold"] + total["plain"] == 140


def test_a_new_weight_holds_from_the_next_window_on(repository, shop, window):
    shop.submit(100, client="a")
    shop.submit(100, client="b")
    assert window(10) == {"a": 5, "b": 5}
    repository.set_weight("a", weight=4)
    assert window(10) == {"a": 8, "b": 2}


def test_a_client_that_comes_back_gets_no_credit_for_its_absence(shop, window):
    # Given a client that was served once and then asked for nothing while another was served for long
    shop.submit(200, client="stays")
    shop.submit(5, client="returns")
    window(10)
    for _ in range(5):
        window(10)
    # When it comes back with much work
    shop.submit(100, client="returns")
    # Then it has its half, no more
    first, second = window(10), window(10)
    assert abs(first["returns"] - 5) <= 1
    assert abs(first["returns"] + second["returns"] - 10) <= 1


def test_priority_never_puts_one_client_before_another(shop, window):
    shop.submit(50, client="loud", priority=100)
    shop.submit(50, client="quiet", priority=-100)
    assert window(10) == {"loud": 5, "quiet": 5}


def test_the_turns_of_clients_alternate_so_that_money_they_share_is_shared(repository, shop, client_of):
    # Given three clients, one of weight two
    repository.set_weight("b", weight=2)
    for client in "abc":
        shop.submit(20, client=client)
    # When a window is opened
    work = repository.open_window(limit=16)
    # Then any beginning of it is shared by weight, within one job
    turns = [client_of(job.batch_id) for job in work.jobs]
    for end in range(1, 17):
        counted = Counter(turns[:end])
        assert abs(counted["b"] - end / 2) <= 1
        assert abs(counted["a"] - counted["c"]) <= 1


def test_places_that_a_client_cannot_use_are_the_others(shop, window):
    # Given a client most of whose jobs are deferred
    batch = shop.submit(30, client="paused")
    shop.change("UPDATE job SET not_before_ms = 99999999999999 WHERE batch_id = :id AND seq > 2", id=batch)
    shop.submit(30, client="busy")
    # Then the window is full all the same
    assert window(10) == {"paused": 2, "busy": 8}
    assert window(10) == {"busy": 10}


@pytest.mark.parametrize("places", [1, 2, 10])
def test_a_deferred_job_has_used_its_place_so_that_those_who_can_pay_are_not_shut_out(
    repository, shop, window, places
):
    # Given two clients, one of which cannot pay
    broke = shop.submit(100, client="broke", budget=1)
    shop.submit(100, client="rich")
    # When windows are decided
    for _ in range(20 // places):
        work = repository.open_window(limit=places)
        repository.record_window(shop.plan(work, size=1, price=65, fallback_price=9))
    # Then the one that can had every other place
    assert shop.read("SELECT count(*) FROM assignment") == 10
    assert virtual(shop, "rich") == virtual(shop, "broke") == 10
    # And when there is money again, both have their half: no credit, no punishment
    raised = BudgetPolicy(scope=Scope.BATCH, name=broke, span="total", limit_micro_usd=1_000)
    repository.set_budget(raised, who="ann@desk", reason="")
    assert window(10) == {"broke": 5, "rich": 5}
    assert shop.is_sound()


def test_jobs_that_the_allocator_defers_have_used_their_places_too(repository, shop):
    shop.submit(2, client="a")
    work = repository.open_window(limit=10)
    deferred = tuple((job.job_id, "budget") for job in work.jobs)
    repository.record_window(replace(shop.plan(work), microbatches=(), deferred=deferred))
    assert virtual(shop, "a") == 2


def test_a_window_that_is_recorded_twice_is_charged_once(repository, shop):
    shop.submit(5, client="a")
    plan = shop.plan(repository.open_window(limit=3))
    repository.record_window(plan)
    repository.record_window(plan)
    assert virtual(shop, "a") == 3
    assert shop.read("SELECT max(reached) FROM decision_window") == 2 * TICKS


def test_two_schedulers_that_read_alike_are_charged_one_after_the_other(repository, shop):
    # Given two windows opened on the same queue, one of them larger
    shop.submit(20, client="a")
    shop.submit(20, client="b")
    small, large = repository.open_window(limit=4), repository.open_window(limit=10)
    # When both are recorded
    assert repository.record_window(shop.plan(small)).assigned == 4
    assert repository.record_window(shop.plan(large)).assigned == 6
    # Then what each really assigned is charged
    assert virtual(shop, "a") == virtual(shop, "b") == 5
    assert shop.is_sound()


def test_many_schedulers_at_once_share_alike(repository, shop, shop_of):
    # Given four clients, and four schedulers that know nothing of each other
    for client in "abcd":
        shop.submit(60, client=client)

    def schedule(_number):
        while (work := repository.open_window(limit=12)) is not None:
            repository.record_window(shop_of(repository).plan(work))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(schedule, range(4)))
    # Then every job was assigned once, and no client was charged less than it got
    assert shop.read("SELECT count(*) FROM assignment") == 240
    assert min(virtual(shop, name) for name in "abcd") >= 60
    assert shop.read("SELECT count(*) FROM waiting WHERE jobs <> 0") == 0
    assert shop.is_sound()


def test_shadows_take_no_part(repository, shop, window):
    shop.submit(4, client="a")
    assert window(10) == {"a": 4}
    shop.change("INSERT INTO client(name, weight, virtual) VALUES(:name, 1, 0)", name=SHADOW_CLIENT)
    assert [one.name for one in repository.clients()] == ["a"]


# ---------------------------------------------------------------- among one client's jobs


def test_a_job_whose_time_is_half_gone_goes_before_its_clients_other_jobs(repository, shop):
    # Given a batch of which three jobs are late, one a little later than the others, one not yet
    batch = shop.submit(20, client="a")
    shop.submit(20, client="b")
    for seq, jump in ((18, 100), (19, 50), (20, 100), (17, 99_999_999_999_999)):
        shop.change(
            "UPDATE job SET jump_ms = :jump WHERE batch_id = :batch AND seq = :seq",
            jump=jump,
            batch=batch,
            seq=seq,
        )
    # When a window is opened
    work = repository.open_window(limit=10)
    # Then they come first in their order, once each, and the other client has its half
    theirs = [job.prompt.split()[0] for job in work.jobs if job.batch_id == batch]
    assert theirs == ["19", "18", "20", "1", "2"]


@pytest.mark.parametrize("places", [1, 3, 16])
def test_old_jobs_are_served_under_an_endless_stream_of_higher_priority(repository, shop, places):
    # Given old jobs of low priority
    old = shop.submit(3, client="a", priority=-5)
    shop.submit(3, client="a")
    # When higher ones come without end
    windows = 0
    while shop.states(old) != {"assigned": 3}:
        shop.submit(places, client="a", priority=100)
        repository.record_window(shop.plan(repository.open_window(limit=places)))
        windows += 1
        assert windows * places <= 8 * 3 + places  # every eighth place is theirs
    assert shop.is_sound()


def test_a_stream_of_urgent_jobs_starves_nobody_either(repository, shop):
    old = shop.submit(1, client="a")
    for _ in range(3):
        late = shop.submit(4, client="a")
        shop.change("UPDATE job SET jump_ms = 5 WHERE batch_id = :id", id=late)
    repository.record_window(shop.plan(repository.open_window(limit=8)))
    assert shop.states(old) == {"assigned": 1}


def test_what_waits_is_counted_without_deferred_jobs_and_files_that_are_still_read(repository, shop):
    # Given two jobs that can be taken, one that is deferred, and a batch that is still coming in
    batch = shop.submit(3)
    shop.change("UPDATE job SET not_before_ms = 99999999999999 WHERE batch_id = :id AND seq = 1", id=batch)
    reading = shop.submit(5)
    shop.change("UPDATE batch SET state = 'ingesting' WHERE id = :id", id=reading)
    # Then two are counted, up to the limit
    assert repository.waiting_jobs(limit=10) == 2
    assert repository.waiting_jobs(limit=1) == 1
    # And one when the other is cancelled
    repository.cancel_job(shop.read("SELECT id FROM job WHERE batch_id = :id AND seq = 2", id=batch))
    assert repository.waiting_jobs(limit=10) == 1


# ---------------------------------------------------------------- jobs that ask for a tier


@pytest.fixture
def asking(repository):
    """Submit a batch whose lines ask for these tiers, None = any; return its id."""

    def submit(*wanted, client="a"):
        batch_id = repository.open_batch(
            client=client, idem_key="asks", body_sha256="asks", name="asks", budget_micro_usd=None
        ).batch_id
        lines = [
            GenerationRequest(
                line_no=line, custom_id=f"{line}", prompt=f"{tier} {line}", seed=line, n=1, tier=tier
            )
            for line, tier in enumerate(wanted, start=1)
        ]
        repository.add_jobs(batch_id, lines, [], cursor_line=len(lines))
        repository.close_intake(batch_id)
        return batch_id

    return submit


def told(repository, **options):
    work = repository.open_window(limit=4, **options)
    return [] if work is None else [job.prompt for job in work.jobs]


def test_jobs_that_ask_for_a_paused_tier_hold_up_none_behind_them(repository, shop, asking):
    # Given eight jobs that ask for the cloud before three others, and another client's five
    asking(*["cloud"] * 8, None, None, "edge")
    shop.submit(5, client="b")
    assert told(repository)[0] == "cloud 1"
    # When the cloud is paused, one of those jobs being deferred at that moment
    shop.change("UPDATE job SET not_before_ms = 99999999999999 WHERE tier = 'cloud' AND seq = 2")
    repository.pause(Paused.TIER, "cloud", who="ann@desk", reason="")
    # Then a window takes the others, and only they are counted: as waiting, and for their client's share
    assert [one for one in told(repository) if one.startswith(("None", "edge"))] == ["None 9", "None 10"]
    assert repository.waiting_jobs(limit=100) == 3 + 5
    assert [one.queued for one in repository.clients()] == [3, 5]
    # And when it is resumed, all are back in their order
    repository.resume(Paused.TIER, "cloud")
    assert [one for one in told(repository) if one.startswith("cloud")] == ["cloud 1", "cloud 3"]
    assert repository.waiting_jobs(limit=100) == 10 + 5
    assert shop.is_sound()


def test_a_client_that_asks_for_a_paused_tier_alone_has_no_share_and_waits_for_no_window(
    repository, shop, asking
):
    asking(*["cloud"] * 8)
    repository.pause(Paused.TIER, "cloud", who="ann@desk", reason="")
    assert vitals(repository.engine, tiers=["cloud"], live_seconds=15).waiting_seconds is None
    assert repository.waiting_jobs(limit=100) == 0
    assert told(repository) == []
    shop.submit(9, client="b")
    assert len(told(repository)) == 4


def test_jobs_that_ask_for_a_full_tier_are_left_out_and_the_others_fill_the_window(repository, shop, asking):
    asking(*["cloud"] * 8, None, None, "edge")
    assert told(repository, full={"cloud"}) == ["None 9", "None 10", "edge 11"]
    assert told(repository, full={"cloud", "edge"}) == ["None 9", "None 10"]
    # Also among the oldest, where most jobs have a higher priority
    shop.change("UPDATE job SET priority = 5 WHERE tier IS NULL")
    for _ in range(8):
        shop.change("UPDATE client SET virtual = virtual + 1")
        assert told(repository, full={"cloud"}) == ["None 9", "None 10", "edge 11"]


@pytest.mark.parametrize(("reason", "least"), [("tier_missing", 20), ("tier_paused", 20), ("capacity", 0)])
def test_a_job_whose_tier_a_person_must_bring_back_waits_longer_for_its_next_window(
    repository, shop, reason, least
):
    # Given a window that leaves its job queued
    shop.submit(1, client="a")
    work = repository.open_window(limit=1)
    left = replace(shop.plan(work), microbatches=(), deferred=((work.jobs[0].job_id, reason),))
    began = time.time()
    repository.record_window(left)
    # Then it is for a second, or for longer where the next ones would find the same
    pause = shop.read("SELECT not_before_ms FROM job") / 1000 - began
    assert least < pause < least + 15


# ---------------------------------------------------------------- for people, and for the clock


def test_clients_are_told_with_their_share_and_who_goes_before_them(repository, shop, window):
    # Given one that was served, one that waits, and one that has a weight only
    repository.set_weight("later", weight=5)
    shop.submit(4, client="served")
    window(4)
    shop.submit(9, client="waits")
    shop.submit(2, client="waits")
    # When they are listed
    later, served, waits = repository.clients()
    # Then each has its row
    assert (later.weight, later.queued, later.share, later.jobs_before) == (5, 0, None, None)
    assert (served.name, served.weight, served.queued, served.batches) == ("served", 1, 0, 0)
    assert (waits.queued, waits.batches, waits.share, waits.jobs_before) == (11, 2, 1.0, 0)


def test_a_thousand_clients_with_a_job_each_are_read_about_as_fast_as_one_with_a_thousand(engine, shop):
    # Given a thousand clients with a job each
    for number in range(1_000):
        shop.submit(1, client=f"client-{number}")
    many = seconds_to_take(engine)
    # When they make room for one client with a thousand jobs
    batch_id = shop.submit(1_000, client="one")
    shop.change("UPDATE batch SET state = 'ingesting' WHERE id <> :id", id=batch_id)
    one = seconds_to_take(engine)
    # Then reading them took a few times as long
    print(f"{engine.dialect.name}: {many:.4f} s, {one:.4f} s")
    assert many < 8 * one


def seconds_to_take(engine):
    """The fastest of five readings of a thousand jobs."""
    took = []
    for _ in range(5):
        with reading(engine) as connection:
            began = time.perf_counter()
            jobs = turns.take(connection, limit=1_000)
            took.append(time.perf_counter() - began)
        assert len(jobs) == 1_000
    return min(took)


@pytest.fixture
def misled(empty_postgresql, shop_of):
    """A shop whose planner knows thirty jobs of one client, and nothing else."""
    upgrade(empty_postgresql)
    engine = make_engine(empty_postgresql)
    shop = shop_of(Repository(engine))
    for _ in range(30):
        shop.submit(1, client="first")
    shop.change("ANALYZE job")
    yield shop
    engine.dispose()


def test_old_statistics_make_no_client_read_the_jobs_of_all_others(misled):
    # Given 200 more clients with a job each, all of whom have their oldest job looked up too
    for number in range(200):
        misled.submit(1, client=f"client-{number}")
    misled.change(
        "INSERT INTO client(name, weight, virtual) SELECT DISTINCT client, 1, :almost FROM batch",
        almost=(AGED - 1) * TICKS,
    )
    # When a window takes all of them
    pages = {turns.FIRST: 0, turns.OLDEST: 0}
    event.listen(misled.engine, "before_cursor_execute", lambda *told: count_pages(pages, *told[:4]))
    with reading(misled.engine) as connection:
        assert len(turns.take(connection, limit=300)) == 230
    # Then both questions read a few pages for each client
    for read in pages.values():
        assert 0 < read < 50 * 201


def count_pages(pages, connection, _cursor, statement, parameters):
    """Add what a statement of these reads to its pages."""
    for known in pages:
        if statement.startswith(known[:20]):
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
            plan = cursor.fetchone()[0][0]["Plan"]
            pages[known] += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
