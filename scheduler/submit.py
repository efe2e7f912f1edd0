"""Make a batch of a prompt file: check it as a whole, then write it in transactions.

The file is read twice: once to count, hash and price it, so that a batch nobody can pay is refused before
anything is written; once to write. Whatever stops the second reading (a crash, a lost database), the same
command continues where the last commit stood, and windows see no job before all are there. It knows neither
SQL nor how a line is parsed.
"""

import contextlib
import hashlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from routet2i import failpoints, tracing
from routet2i.contracts import (
    NAME,
    SHADOW_CLIENT,
    GenerationRequest,
    OpenedBatch,
    QueueLimits,
    Rejection,
    StoredPreview,
)
from routet2i.errors import BudgetTooSmall, IntakeError, QueueFull, UsageError
from routet2i.settings import Settings
from routet2i.tiers import Tiers
from scheduler.deadlines import NO_DEADLINE, Deadline
from scheduler.hashing_reader import HashingReader
from scheduler.intake import Format, guess_format, read_requests
from scheduler.promise import Promise, dollars

LINES_PER_COMMIT = 5000  # short enough a transaction for others to get in, long enough to be fast
COPY_BYTES = 1 << 20  # of a pipe at once
REPORTED = 1000  # rejections a Submission carries; the database has all of them
INGESTING = "ingesting"  # state of a batch whose file is not yet wholly written


class Batches(Protocol):
    """What submitting needs of `db.repository.Repository`."""

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
        """Return the batch of this key; raises Conflict, QueueFull and UsageError as `submit_file` does."""

    def add_jobs(
        self,
        batch_id: str,
        requests: Sequence[GenerationRequest],
        rejections: Sequence[Rejection],
        *,
        cursor_line: int,
    ) -> object:
        """Write jobs and rejections in one transaction, which is safe to repeat; the answer is not used."""

    def close_intake(self, batch_id: str) -> None:
        """Open the batch to decision windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A batch that is committed, and what of its file became a job."""

    batch_id: str
    name: str
    created: bool  # False: this file was submitted before, and nothing was added
    accepted: int  # lines that are jobs
    pictures: int  # wanted by them
    rejected: tuple[Rejection, ...]  # the first REPORTED of them
    rejected_count: int
    floor_micro_usd: int  # what all pictures cost on the edge tier, or on the tier that they ask for
    budget_micro_usd: int | None
    preview_id: str | None = None  # whose assignments and prices it has
    preview_micro_usd: int | None = None  # what that preview promised for all jobs
    repriced_jobs: int = 0  # that the tier file has another price for than the preview
    repriced_micro_usd: int | None = None  # what that preview's plan costs by the tier file


@dataclass(frozen=True, kw_only=True, slots=True)
class _Survey:
    """What the first reading found."""

    sha256: str
    lines: int  # that are jobs or rejections
    accepted: int
    pictures: int
    floor_micro_usd: int  # what all pictures cost on the edge tier, or on the tier that they ask for
    rejected: tuple[Rejection, ...]
    rejected_count: int


def submit_file(
    repository: Batches,
    path: Path | None,
    *,
    tiers: Tiers,
    settings: Settings,
    budget_micro_usd: int | None,
    key: str | None = None,
    name: str | None = None,
    client: str = "default",
    deadline: Deadline = NO_DEADLINE,
    priority: int = 0,
    fmt: Format | None = None,
    preview: StoredPreview | None = None,
    progress: Callable[[int, int], None] | None = None,
    wait: Callable[[QueueFull], None] | None = None,
) -> Submission:
    """Make a batch of a file's prompts; when this returns, the batch is committed.

    Args:
        path: the file; None = standard input, which is copied to a temporary file first.
        tiers: the routed pair; its edge price is the least the batch can cost.
        settings: for the caps of lines, prompts and the queue.
        budget_micro_usd: limit of the batch; None = no limit, or with a preview what that costs.
        key: makes the submission repeatable; by default the digest of file, format, budget, preview
            and deadline, so that the same file with the same budget is the same batch.
        name: shown to people; by default the file's name.
        client: whose key, and whose jobs they are.
        deadline: of lines that name none.
        priority: of lines that name none.
        fmt: by default what the file's name tells, and JSON lines on standard input.
        preview: of this file: each job gets the tier and the price that it promised.
        progress: called after each commit with lines written and lines in all.
        wait: called while the queue is full, until it has room; None = the file is refused.
    Raises:
        IntakeError: the file cannot be read, has no prompt line at all, or changed meanwhile.
        BudgetTooSmall: the budget is below the edge price of all pictures, or below what the preview costs;
            nothing was written.
        Conflict: the key was used before with another file, format, budget, preview or deadline; or the
            preview is of another file or format, and nothing was written.
        QueueFull: too many jobs wait to let these in; nothing was written.
        UsageError: nobody may have that name; or the file has more jobs than may ever wait, and nothing was
            written.
        TierError: a tier of the preview is not in the tier file; nothing was written.
    """
    _check_client(client)
    if fmt is None:
        fmt = guess_format(path) if path is not None else "jsonl"
    source = str(path) if path is not None else "standard input"
    promise = None
    if preview is not None:
        promise = Promise(preview, tiers=tiers, fmt=fmt, source=source)
        budget_micro_usd = promise.limit(budget_micro_usd)
    with _opened(path, max_bytes=settings.max_file_bytes) as stream:
        lines = _Lines(
            stream=stream,
            source=source,
            fmt=fmt,
            settings=settings,
            deadline=deadline,
            priority=priority,
            now_ms=time.time_ns() // 1_000_000,
            tiers=tuple(tiers.routed),
        )
        survey = _survey(lines, tiers=tiers, promise=promise)
        body = f"{survey.sha256}\n{fmt}\n{budget_micro_usd}"
        if promise is None:
            _check_budget(survey, edge=tiers.edge, budget_micro_usd=budget_micro_usd)
        else:
            promise.require_file(survey.sha256)
            body += f"\n{promise.preview_id}"
        if deadline != NO_DEADLINE:
            body += f"\ndeadline {deadline.at_ms} {deadline.within_ms}"
        if priority:
            body += f"\npriority {priority}"
        body_sha256 = hashlib.sha256(body.encode()).hexdigest()
        name = name or (path.name if path is not None else "stdin")
        opened = _let_in(
            lambda: repository.open_batch(
                client=client,
                idem_key=key or body_sha256,
                body_sha256=body_sha256,
                name=name,
                budget_micro_usd=budget_micro_usd,
                preview_id=None if promise is None else promise.preview_id,
                jobs=survey.accepted,
                limits=queue_limits(settings),
            ),
            wait=wait,
        )
        if opened.state == INGESTING:
            began_ns = time.time_ns()
            _write(repository, opened, lines, survey=survey, progress=progress)
            tracing.submitted(
                opened.batch_id,
                began_ns=began_ns,
                attributes={"routet2i.client": client, "routet2i.jobs": survey.accepted},
            )
        elif survey.rejected_count and not opened.created:  # deadlines may have passed since it came in
            survey = _survey(replace(lines, now_ms=opened.created_ms), tiers=tiers, promise=None)
    return Submission(
        batch_id=opened.batch_id,
        name=name,
        created=opened.created or opened.state == INGESTING,
        accepted=survey.accepted,
        pictures=survey.pictures,
        rejected=survey.rejected,
        rejected_count=survey.rejected_count,
        floor_micro_usd=survey.floor_micro_usd,
        budget_micro_usd=budget_micro_usd,
        preview_id=None if promise is None else promise.preview_id,
        preview_micro_usd=None if promise is None else promise.micro_usd,
        repriced_jobs=0 if promise is None else promise.repriced_jobs,
        repriced_micro_usd=None if promise is None else promise.repriced_micro_usd,
    )


def _check_client(name: str) -> None:
    """Raise UsageError for what no client may be called."""
    if name == SHADOW_CLIENT:
        raise UsageError(f"{name!r} is the client of shadow jobs; choose another name, or leave --client out")
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"{name!r} is no client's name; write 1 to 64 letters, digits, dots, dashes and underscores"
        )


def _let_in(
    open_batch: Callable[[], OpenedBatch], *, wait: Callable[[QueueFull], None] | None
) -> OpenedBatch:
    while True:
        try:
            return open_batch()
        except QueueFull as full:
            if wait is None:
                raise
            wait(full)


def queue_limits(settings: Settings) -> QueueLimits:
    """Return how many jobs may wait."""
    return QueueLimits(jobs=settings.queue_jobs, client_jobs=settings.client_queue_jobs)


@contextlib.contextmanager
def _opened(path: Path | None, *, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a file that can be read twice; a pipe is copied to a temporary file, a byte too much at most."""
    with contextlib.ExitStack() as stack:
        if path is None:
            stream: BinaryIO = sys.stdin.buffer
        else:
            try:
                stream = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise IntakeError(f"cannot read {path}: {error.strerror}; check the name") from error
        if path is None or not stream.seekable():
            copy = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile()))
            left = max_bytes + 1
            while left and (piece := stream.read(min(left, COPY_BYTES))):
                left -= copy.write(piece)
            copy.seek(0)
            stream = copy
        yield stream


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lines:
    """A file that can be read again and again, to the same requests and rejections each time."""

    stream: BinaryIO
    source: str  # its name, for people
    fmt: Format
    settings: Settings
    deadline: Deadline  # of lines that name none
    priority: int  # of lines that name none
    now_ms: int  # that deadlines are held against
    tiers: tuple[str, ...]  # that lines may ask for

    def read(self, *, seed_base: bytes) -> tuple[Iterator[GenerationRequest | Rejection], HashingReader]:
        """Return the file's items from its beginning, and the stream that hashes them as they are read."""
        self.stream.seek(0)
        reader = HashingReader(self.stream)
        return self._items(reader, seed_base=seed_base), reader

    def _items(self, reader: HashingReader, *, seed_base: bytes) -> Iterator[GenerationRequest | Rejection]:
        try:
            yield from read_requests(
                cast(BinaryIO, reader),
                fmt=self.fmt,
                max_line_bytes=self.settings.max_line_bytes,
                max_prompt_chars=self.settings.max_prompt_chars,
                seed_base=seed_base,
                deadline=self.deadline,
                priority=self.priority,
                now_ms=self.now_ms,
                max_file_bytes=self.settings.max_file_bytes,
                max_file_lines=self.settings.max_file_lines,
                tiers=self.tiers,
            )
        except IntakeError as error:
            raise IntakeError(f"{self.source}: {error}") from None
        except OSError as error:
            raise IntakeError(f"cannot read {self.source}: {error.strerror}") from error


def _survey(lines: _Lines, *, tiers: Tiers, promise: Promise | None) -> _Survey:
    """Read the file once: count, hash, price, hold it against a preview, and keep the first rejections."""
    items, reader = lines.read(seed_base=b"")
    accepted = pictures = floor = rejected_count = 0
    rejected: list[Rejection] = []
    for item in items:
        if isinstance(item, GenerationRequest):
            accepted += 1
            pictures += item.n
            tier = tiers[item.tier or tiers.edge]
            floor += tier.price(item.n, width=item.width, height=item.height)
            if promise is not None:
                promise.see(item)
            continue
        rejected_count += 1
        if len(rejected) < REPORTED:
            rejected.append(item)
    if not accepted and not rejected_count:
        raise IntakeError(
            f"no prompts in {lines.source}; write one JSON object a line, or one prompt a line in a .txt"
        )
    return _Survey(
        sha256=reader.sha256.hexdigest(),
        lines=accepted + rejected_count,
        accepted=accepted,
        pictures=pictures,
        floor_micro_usd=floor,
        rejected=tuple(rejected),
        rejected_count=rejected_count,
    )


def _check_budget(survey: _Survey, *, edge: str, budget_micro_usd: int | None) -> None:
    """Raise BudgetTooSmall if all pictures cost more on the edge tier than the budget holds."""
    floor = survey.floor_micro_usd
    if budget_micro_usd is not None and floor > budget_micro_usd:
        raise BudgetTooSmall(
            f"the budget of ${dollars(budget_micro_usd)} does not cover {survey.pictures} pictures, which "
            f"cost ${dollars(floor)} on tier {edge}; type --budget {dollars(floor)} or more"
        )


def _write(
    repository: Batches,
    opened: OpenedBatch,
    lines: _Lines,
    *,
    survey: _Survey,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Read the file again and write what is behind the batch's cursor, then open the batch to windows."""
    requests: list[GenerationRequest] = []
    rejections: list[Rejection] = []
    done = 0

    def commit(cursor_line: int) -> None:
        if requests or rejections:
            failpoints.reach("mid_ingest")
            repository.add_jobs(opened.batch_id, requests, rejections, cursor_line=cursor_line)
            failpoints.reach("after_ingest_commit")
            requests.clear()
            rejections.clear()
        if progress is not None:
            progress(done, survey.lines)

    cursor = opened.cursor_line
    items, reader = lines.read(seed_base=bytes.fromhex(survey.sha256))
    for item in items:
        done += 1
        if item.line_no <= opened.cursor_line:
            continue
        cursor = item.line_no
        if isinstance(item, GenerationRequest):
            requests.append(item)
        else:
            rejections.append(item)
        if len(requests) + len(rejections) >= LINES_PER_COMMIT:
            commit(cursor)
    if reader.sha256.hexdigest() != survey.sha256:
        raise IntakeError(f"{lines.source} changed while it was read; type the command again")
    commit(cursor)
    repository.close_intake(opened.batch_id)
