"""Files and orders of the HTTP interface and the clerk that moves them, on both databases."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from types import SimpleNamespace

import pytest
from openai import OpenAI
from openai.types.webhooks import (
    BatchCancelledWebhookEvent,
    BatchCompletedWebhookEvent,
    BatchExpiredWebhookEvent,
    BatchFailedWebhookEvent,
)
from structlog.testing import capture_logs

from db import lines
from db.api_batches import State
from db.files import Purpose
from db.session import write
from routet2i import failpoints
from routet2i.contracts import BatchEvent
from routet2i.errors import Conflict, NotFound
from routet2i.images import ImageStore
from routet2i.settings import Settings
from routet2i.tiers import packaged
from scheduler.answer_lines import error_line, output_line, shower
from scheduler.clerk import FULL_SECONDS, LATEST_SECONDS, Clerk
from scheduler.file_store import FileStore
from scheduler.picture_links import PURPOSE, PictureLinks
from scheduler.submit import submit_file
from scheduler.webhooks.signature import headers
from tests.protocol.world import order as an_order

SECRET = "whsec_" + "a2V5" * 11


def no_address(sha256):
    raise AssertionError(f"nobody asked for the address of {sha256}")


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture
def clerk(repository, settings):
    return Clerk(repository, settings)


def request(custom_id, prompt="a red circle", **body):
    return json.dumps(
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/images/generations",
            "body": {"prompt": prompt, **body},
        }
    )


def content(jobs, *, bad=0):
    rows = [request(f"job-{n}") for n in range(jobs)] + [request(f"bad-{n}", "") for n in range(bad)]
    return "\n".join(rows).encode()


@pytest.fixture
def uploaded(repository, settings):
    """Upload bytes for a client."""

    def upload(raw, *, client="ann", seconds=None):
        name, size = FileStore(root=settings.files).put(io.BytesIO(raw))
        return repository.add_file(
            client=client, filename="lines.jsonl", size=size, sha256=name, seconds=seconds
        )

    return upload


@pytest.fixture
def ordered(repository, uploaded):
    """Order a batch of bytes."""

    def order(raw, **wanted):
        file = uploaded(raw)
        made = replace(an_order(file.id, key=None), name="lines.jsonl")
        return repository.order_batch(replace(made, **wanted))[0]

    return order


def look(repository, clerk, order, times=1):
    """Let a clerk look at once, and return what the order is then."""
    for _ in range(times):
        repository.look_again(order.id, seconds=0)
        clerk.step()
    return repository.find_order(order.id)


def draw(shop, settings, *, jobs=None):
    """Decide and draw all that waits, or so many jobs of the first microbatch."""
    store = ImageStore(root=settings.pictures)
    shop.window()
    while True:
        claim = shop.repository.poll(tier="cloud", worker="w1", lease_seconds=45)
        if claim is None:
            return
        outcomes = []
        for job in claim.jobs[:jobs]:
            outcome = shop.outcome(job)
            names = [store.put(f"{job.job_id} {one.index}".encode()) for one in outcome.pictures]
            pictures = [replace(one, sha256=name) for one, name in zip(outcome.pictures, names, strict=True)]
            outcomes.append(replace(outcome, pictures=tuple(pictures)))
        assert shop.repository.record(claim, outcomes)
        if jobs is not None:
            return
        assert shop.repository.finish(claim)


def lose_workers(shop):
    """Let all leases lie in the past, and sweep."""
    shop.change("UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
    shop.sweep()


def test_an_order_goes_from_validating_to_completed(repository, shop, settings, clerk, ordered):
    # Given an order of three good lines and a bad one
    order = ordered(content(3, bad=1))
    assert (order.state, order.total) == (State.VALIDATING, 0)
    # When a clerk reads its file
    order = look(repository, clerk, order)
    assert order.state is State.IN_PROGRESS
    assert order.batch_id is not None
    # Then its jobs wait, and are counted while they are drawn
    assert shop.states(order.batch_id) == {"queued": 3}
    order = look(repository, clerk, order)
    assert (order.total, order.completed, order.failed) == (4, 0, 1)
    draw(shop, settings)
    # And it ends with both files, whose sizes are those of what is read
    order = look(repository, clerk, order, times=2)
    assert (order.state, order.completed, order.failed) == (State.COMPLETED, 3, 1)
    assert order.created_ms <= order.in_progress_ms <= order.finalizing_ms <= order.completed_ms
    output, errors = (repository.find_file(one) for one in (order.output_file_id, order.error_file_id))
    assert (output.purpose, output.client, output.sha256) == (Purpose.OUTPUT, "ann", None)
    show = shower(ImageStore(root=settings.pictures), address=no_address)
    read = [
        output_line(one, batch_id=order.batch_id, show=show)
        for one in lines.delivered(repository.engine, order.batch_id)
    ]
    assert [json.loads(one)["custom_id"] for one in read] == ["job-0", "job-1", "job-2"]
    assert output.bytes == sum(map(len, read))
    (bad,) = lines.missing(repository.engine, order.batch_id)
    assert (bad.custom_id, bad.line_no, bad.state) == ("bad-0", 4, "rejected")
    assert errors.bytes == len(error_line(bad, order_id=order.id, ending="completed"))
    assert repository.find_order_of(output.id).id == order.id
    # And nobody looks at it any more
    assert not clerk.step()
    assert shop.is_sound()


def test_a_key_is_one_order_and_another_body_a_conflict(repository, ordered):
    first = ordered(content(1), idem_key="k")
    assert ordered(content(1), idem_key="k").id == first.id
    with pytest.raises(Conflict, match="Idempotency-Key"):
        ordered(content(1), idem_key="k", body_sha256="other")
    assert ordered(content(1)).id != ordered(content(1)).id


def test_a_key_finds_its_order_when_the_file_is_gone(repository, shop, uploaded):
    # Given orders whose files are deleted, or too old
    files = [uploaded(content(1)), uploaded(content(2))]
    made = [
        repository.order_batch(an_order(file.id, key=str(n), body=str(n)))[0] for n, file in enumerate(files)
    ]
    repository.delete_file(files[0].id)
    shop.change("UPDATE file SET expires_ms = 1 WHERE id = :id", id=files[1].id)
    for n, file in enumerate(files):
        # When they are sent again, Then they are the same
        again = repository.order_batch(an_order(file.id, key=str(n), body=str(n)))
        assert again == (made[n], False)
        assert repository.find_order_by_key(client="ann", idem_key=str(n)) == made[n]
        # And another order of the key is refused, and a new one has no file
        with pytest.raises(Conflict, match="Idempotency-Key"):
            repository.order_batch(an_order(file.id, key=str(n), body="other"))
        with pytest.raises(NotFound):
            repository.order_batch(an_order(file.id, key=f"new {n}"))
    assert repository.find_order_by_key(client="bob", idem_key="0") is None


def test_many_requests_with_one_key_make_one_order(repository, ordered):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ordered(content(1), idem_key="k").id, range(16)))
    assert len(set(found)) == 1


def test_a_cancelled_order_keeps_what_was_drawn(repository, shop, settings, clerk, ordered):
    # Given an order of which two of five jobs are drawn, and a worker has the rest
    order = look(repository, clerk, ordered(content(5)))
    draw(shop, settings, jobs=2)
    # When it is cancelled
    assert repository.move_order(
        order.id, before=State.IN_PROGRESS, after=State.CANCELLING, ending=State.CANCELLED
    )
    # Then it waits for the worker
    order = look(repository, clerk, order)
    assert (order.state, order.completed) == (State.CANCELLING, 2)
    lose_workers(shop)
    order = look(repository, clerk, order)
    # And has both files in the end
    assert order.state is State.CANCELLED
    assert order.cancelling_ms <= order.cancelled_ms
    assert len(list(lines.delivered(repository.engine, order.batch_id))) == 2
    left = list(lines.missing(repository.engine, order.batch_id))
    assert [one.state for one in left] == ["cancelled"] * 3
    assert json.loads(error_line(left[0], order_id=order.id, ending=order.ending))["error"]["code"] == (
        "batch_cancelled"
    )
    assert shop.is_sound()


def test_an_order_cancelled_before_its_file_was_read_makes_no_batch(repository, shop, clerk, ordered):
    order = ordered(content(3))
    assert repository.move_order(
        order.id, before=State.VALIDATING, after=State.CANCELLING, ending=State.CANCELLED
    )
    order = look(repository, clerk, order)
    assert (order.state, order.batch_id, order.output_file_id) == (State.CANCELLED, None, None)
    assert shop.read("SELECT count(*) FROM batch") == 0


def test_an_order_that_is_cancelled_while_its_file_is_read_draws_nothing(
    repository, shop, settings, ordered, monkeypatch
):
    # Given a clerk that reads a file of three commits
    monkeypatch.setattr("scheduler.submit.LINES_PER_COMMIT", 2)
    order = ordered(content(6))

    class Interrupted(Clerk):
        def _renew(self, order, *, total):
            repository.move_order(
                order.id, before=State.VALIDATING, after=State.CANCELLING, ending=State.CANCELLED
            )
            Clerk(repository, settings)._finish(repository.find_order(order.id))

    # When it is cancelled after the first, and another clerk finishes it
    order = look(repository, Interrupted(repository, settings), order)
    # Then nothing waits for a window
    assert order.state is State.CANCELLED
    assert shop.states(order.batch_id) == {"cancelled": 2}
    assert repository.open_window(limit=10) is None
    assert shop.is_sound()


def test_an_order_ends_with_its_window(repository, shop, settings, clerk, ordered):
    # Given an order of which one of three jobs is drawn when its window ends
    order = look(repository, clerk, ordered(content(3)))
    draw(shop, settings, jobs=1)
    shop.change("UPDATE api_batch SET expires_ms = 1")
    # When a clerk looks, even if it dies before it has stopped the rest
    order = look(repository, clerk, order)
    assert (order.state, order.ending) == (State.FINALIZING, State.EXPIRED)
    lose_workers(shop)
    order = look(repository, clerk, order)
    # Then what was drawn stays
    assert (order.state, order.total, order.completed) == (State.EXPIRED, 3, 1)
    assert shop.states(order.batch_id) == {"succeeded": 1, "cancelled": 2}


def test_an_order_whose_window_ends_before_its_file_is_read_expires(repository, shop, clerk, ordered):
    order = ordered(content(3))
    shop.change("UPDATE api_batch SET expires_ms = 1")
    order = look(repository, clerk, order, times=2)
    assert (order.state, order.batch_id) == (State.EXPIRED, None)


def test_a_batch_that_is_cancelled_by_hand_cancels_its_order(repository, shop, clerk, ordered):
    order = look(repository, clerk, ordered(content(2)))
    repository.cancel_batch(order.batch_id)
    assert look(repository, clerk, order, times=2).state is State.CANCELLED


@pytest.mark.parametrize(
    ("raw", "wanted", "code"),
    [
        (b"not JSON\n{}", {}, "invalid_line"),
        (b"\n\n", {}, "invalid_file"),
        (b"\x1f\x8b zipped", {}, "invalid_file"),
        (content(2), {"budget_micro_usd": 1}, "budget_too_small"),
        (content(2), {"preview_id": "01a20186-275e-73f8-92e6-fae009569f99"}, "not_found"),
    ],
)
def test_an_order_that_cannot_be_read_or_paid_fails_with_reasons(
    repository, shop, settings, clerk, ordered, raw, wanted, code
):
    order = look(repository, clerk, ordered(raw, **wanted))
    assert order.state is State.FAILED
    errors = json.loads(order.errors)
    assert {one["code"] for one in errors} == {code}
    assert str(settings.home) not in order.errors
    assert repository.open_window(limit=10) is None
    assert not clerk.step()


def test_an_order_waits_at_a_full_queue(repository, shop, settings, ordered):
    # Given a queue with room for two jobs, and one that waits
    shop.submit(1)
    clerk = Clerk(repository, settings.with_changes(queue_jobs=2))
    order = look(repository, clerk, ordered(content(2)))
    assert (order.state, order.batch_id) == (State.VALIDATING, None)
    # When there is room, Then it comes in
    shop.window()
    assert look(repository, clerk, order).state is State.IN_PROGRESS


def test_a_file_that_takes_long_to_read_knocks_less_often_at_a_full_queue(
    repository, shop, settings, ordered, monkeypatch
):
    # Given a full queue, a file that takes half a second to read, and one that takes no time
    shop.submit(1)
    clerk = Clerk(repository, settings.with_changes(queue_jobs=2))
    clock = [0.0]  # nothing else takes time by it, on the slowest machine
    monkeypatch.setattr("scheduler.clerk.time", SimpleNamespace(monotonic=lambda: clock[0]))
    quick = ordered(content(2))
    least, most = _waits(shop, repository, clerk, quick)
    assert least <= FULL_SECONDS <= most

    def slow(*args, **kwargs):
        clock[0] += 0.5
        return submit_file(*args, **kwargs)

    monkeypatch.setattr("scheduler.clerk.submit_file", slow)
    long = ordered(content(2))
    # When each was refused, Then the long one is left alone ten times as long
    least, most = _waits(shop, repository, clerk, long)
    assert least <= 5 <= most
    # And never longer than a minute
    monkeypatch.setattr("scheduler.clerk.SHARE", 0.001)
    least, most = _waits(shop, repository, clerk, long)
    assert least <= LATEST_SECONDS <= most
    # And when there is room, then it comes in
    shop.window()
    assert look(repository, clerk, long).state is State.IN_PROGRESS


def _waits(shop, repository, clerk, order):
    """Let a clerk look at once; return for how many seconds it leaves the order alone, at least and at most.

    They differ by what the look itself took.
    """
    shop.change("UPDATE api_batch SET look_ms = created_ms + 3600000")
    before_ms = repository.moment_before(seconds=0)
    assert look(repository, clerk, order).state is State.VALIDATING
    after_ms = repository.moment_before(seconds=0)
    look_ms = shop.read("SELECT look_ms FROM api_batch WHERE id = :id", id=order.id)
    return (look_ms - after_ms) / 1000, (look_ms - before_ms) / 1000


def test_an_order_waits_while_the_tier_file_is_broken(
    repository, shop, settings, ordered, tmp_path, monkeypatch
):
    # Given an order whose file is half read by a clerk that stops
    monkeypatch.setattr("scheduler.submit.LINES_PER_COMMIT", 2)
    path = tmp_path / "tiers.toml"
    path.write_bytes(packaged("pocket").read_bytes())
    settings = settings.with_changes(tiers=path)
    order = ordered(content(5))
    stopped = Clerk(repository, settings)
    stopped.stop()
    order = look(repository, stopped, order)
    assert (order.state, shop.states(order.batch_id)) == (State.VALIDATING, {"queued": 2})
    # When somebody breaks the tier file, Then nothing is the client's fault: the order waits, and we are told
    path.write_text("[tier.")
    clerk = Clerk(repository, settings)
    with capture_logs() as told:
        order = look(repository, clerk, order)
    assert (order.state, order.errors, shop.states(order.batch_id)) == (
        State.VALIDATING,
        None,
        {"queued": 2},
    )
    ((level, reason),) = [(one["log_level"], one["reason"]) for one in told if one["event"] == "order_waits"]
    assert level == "warning"
    assert str(path) in reason
    # When it is mended, Then the rest is read
    path.write_bytes(packaged("pocket").read_bytes())
    order = look(repository, clerk, order)
    assert (order.state, shop.states(order.batch_id)) == (State.IN_PROGRESS, {"queued": 5})
    # And an order whose window ends meanwhile expires
    path.write_text("[tier.")
    late = ordered(content(1))
    shop.change("UPDATE api_batch SET expires_ms = 1 WHERE id = :id", id=late.id)
    assert look(repository, clerk, late, times=3).state is State.EXPIRED


def test_one_order_is_taken_by_one_clerk_until_its_turn_is_over(repository, shop, ordered):
    order = ordered(content(1))
    assert repository.take_order(seconds=30).row.id == order.id
    assert repository.take_order(seconds=30) is None
    # Given that clerk died
    shop.change("UPDATE api_batch SET look_ms = 1")
    assert repository.take_order(seconds=30).row.id == order.id


def test_many_clerks_make_one_batch_and_one_pair_of_files(repository, shop, settings, ordered, monkeypatch):
    # Given orders, and clerks that never leave one to another
    monkeypatch.setattr("scheduler.clerk.TURN_SECONDS", 0.0)
    monkeypatch.setattr("scheduler.clerk.SOONEST_SECONDS", 0.0)
    monkeypatch.setattr("scheduler.submit.LINES_PER_COMMIT", 3)
    orders = [ordered(content(10, bad=2)) for _ in range(3)]
    clerks = [Clerk(repository, settings) for _ in range(4)]
    stop = threading.Event()

    def work(clerk):
        while not stop.is_set():
            clerk.step()

    with ThreadPoolExecutor(len(clerks)) as pool:
        running = [pool.submit(work, clerk) for clerk in clerks]
        try:
            _until(lambda: all(one.batch_id for one in _rows(repository, orders)))
            _until(lambda: all(one.state is State.IN_PROGRESS for one in _rows(repository, orders)))
            draw(shop, settings)
            _until(lambda: all(one.state is State.COMPLETED for one in _rows(repository, orders)))
        finally:
            stop.set()
        for one in running:
            one.result()
    # Then each has its own jobs, once
    assert shop.read("SELECT count(*) FROM batch") == 3
    assert shop.read("SELECT count(*) FROM job") == 30
    assert shop.read("SELECT count(*) FROM rejected") == 6
    assert shop.read("SELECT count(*) FROM file WHERE purpose = 'batch_output'") == 6
    assert {(one.total, one.completed, one.failed) for one in _rows(repository, orders)} == {(12, 10, 2)}
    assert shop.is_sound()


def _rows(repository, orders):
    return [repository.find_order(one.id) for one in orders]


def _until(condition):
    done = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        done.wait(0.05)
    raise AssertionError("it did not come to pass within two minutes")


DYING = """
import sys
from db.repository import Repository
from db.session import make_engine
from routet2i import failpoints
from routet2i.settings import Settings
from routet2i.tiers import packaged
from scheduler import submit
from scheduler.clerk import FULL_SECONDS, LATEST_SECONDS, Clerk
url, home, failpoint = sys.argv[1:]
submit.LINES_PER_COMMIT = 2
failpoints.arm(failpoint)
clerk = Clerk(Repository(make_engine(url)), Settings(home=home))
while clerk.step():
    pass
"""


@pytest.mark.parametrize(
    "failpoint",
    [
        *("before_intake:1", "mid_ingest:1", "after_ingest_commit:1", "mid_ingest:2", "after_intake:1"),
        *("before_finish:1",),
    ],
)
def test_a_clerk_that_dies_anywhere_is_followed_by_one_that_goes_on(
    repository, shop, settings, ordered, failpoint
):
    # Given an order, and a clerk's process that dies at a step
    order = ordered(content(5, bad=1))
    if failpoint.startswith("before_finish"):
        look(repository, Clerk(repository, settings), order)
        draw(shop, settings)
        repository.look_again(order.id, seconds=0)
    url = repository.engine.url.render_as_string(hide_password=False)
    died = subprocess.run(
        [sys.executable, "-c", DYING, url, str(settings.home), failpoint],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert died.returncode == failpoints.DIED, died.stderr
    # When its turn is over and another clerk looks
    clerk = Clerk(repository, settings)
    order = repository.find_order(order.id)
    if order.state is State.VALIDATING:
        order = look(repository, clerk, order)
    if order.state is State.IN_PROGRESS:
        draw(shop, settings)
    order = look(repository, clerk, order, times=2)
    # Then all is there, once
    assert (order.state, order.total, order.completed, order.failed) == (State.COMPLETED, 6, 5, 1)
    assert shop.read("SELECT count(*) FROM batch") == 1
    assert shop.read("SELECT count(*) FROM file WHERE purpose = 'batch_output'") == 2
    assert shop.is_sound()


def test_files_come_in_pages_and_only_their_clients(repository, uploaded):
    ids = [uploaded(content(n + 1)).id for n in range(5)]
    uploaded(content(1), client="bob")
    # When pages of two are read, newest first
    first = repository.files(client="ann", limit=2)
    second = repository.files(client="ann", limit=2, after=first[-1].id)
    assert [one.id for one in [*first, *second]] == ids[:0:-1]
    # Then the other order is the reverse, and everybody's has one more
    assert [one.id for one in repository.files(client="ann", ascending=True, limit=9)] == ids
    assert len(repository.files(client=None, limit=9)) == 6
    assert repository.files(client="ann", purpose=Purpose.OUTPUT, limit=9) == []


def test_a_file_that_is_deleted_or_too_old_is_gone(repository, shop, uploaded):
    one, two = uploaded(content(1)), uploaded(content(2), seconds=3600)
    repository.delete_file(one.id)
    shop.change("UPDATE file SET expires_ms = 1 WHERE id = :id", id=two.id)
    for file in (one, two):
        with pytest.raises(NotFound):
            repository.find_file(file.id)
        with pytest.raises(NotFound):
            repository.delete_file(file.id)
    assert repository.files(client="ann", limit=9) == []


def test_bytes_go_when_no_file_and_no_order_needs_them(repository, shop, settings, clerk, ordered, uploaded):
    # Given bytes that two files have, of which one is ordered and not read yet
    raw = content(2)
    order = ordered(raw)
    other = uploaded(raw)
    path = FileStore(root=settings.files).path_of(sha256(raw).hexdigest())
    _age(path)
    # When both are deleted, Then the bytes stay for the order
    repository.delete_file(order.input_file_id)
    repository.delete_file(other.id)
    assert clerk.tidy() == 0
    assert path.is_file()
    # And go once it was read
    assert look(repository, clerk, order).state is State.IN_PROGRESS
    assert clerk.tidy() == 1
    assert not path.exists()
    assert clerk.tidy() == 0
    # But not if somebody has uploaded them again
    third, fourth = uploaded(raw), uploaded(raw)
    _age(path)
    repository.delete_file(third.id)
    assert clerk.tidy() == 0
    assert path.is_file()
    assert repository.find_file(fourth.id).id == fourth.id


def test_bytes_that_a_dead_clerk_moved_aside_are_read_and_tidied(
    repository, settings, clerk, ordered, uploaded
):
    # Given an order, a deleted file and one that was uploaded, whose bytes a dead clerk had moved aside
    store = FileStore(root=settings.files)
    order = ordered(content(2))
    raws = [content(2), content(3), content(4)]
    deleted, live = (uploaded(raw) for raw in raws[1:])
    repository.delete_file(deleted.id)
    paths = [store.path_of(sha256(raw).hexdigest()) for raw in raws]
    for path in paths:
        path.rename(store.root / f"{path.name}.0.tmp")
        _age(store.root / f"{path.name}.0.tmp")
    # When a clerk reads the order, Then it finds it
    assert look(repository, clerk, order).state is State.IN_PROGRESS
    # And when it tidies, what is needed is back, and nothing else is left
    clerk.tidy()
    assert {path for path in store.root.rglob("*") if path.is_file()} == {paths[0], paths[2]}
    assert repository.file_is_needed(live.sha256)
    assert not repository.file_is_needed(deleted.sha256)
    # And an order that is not read yet needs its bytes, though its file is deleted
    unread = ordered(content(5))
    repository.delete_file(unread.input_file_id)
    assert repository.file_is_needed(unread.sha256)


def _age(path):
    os.utime(path, (1, 1))


def test_a_deleted_picture_is_missing_from_its_line_and_nothing_else(
    repository, shop, settings, clerk, ordered
):
    # Given a batch with a picture that was deleted, and one whose file is gone
    order = look(repository, clerk, ordered(content(3)))
    draw(shop, settings)
    order = look(repository, clerk, order, times=2)
    store = ImageStore(root=settings.pictures)
    first, second, _ = list(lines.delivered(repository.engine, order.batch_id))
    repository.delete_pictures(
        [first.pictures[0].sha256],
        before_ms=repository.moment_before(seconds=-1),
        batch_id=None,
        who="t",
    )
    store.path_of(second.pictures[0].sha256).unlink()
    # When the file is read
    show = shower(store, address=no_address)
    read = [
        json.loads(output_line(one, batch_id=order.batch_id, show=show))["response"]["body"]
        for one in lines.delivered(repository.engine, order.batch_id)
    ]
    # Then each line is there
    assert [one["data"][0]["b64_json"] is None for one in read] == [True, True, False]
    assert [one["routet2i"]["pictures"][0]["deleted"] for one in read] == [True, False, False]


def test_long_files_are_read_page_by_page(repository, shop, settings, clerk, ordered, monkeypatch):
    monkeypatch.setattr("db.lines.PAGE", 2)
    order = look(repository, clerk, ordered(content(5, bad=3)))
    draw(shop, settings)
    assert [one.line_no for one in lines.delivered(repository.engine, order.batch_id)] == [1, 2, 3, 4, 5]
    assert [one.line_no for one in lines.missing(repository.engine, order.batch_id)] == [6, 7, 8]


def test_what_a_batch_leaves_ends_so_long_after_it_was_made(repository, shop, settings, clerk, ordered):
    order = look(repository, clerk, ordered(content(1, bad=1), output_seconds=3_600))
    draw(shop, settings)
    order = look(repository, clerk, order, times=2)
    for name in (order.output_file_id, order.error_file_id):
        file = repository.find_file(name)
        assert file.created_ms >= order.finalizing_ms
        assert file.expires_ms - file.created_ms == 3_600_000


# ---------------------------------------------------------------- addresses and models


def test_addresses_stand_in_the_lines_that_ask_for_them_and_the_size_is_right(
    repository, shop, settings, clerk, ordered
):
    # Given two drawn lines, one of which asks for an address
    order = ordered(f"{request('shown')}\n{request('linked', response_format='url')}".encode())
    order = look(repository, clerk, order)
    draw(shop, settings)
    order = look(repository, clerk, order, times=2)
    # When the file is read, much later
    links = PictureLinks(lambda: repository.link_secret(PURPOSE), clock=lambda: 1_900_000_000.0)
    show = shower(ImageStore(root=settings.pictures), address=partial(links.address, base_url=order.base_url))
    found = list(lines.delivered(repository.engine, order.batch_id))
    read = [output_line(one, batch_id=order.batch_id, show=show) for one in found]
    # Then the address is signed for an hour from then, and the size is still what was said
    assert repository.find_file(order.output_file_id).bytes == sum(map(len, read))
    shown, linked = (json.loads(one)["response"]["body"]["data"] for one in read)
    assert [set(one) for one in (*shown, *linked)] == [{"b64_json"}, {"url"}]
    sha256 = found[1].pictures[0].sha256
    assert linked[0]["url"].startswith(f"http://here/routet2i/v1/pictures/{sha256}.png?expires=1900003600&")
    # And a picture that was deleted since has none
    gone = replace(found[1], pictures=(replace(found[1].pictures[0], deleted=True),))
    body = json.loads(output_line(gone, batch_id=order.batch_id, show=show))["response"]["body"]
    assert body["data"] == [{"url": None}]


def test_one_secret_signs_for_all_and_is_made_once(repository, shop):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: repository.link_secret(PURPOSE), range(16)))
    assert found == {shop.read("SELECT secret FROM link_secret")}
    assert len(found.pop()) == 64


def test_a_line_may_ask_for_a_tier_and_one_for_a_model_that_is_none_says_so(
    repository, shop, settings, clerk, ordered
):
    raw = "\n".join(
        (request("any", model="routet2i"), request("mine", model="cloud"), request("bad", model="dall-e-3"))
    )
    order = look(repository, clerk, ordered(raw.encode()))
    asked = "SELECT tier FROM job WHERE custom_id = :name"
    assert [shop.read(asked, name=name) for name in ("any", "mine")] == [None, "cloud"]
    (bad,) = lines.missing(repository.engine, order.batch_id)
    error = json.loads(error_line(bad, order_id=order.id, ending="completed"))["response"]["body"]["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "routet2i or edge or cloud" in error["message"]
    # And a file of nothing else fails with that code
    order = look(repository, clerk, ordered(request("bad", model="dall-e-3").encode()), times=2)
    (error,) = json.loads(order.errors)
    assert (order.state, error["code"], error["param"]) == (State.FAILED, "model_not_found", "model")


# ---------------------------------------------------------------- webhooks


@pytest.fixture
def hook(repository):
    """Ask to be told of Ann's orders."""
    return repository.add_webhook(
        client="ann", url="https://hooks.example/", secret=SECRET, events=list(BatchEvent)
    )


def told(repository):
    """Look at what has ended, and return the events that are sent, as the official client reads them."""
    repository.notice_batches(since_ms=None)
    soon = "UPDATE webhook_watch SET look_ms = 0 WHERE look_ms IS NOT NULL"
    write(repository.engine, lambda c: c.exec_driver_sql(soon))
    repository.tell_endings()
    found = []
    with OpenAI(api_key="none", webhook_secret=SECRET) as client:
        while (one := repository.claim_delivery()) is not None:
            signed = headers(one.secret, message_id=one.id, seconds=int(time.time()), body=one.body)
            event = client.webhooks.unwrap(one.body, signed)
            found.append((type(event), event.data.id, event.data.model_extra["routet2i"]))
            repository.conclude_delivery(one, status=200, error=None, milliseconds=1, chance=0.5)
    return found


def test_an_orders_end_is_told_when_its_files_are_there_under_its_own_id(
    repository, shop, settings, clerk, ordered, hook
):
    # Given an order whose jobs are drawn, and no clerk has looked since
    order = look(repository, clerk, ordered(content(2, bad=1)))
    draw(shop, settings)
    assert told(repository) == []
    # When its files are there
    order = look(repository, clerk, order, times=2)
    assert order.state is State.COMPLETED
    # Then the receiver gets the id that it knows, and ours beside it, once
    ((kind, name, ours),) = told(repository)
    assert (kind, name, ours["batch_id"]) == (BatchCompletedWebhookEvent, order.id, order.batch_id)
    assert (ours["jobs"]["succeeded"], ours["jobs"]["rejected"]) == (2, 1)
    assert told(repository) == []


def test_an_order_of_which_nothing_could_be_drawn_is_completed_as_its_status_says(
    repository, shop, clerk, ordered, hook
):
    order = look(repository, clerk, ordered(content(1)))
    shop.window()
    claim = shop.poll()
    assert repository.record(claim, [shop.outcome(job, fails=True) for job in claim.jobs])
    assert repository.finish(claim)
    assert look(repository, clerk, order, times=2).state is State.COMPLETED
    ((kind, name, ours),) = told(repository)
    assert (kind, name, ours["jobs"]["failed"]) == (BatchCompletedWebhookEvent, order.id, 1)


def test_an_order_that_expires_is_told_as_expired(repository, shop, settings, clerk, ordered, hook):
    # Given an order of which something is drawn when its window ends, and one whose file was never read
    order = look(repository, clerk, ordered(content(3)))
    draw(shop, settings, jobs=1)
    unread = ordered(content(1))
    shop.change("UPDATE api_batch SET expires_ms = 1")
    lose_workers(shop)
    assert look(repository, clerk, unread, times=5).state is State.EXPIRED
    order = repository.find_order(order.id)
    assert order.state is State.EXPIRED
    found = told(repository)
    assert {(kind, name, ours["batch_id"]) for kind, name, ours in found} == {
        (BatchExpiredWebhookEvent, order.id, order.batch_id),
        (BatchExpiredWebhookEvent, unread.id, None),
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("raw", "wanted", "opened"),
    [(b"not JSON", {}, True), (b"\n", {}, False), (content(2), {"budget_micro_usd": 1}, False)],
)
def test_an_order_that_fails_is_told_as_failed(repository, shop, clerk, ordered, hook, raw, wanted, opened):
    order = look(repository, clerk, ordered(raw, **wanted))
    assert (order.state, order.batch_id is not None) == (State.FAILED, opened)
    assert told(repository) == [
        (
            BatchFailedWebhookEvent,
            order.id,
            {
                "batch_id": order.batch_id,
                "client": "ann",
                "name": "lines.jsonl",
                "jobs": {"accepted": 0, "rejected": int(opened), "succeeded": 0, "failed": 0, "cancelled": 0},
                "spent_usd": 0.0,
            },
        )
    ]
    assert told(repository) == []


def test_an_order_that_is_cancelled_is_told_as_cancelled_read_or_not(repository, shop, clerk, ordered, hook):
    for before in (State.VALIDATING, State.IN_PROGRESS):
        order = ordered(content(2))
        if before is State.IN_PROGRESS:
            look(repository, clerk, order)
        assert repository.move_order(order.id, before=before, after=State.CANCELLING, ending=State.CANCELLED)
        assert look(repository, clerk, order).state is State.CANCELLED
        ((kind, name, ours),) = told(repository)
        assert (kind, name) == (BatchCancelledWebhookEvent, order.id)
        assert (ours["batch_id"] is None) == (before is State.VALIDATING)


def test_a_webhook_that_comes_after_an_order_or_is_another_clients_hears_nothing_of_it(
    repository, shop, clerk, ordered, hook
):
    order = ordered(b"\n")
    repository.add_webhook(client="bob", url="https://b.example/", secret=SECRET, events=list(BatchEvent))
    repository.add_webhook(client="ann", url="https://c.example/", secret=SECRET, events=list(BatchEvent))
    shop.change("UPDATE webhook SET created_ms = created_ms + 60000 WHERE url = 'https://c.example/'")
    assert look(repository, clerk, order).state is State.FAILED
    assert [one.webhook_id for one in repository.deliveries()] == [hook]
