"""Submitting: priced before it is written, repeatable, and continued where it was cut off. On SQLite."""

import io
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from routet2i.errors import BudgetTooSmall, Conflict, IntakeError, QueueFull, UsageError
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler import submit
from scheduler.deadlines import Deadline
from scheduler.submit import submit_file

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
TIERS = read_tiers(packaged("pocket"))  # edge: 9,000 micro-dollars a picture


def run(repository, path, **options):
    options = {"tiers": TIERS, "settings": Settings(), "budget_micro_usd": None} | options
    return submit_file(repository, path, **options)


def jobs(repository, columns="seq, custom_id, prompt, seed"):
    with repository.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM job ORDER BY seq"))]


def count(repository, table):
    with repository.engine.connect() as connection:
        return connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


def lines(number):
    return "".join(json.dumps({"prompt": f"a red circle {i}"}) + "\n" for i in range(number))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prompts.jsonl"


class Crash(Exception):
    """What a repository raises whose process dies."""


class Recording:
    """The real repository; remembers the lines it is given."""

    def __init__(self, repository):
        self._repository = repository
        self.lines = []

    def add_jobs(self, batch_id, requests, rejections, *, cursor_line):
        self.lines += sorted(item.line_no for item in [*requests, *rejections])
        return self._repository.add_jobs(batch_id, requests, rejections, cursor_line=cursor_line)

    def __getattr__(self, name):
        return getattr(self._repository, name)


class Crashing:
    """The real repository, cut off before the k-th add_jobs, or right after its commit."""

    def __init__(self, repository, *, at, after_commit=False):
        self._repository = repository
        self._left = at
        self._after_commit = after_commit

    def add_jobs(self, *arguments, **options):
        self._left -= 1
        if self._left > 0:
            return self._repository.add_jobs(*arguments, **options)
        if self._after_commit:
            self._repository.add_jobs(*arguments, **options)
        raise Crash

    def __getattr__(self, name):
        return getattr(self._repository, name)


def test_good_lines_become_jobs_and_bad_ones_are_reported(repository, path):
    path.write_text('{"prompt": "a"}\n{"promt": "b"}\n\n{"prompt": "c", "n": 3}\n')
    submission = run(repository, path, budget_micro_usd=36_000)
    assert (submission.accepted, submission.pictures, submission.rejected_count) == (2, 4, 1)
    assert submission.floor_micro_usd == 36_000
    assert [rejection.line_no for rejection in submission.rejected] == [2]
    assert (submission.created, submission.name) == (True, "prompts.jsonl")
    assert [(seq, custom_id, prompt) for seq, custom_id, prompt, _ in jobs(repository)] == [
        (1, "line-1", "a"),
        (4, "line-4", "c"),
    ]
    work = repository.open_window(limit=10)
    assert work.accounts[work.chains[submission.batch_id][0]].limit == 36_000


def test_the_same_file_and_budget_is_the_same_batch(repository, path):
    path.write_text(lines(3))
    first, second = run(repository, path), run(repository, path)
    assert second.batch_id == first.batch_id
    assert (first.created, second.created) == (True, False)
    assert (second.accepted, second.rejected_count) == (3, 0)
    assert count(repository, "job") == 3


def test_another_budget_or_format_is_another_batch(repository, path):
    path.write_text("[1]\n")
    ids = {
        run(repository, path, **options).batch_id
        for options in ({}, {"budget_micro_usd": 10**9}, {"fmt": "text"}, {"client": "other"})
    }
    assert len(ids) == 4


def test_a_key_used_with_another_file_is_a_conflict(repository, path):
    path.write_text(lines(1))
    run(repository, path, key="mine")
    path.write_text(lines(2))
    with pytest.raises(Conflict):
        run(repository, path, key="mine")


def test_a_budget_below_the_edge_price_is_refused_before_anything_is_written(repository, path):
    path.write_text(lines(4))
    with pytest.raises(BudgetTooSmall) as refused:
        run(repository, path, budget_micro_usd=35_999)
    assert "$0.035999 does not cover 4 pictures, which cost $0.036 on tier edge; type --budget 0.036" in str(
        refused.value
    )
    assert count(repository, "batch") == 0
    assert run(repository, path, budget_micro_usd=36_000).accepted == 4


def test_a_file_without_a_good_line_is_a_batch_that_is_complete(repository, path):
    path.write_text("nonsense\n")
    submission = run(repository, path, budget_micro_usd=0)
    assert (submission.accepted, submission.rejected_count) == (0, 1)
    assert count(repository, "rejected") == 1


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(repository, path, content):
    path.write_text(content)
    with pytest.raises(IntakeError, match=r"no prompts in .*prompts\.jsonl"):
        run(repository, path)
    assert count(repository, "batch") == 0


def test_a_file_that_is_not_there_is_refused(repository, path):
    with pytest.raises(IntakeError, match=r"cannot read .*prompts\.jsonl: No such file"):
        run(repository, path)
    with pytest.raises(IntakeError, match="Is a directory"):
        run(repository, path.parent, fmt="text")


def test_a_file_of_another_kind_is_named_in_the_refusal(repository, tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("seed\n1\n")
    with pytest.raises(IntakeError, match=r"prompts\.csv: the CSV header: no column 'prompt'"):
        run(repository, path)


def test_standard_input_is_json_lines_unless_said_otherwise(repository, monkeypatch):
    for content, fmt, prompt in ((lines(1), None, "a red circle 0"), ("a cat\n", "text", "a cat")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        submission = run(repository, None, fmt=fmt)
        assert (submission.name, submission.accepted) == ("stdin", 1)
        assert prompt in {row[2] for row in jobs(repository)}


def test_a_named_pipe_can_be_submitted(repository, tmp_path):
    # Given a pipe that somebody writes into
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(lines(3)))
    writer.start()
    # When it is submitted
    submission = run(repository, pipe)
    writer.join()
    # Then it could be read twice all the same
    assert submission.accepted == 3


def test_seeds_depend_on_the_file_and_the_line_only(repository, path):
    path.write_text(lines(2))
    run(repository, path)
    run(repository, path, budget_micro_usd=10**9)
    seeds = [seed for _, _, _, seed in jobs(repository)]
    assert len(seeds) == 4
    assert len(set(seeds)) == 2


def test_a_clients_name_is_kept_and_a_name_nobody_may_have_is_refused(repository, path):
    path.write_text(lines(1))
    run(repository, path, client="press.room-1")
    assert jobs(repository, "client") == [("press.room-1",)]
    for name in ("shadow", "", "a b", "a/b", "x" * 65, "line\n"):
        with pytest.raises(UsageError, match=r"--client|digits"):
            run(repository, path, client=name)
    assert count(repository, "batch") == 1


def test_deadlines_are_counted_from_the_submission_and_half_of_their_time_is_kept(repository, path):
    # Given a line with a duration, one with a moment, and one that takes the file's
    moment = datetime.now(tz=UTC) + timedelta(days=2)
    path.write_text(
        json.dumps({"prompt": "a", "deadline": "2h"})
        + "\n"
        + json.dumps({"prompt": "b", "deadline": moment.isoformat()})
        + "\n"
        + json.dumps({"prompt": "c"})
    )
    # When it is submitted
    run(repository, path, deadline=Deadline(within_ms=60_000))
    # Then each job has its deadline, and the moment at which half its time is gone
    rows = jobs(repository, "created_ms, deadline_ms, jump_ms")
    left = [deadline - created for created, deadline, _ in rows]
    assert left == pytest.approx([7_200_000, 2 * 86_400_000, 60_000], abs=5_000)
    assert rows[1][1] == int(moment.timestamp() * 1000)
    for created, deadline, jump in rows:
        assert jump == pytest.approx((created + deadline) / 2, abs=1_000)


def test_a_job_without_a_deadline_never_jumps(repository, path):
    path.write_text(lines(1))
    run(repository, path)
    assert jobs(repository, "deadline_ms, jump_ms") == [(None, None)]


def test_another_default_deadline_is_another_batch(repository, path):
    path.write_text(lines(1))
    hours = [Deadline(within_ms=hours * 3_600_000) for hours in (1, 2, 2)]
    ids = [run(repository, path, deadline=one).batch_id for one in hours]
    assert ids[1] == ids[2]
    assert len({*ids, run(repository, path).batch_id}) == 3


def test_a_file_submitted_again_after_its_deadlines_is_told_as_it_came_in(repository, path, monkeypatch):
    # Given a file that came in before its deadline
    moment = datetime.now(tz=UTC) + timedelta(hours=1)
    path.write_text(json.dumps({"prompt": "a", "deadline": moment.isoformat()}) + "\n")
    first = run(repository, path)
    # When it is submitted once more afterwards
    late = time.time_ns() + 2 * 3_600 * 10**9
    monkeypatch.setattr(submit.time, "time_ns", lambda: late)
    again = run(repository, path)
    # Then its line is still the job that it is; in a new batch it would be refused
    assert (again.batch_id, again.created) == (first.batch_id, False)
    assert (again.accepted, again.rejected_count) == (1, 0)
    assert run(repository, path, key="new").rejected_count == 1


def test_a_full_queue_is_waited_for_and_nothing_is_written_meanwhile(repository, path):
    # Given room for three jobs, all of which wait
    settings = Settings(queue_jobs=3)
    path.write_text(lines(3))
    first = run(repository, path, settings=settings)
    path.write_text(lines(2))
    with pytest.raises(QueueFull) as refused:
        run(repository, path, settings=settings)
    assert (refused.value.waiting, refused.value.limit) == (3, 3)
    # When the next file waits until they are cancelled
    found = []

    def wait(_full):
        found.append((count(repository, "batch"), count(repository, "job")))
        if len(found) == 3:
            repository.cancel_batch(first.batch_id)

    submission = run(repository, path, settings=settings, wait=wait)
    # Then it comes in as a whole, and was not there before
    assert found == [(1, 3)] * 3
    assert (submission.created, submission.accepted) == (True, 2)


def test_a_submission_cut_off_keeps_its_place_and_is_continued_in_a_full_queue(repository, path, monkeypatch):
    # Given room for ten, and a file of ten that was cut off after four
    monkeypatch.setattr(submit, "LINES_PER_COMMIT", 4)
    settings = Settings(queue_jobs=10)
    path.write_text(lines(10))
    with pytest.raises(Crash):
        run(Crashing(repository, at=2), path, settings=settings)
    # When another file comes, and the same again
    other = path.with_name("other.jsonl")
    other.write_text(lines(1))
    with pytest.raises(
        QueueFull, match=r"10 of at most 10 jobs wait \(6 of them in files still being read\)"
    ):
        run(repository, other, settings=settings)
    submission = run(repository, path, settings=settings)
    # Then the first has kept its place
    assert (submission.created, count(repository, "job")) == (True, 10)


def test_rejected_lines_take_no_room(repository, path):
    path.write_text("bad\n" * 5 + lines(2))
    assert run(repository, path, settings=Settings(queue_jobs=2)).accepted == 2


def test_progress_is_told_after_each_commit(repository, path, monkeypatch):
    monkeypatch.setattr(submit, "LINES_PER_COMMIT", 4)
    path.write_text(lines(10))
    told = []
    run(repository, path, progress=lambda *done: told.append((*done, count(repository, "job"))))
    assert told == [(4, 10, 4), (8, 10, 8), (10, 10, 10)]


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_submission_cut_off_is_continued_by_the_same_command(
    repository, path, monkeypatch, at, after_commit
):
    # Given a file of three transactions, and a process that dies at one of them
    monkeypatch.setattr(submit, "LINES_PER_COMMIT", 4)
    path.write_text(lines(5) + "bad\n" + lines(5))
    with pytest.raises(Crash):
        run(Crashing(repository, at=at, after_commit=after_commit), path)
    # Then no window sees a job of it
    assert repository.open_window(limit=100) is None
    # When the same command is given again, it writes only what is behind the last commit
    recording = Recording(repository)
    submission = run(recording, path)
    committed = 4 * (at if after_commit else at - 1)
    assert recording.lines == list(range(committed + 1, 12))
    # Then every line is there once, and windows see them
    assert [seq for (seq,) in jobs(repository, "seq")] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert (count(repository, "batch"), count(repository, "rejected")) == (1, 1)
    assert len(repository.open_window(limit=100).jobs) == 10
    assert (submission.created, submission.accepted) == (True, 10)


def test_a_file_that_changes_between_the_two_readings_opens_no_window(repository, path):
    # Given somebody who writes to the file as soon as the batch is opened
    class Meddled:
        def open_batch(self, **options):
            path.write_text(lines(7))
            return repository.open_batch(**options)

        def __getattr__(self, name):
            return getattr(repository, name)

    path.write_text(lines(3))
    with pytest.raises(IntakeError, match="changed while it was read"):
        run(Meddled(), path)
    assert repository.open_window(limit=100) is None


def test_only_the_first_rejections_are_carried_and_all_are_counted(repository, path, monkeypatch):
    monkeypatch.setattr(submit, "REPORTED", 2)
    path.write_text("bad\n" * 5 + lines(1))
    submission = run(repository, path)
    assert (len(submission.rejected), submission.rejected_count) == (2, 5)
    assert count(repository, "rejected") == 5


def openai_lines(number):
    return "".join(
        json.dumps(
            {
                "custom_id": f"mine-{i}",
                "method": "POST",
                "url": "/v1/images/generations",
                "body": {"prompt": "a red circle", "response_format": "url"},
            }
        )
        + "\n"
        for i in range(number)
    )


def test_an_openai_batch_file_is_submitted_as_it_is(repository, path):
    # Given a file of OpenAI's lines, and one of ours among them
    path.write_text(openai_lines(2) + '{"prompt": "ours"}\n')
    # When it is submitted, Then all are jobs, and how an answer shows pictures is kept
    assert run(repository, path).accepted == 3
    assert jobs(repository, "custom_id, response_format") == [
        ("mine-0", "url"),
        ("mine-1", "url"),
        ("line-3", None),
    ]
    # And read as OpenAI's only, ours is a bad line
    assert run(repository, path, fmt="openai").rejected_count == 1


def test_lines_without_a_priority_have_that_of_the_call(repository, path):
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "priority": 1}\n')
    first = run(repository, path, priority=7)
    assert jobs(repository, "priority") == [(7,), (1,)]
    # and another priority is another batch
    assert run(repository, path).batch_id != first.batch_id
