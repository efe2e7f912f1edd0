"""The clerk: takes each order of the HTTP interface from state to state, until its files are there.

One thread of each web process. Several do no harm, and neither does a kill between any two steps: what has
been done is in SQL, every step may be repeated, and states change by compare-and-set (`db.api_batches`). It
reads files as `routet2i submit` does. It knows neither HTTP nor how a picture is drawn.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

import orjson
import structlog

from db import lines
from db.api_batches import ApiBatchRow, State, Taken
from db.lines import DeliveredJob, Tally
from db.repository import Repository
from routet2i import failpoints
from routet2i.contracts import GenerationRequest, OpenedBatch, QueueLimits, Rejection
from routet2i.errors import (
    BudgetTooSmall,
    Conflict,
    NotFound,
    QueueFull,
    RouteT2IError,
    ServiceUnavailable,
    TierError,
    UsageError,
)
from routet2i.images import ImageStore
from routet2i.settings import Settings
from routet2i.tiers import Tiers
from scheduler.answer_lines import PARAMS, error_line, measured
from scheduler.deadlines import NO_DEADLINE, read_deadline
from scheduler.file_store import FileStore
from scheduler.picture_links import PURPOSE, PictureLinks
from scheduler.submit import Submission, submit_file

TURN_SECONDS = 30.0  # a taken order is left alone by the other clerks; longer work renews it
IDLE_SECONDS = 0.5  # between two looks for orders that are due
SOONEST_SECONDS = 0.5  # between two looks at one order
LATEST_SECONDS = 60.0
SHARE = 0.1  # of a clerk's time that counting one batch, or one file before a full queue, may take
FULL_SECONDS = 2.0  # between two knocks at the door of a full queue; more if reading the file takes long
MEND_SECONDS = 15.0  # between two looks at an order while the tier file is broken
TIDY_SECONDS = 600.0  # between two looks for bytes that nobody needs
TOLD = 100  # bad lines that a failed order lists
_log = structlog.get_logger(__name__)


class _Stopping(Exception):
    """This process ends: the file is read on by whoever comes next."""


class Clerk:
    """Works until it is stopped; start it once."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self._repository = repository
        self._settings = settings
        self._links = PictureLinks(lambda: repository.link_secret(PURPOSE))
        self._pictures = ImageStore(root=settings.pictures)
        self._files = FileStore(root=settings.files)
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._tidied = time.monotonic()

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self.run, name="clerk", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at once: an order has come, or was cancelled."""
        self._wake.set()

    def stop(self, *, seconds: float = 10.0) -> None:
        """End after the current step, or the current commit of a file."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def run(self) -> None:
        """Work until stopped; a database that is away is waited for."""
        while not self._stop.is_set():
            try:
                busy = self.step()
                if not busy and time.monotonic() - self._tidied > TIDY_SECONDS:
                    self._tidied = time.monotonic()
                    self.tidy()
            except ServiceUnavailable as error:
                _log.warning("clerk_waits", reason=str(error))
                busy = False
            except Exception:
                _log.critical("clerk_failed", exc_info=True)
                busy = False
            if not busy and self._wake.wait(IDLE_SECONDS):
                self._wake.clear()

    def step(self) -> bool:
        """Look at one order that is due; False if none is."""
        taken = self._repository.take_order(seconds=TURN_SECONDS)
        if taken is None:
            return False
        with suppress(_Stopping):
            self._look(taken)
        return True

    def tidy(self) -> int:
        """Delete bytes of deleted and expired files; return how many files went."""
        self._files.sweep_temporary(self._repository.file_is_needed)
        gone = 0
        for sha256, needed in self._repository.unwanted_files(limit=1000):
            if not needed and not self._files.remove(sha256):
                continue  # stored again just now: its row is about to come
            self._repository.forget_file(sha256)
            gone += not needed
        return gone

    def _look(self, taken: Taken) -> None:
        match taken.row.state:
            case State.VALIDATING:
                self._validate(taken)
            case State.IN_PROGRESS:
                self._watch(taken)
            case State.FINALIZING | State.CANCELLING:
                self._finish(taken.row)

    # validating

    def _validate(self, taken: Taken) -> None:
        order = taken.row
        if taken.overdue:
            self._move(order, State.FINALIZING, ending=State.EXPIRED)
            return
        failpoints.reach("before_intake")
        try:
            tiers = self._settings.read_tiers()
        except TierError as error:  # ours to mend, not the client's
            _log.warning("order_waits", order=order.id, reason=str(error))
            self._repository.look_again(order.id, seconds=MEND_SECONDS)
            return
        began = time.monotonic()
        try:
            submission = self._read(order, tiers=tiers)
        except QueueFull as full:
            seconds = _spared(time.monotonic() - began, at_least=FULL_SECONDS)
            _log.info("order_waits", order=order.id, reason=str(full), seconds=round(seconds, 1))
            self._repository.look_again(order.id, seconds=seconds)
        except Conflict as error:
            if self._repository.find_order(order.id).state is State.VALIDATING:  # else it was cancelled
                self._fail(order, [self._tell(order, error)])
        except (UsageError, BudgetTooSmall) as error:
            self._fail(order, [self._tell(order, error)])
        else:
            failpoints.reach("after_intake")
            if submission.accepted:
                self._move(order, State.IN_PROGRESS)
            else:
                self._fail(order, [_line(one) for one in submission.rejected[:TOLD]])

    def _read(self, order: ApiBatchRow, *, tiers: Tiers) -> Submission:
        preview = None if order.preview_id is None else self._repository.find_preview(order.preview_id)
        deadline = NO_DEADLINE if order.deadline is None else read_deadline(order.deadline, now_ms=None)
        return submit_file(
            _Intake(self._repository, order),
            self._files.find(order.sha256) or self._files.path_of(order.sha256),
            tiers=tiers,
            settings=self._settings,
            budget_micro_usd=order.budget_micro_usd,
            key=order.id,
            name=order.name,
            client=order.client,
            deadline=deadline,
            priority=order.priority,
            fmt="openai",
            preview=preview,
            progress=lambda done, total: self._renew(order, total=total),
        )

    def _renew(self, order: ApiBatchRow, *, total: int | None) -> None:
        """Keep an order whose long file is being read; raises _Stopping if this process ends."""
        if self._stop.is_set():
            self._repository.look_again(order.id, seconds=0)
            raise _Stopping
        self._repository.look_again(order.id, seconds=TURN_SECONDS, total=total)

    def _tell(self, order: ApiBatchRow, error: RouteT2IError) -> dict[str, object]:
        path = str(self._files.path_of(order.sha256))
        return _told(error, path=path, file_id=order.input_file_id)

    def _fail(self, order: ApiBatchRow, errors: Sequence[dict[str, object]]) -> None:
        opened = self._repository.find_order(order.id).batch_id
        if opened is not None:
            self._repository.cancel_batch(opened)  # nothing of a failed order waits for a window
            self._count(order, lines.tally(self._repository.engine, opened))
        self._move(order, State.FAILED, errors=orjson.dumps(list(errors)).decode())

    # in progress

    def _watch(self, taken: Taken) -> None:
        order = taken.row
        assert order.batch_id is not None
        began = time.monotonic()
        tally = lines.tally(self._repository.engine, order.batch_id)
        took = time.monotonic() - began
        if tally.state == "cancelled":  # by `routet2i cancel`
            self._move(order, State.CANCELLING, ending=State.CANCELLED)
        elif tally.over:
            self._move(order, State.FINALIZING, ending=State.COMPLETED)
        elif taken.overdue:
            self._move(order, State.FINALIZING, ending=State.EXPIRED)
        else:
            self._count(order, tally, seconds=_spared(took, at_least=SOONEST_SECONDS))

    def _count(self, order: ApiBatchRow, tally: Tally, *, seconds: float = 0.0) -> None:
        self._repository.look_again(
            order.id,
            seconds=seconds,
            total=tally.accepted + tally.rejected,
            completed=tally.succeeded,
            failed=tally.failed + tally.rejected,
        )

    # finalizing, cancelling

    def _finish(self, order: ApiBatchRow) -> None:
        if order.batch_id is None:  # its file was never read
            self._repository.finish_order(
                order.id, total=0, completed=0, failed=0, output_bytes=None, error_bytes=None
            )
            return
        if order.ending is not State.COMPLETED:
            failpoints.reach("before_stop")
            self._repository.cancel_batch(order.batch_id)
        tally = lines.tally(self._repository.engine, order.batch_id)
        if not tally.over:
            self._count(order, tally, seconds=SOONEST_SECONDS)
            return
        failpoints.reach("before_finish")
        finished = self._repository.finish_order(
            order.id,
            total=tally.accepted + tally.rejected,
            completed=tally.succeeded,
            failed=tally.failed + tally.rejected,
            output_bytes=self._output_bytes(order, order.batch_id),
            error_bytes=self._error_bytes(order, order.batch_id),
        )
        if finished:
            _log.info("order_finished", order=order.id, batch=order.batch_id, state=order.ending)

    def _output_bytes(self, order: ApiBatchRow, batch_id: str) -> int | None:
        return measured(
            self._kept(order, lines.delivered(self._repository.engine, batch_id)),
            batch_id=batch_id,
            store=self._pictures,
            address=partial(self._links.address, base_url=order.base_url),
        )

    def _error_bytes(self, order: ApiBatchRow, batch_id: str) -> int | None:
        missing = lines.missing(self._repository.engine, batch_id)
        ending = str(order.ending)
        return sum(len(error_line(one, order_id=order.id, ending=ending)) for one in missing) or None

    def _move(
        self, order: ApiBatchRow, after: State, *, ending: State | None = None, errors: str | None = None
    ) -> None:
        moved = self._repository.move_order(
            order.id, before=order.state, after=after, ending=ending, errors=errors
        )
        if moved:
            _log.info("order_moved", order=order.id, batch=order.batch_id, state=after)

    def _kept(self, order: ApiBatchRow, jobs: Iterator[DeliveredJob]) -> Iterator[DeliveredJob]:
        """Yield jobs, and keep the order from other clerks while that lasts."""
        renew = time.monotonic() + TURN_SECONDS / 3
        for job in jobs:
            if time.monotonic() > renew:
                renew = time.monotonic() + TURN_SECONDS / 3
                self._renew(order, total=None)
            yield job


class _Intake:
    """The batch of one order, opened only while the order is wanted."""

    def __init__(self, repository: Repository, order: ApiBatchRow) -> None:
        self._repository = repository
        self._order = order

    def open_batch(
        self,
        *,
        client: str,
        idem_key: str,
        body_sha256: str,
        name: str,
        budget_micro_usd: int | None,
        preview_id: str | None,
        jobs: int,
        limits: QueueLimits | None,
    ) -> OpenedBatch:
        """Return the order's batch; its client and key are the order's."""
        assert (client, idem_key) == (self._order.client, self._order.id)
        return self._repository.open_ordered(
            self._order.id,
            body_sha256=body_sha256,
            name=name,
            budget_micro_usd=budget_micro_usd,
            preview_id=preview_id,
            jobs=jobs,
            limits=limits,
        )

    def add_jobs(
        self,
        batch_id: str,
        requests: Sequence[GenerationRequest],
        rejections: Sequence[Rejection],
        *,
        cursor_line: int,
    ) -> object:
        """See `Repository.add_jobs`."""
        return self._repository.add_jobs(batch_id, requests, rejections, cursor_line=cursor_line)

    def close_intake(self, batch_id: str) -> None:
        """See `Repository.close_intake`."""
        self._repository.close_intake(batch_id)


def _spared(took: float, *, at_least: float) -> float:
    """Return how many seconds an order is left alone that has taken so many."""
    return min(max(at_least, took / SHARE), LATEST_SECONDS)


def _told(error: RouteT2IError, *, path: str, file_id: str) -> dict[str, object]:
    """Return an error of a whole file as OpenAI's batch tells it: nothing of our disk, no command line."""
    message = str(error).replace(path, file_id).replace("type --budget", "give a budget_usd of")
    codes = ((BudgetTooSmall, "budget_too_small"), (Conflict, "conflict"), (NotFound, "not_found"))
    code = next((code for kind, code in codes if isinstance(error, kind)), "invalid_file")
    return {"code": code, "message": message, "line": None, "param": None}


def _line(bad: Rejection) -> dict[str, object]:
    return {
        "code": bad.code or "invalid_line",
        "message": f"{bad.reason}; {bad.remedy}",
        "line": bad.line_no,
        "param": PARAMS.get(bad.code or ""),
    }
