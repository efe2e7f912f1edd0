"""Make a batch of a prompt file: check it as a whole, then write it in transactions.

The file is read twice: once to count, hash and price it, so that a batch nobody can pay is refused before
anything is written; once to write. Whatever stops the second reading (a crash, a lost database), the same
command continues where the last commit stood, and windows see no job before all are there. It knows neither
SQL nor how a line is parsed.
"""

import contextlib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from routet2i.contracts import GenerationRequest, OpenedBatch, Rejection, StoredPreview
from routet2i.errors import BudgetTooSmall, IntakeError
from routet2i.settings import Settings
from routet2i.tiers import TierProfile, Tiers
from scheduler.hashing_reader import HashingReader
from scheduler.intake import Format, guess_format, read_requests
from scheduler.promise import Promise, dollars

LINES_PER_COMMIT = 5000  # short enough a transaction for others to get in, long enough to be fast
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
    ) -> OpenedBatch:
        """Return the batch of this key; raises Conflict if the key came with another body before."""

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
    floor_micro_usd: int  # what all pictures cost on the edge tier
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
    floor_micro_usd: int  # what all pictures cost on the edge tier
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
    fmt: Format | None = None,
    preview: StoredPreview | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Submission:
    """Make a batch of a file's prompts; when this returns, the batch is committed.

    Args:
        path: the file; None = standard input, which is copied to a temporary file first.
        tiers: the routed pair; its edge price is the least the batch can cost.
        settings: for the caps of lines and prompts.
        budget_micro_usd: limit of the batch; None = no limit, or with a preview what that costs.
        key: makes the submission repeatable; by default the digest of file, format, budget and preview, so
            that the same file with the same budget is the same batch.
        name: shown to people; by default the file's name.
        client: whose key it is.
        fmt: by default what the file's name tells, and JSON lines on standard input.
        preview: of this file: each job gets the tier and the price that it promised.
        progress: called after each commit with lines written and lines in all.
    Raises:
        IntakeError: the file cannot be read, has no prompt line at all, or changed meanwhile.
        BudgetTooSmall: the budget is below the edge price of all pictures, or below what the preview costs;
            nothing was written.
        Conflict: the key was used before with another file, format, budget or preview; or the preview is of
            another file or format, and nothing was written.
        TierError: a tier of the preview is not in the tier file; nothing was written.
    """
    if fmt is None:
        fmt = guess_format(path) if path is not None else "jsonl"
    source = str(path) if path is not None else "standard input"
    promise = None
    if preview is not None:
        promise = Promise(preview, tiers=tiers, fmt=fmt, source=source)
        budget_micro_usd = promise.limit(budget_micro_usd)
    with _opened(path) as stream:
        survey = _survey(
            stream, source=source, fmt=fmt, edge=tiers[tiers.edge], settings=settings, promise=promise
        )
        body = f"{survey.sha256}\n{fmt}\n{budget_micro_usd}"
        if promise is None:
            _check_budget(survey, edge=tiers[tiers.edge], budget_micro_usd=budget_micro_usd)
        else:
            promise.require_file(survey.sha256)
            body += f"\n{promise.preview_id}"
        body_sha256 = hashlib.sha256(body.encode()).hexdigest()
        name = name or (path.name if path is not None else "stdin")
        opened = repository.open_batch(
            client=client,
            idem_key=key or body_sha256,
            body_sha256=body_sha256,
            name=name,
            budget_micro_usd=budget_micro_usd,
            preview_id=None if promise is None else promise.preview_id,
        )
        if opened.state == INGESTING:
            stream.seek(0)
            _write(
                repository,
                opened,
                stream,
                survey=survey,
                source=source,
                fmt=fmt,
                settings=settings,
                progress=progress,
            )
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


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    """Open a file that can be read twice; a pipe is copied to a temporary file."""
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
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            stream = copy
        yield stream


def _read(
    stream: HashingReader, *, source: str, fmt: Format, settings: Settings, seed_base: bytes
) -> Iterator[GenerationRequest | Rejection]:
    try:
        yield from read_requests(
            cast(BinaryIO, stream),
            fmt=fmt,
            max_line_bytes=settings.max_line_bytes,
            max_prompt_chars=settings.max_prompt_chars,
            seed_base=seed_base,
        )
    except IntakeError as error:
        raise IntakeError(f"{source}: {error}") from None
    except OSError as error:
        raise IntakeError(f"cannot read {source}: {error.strerror}") from error


def _survey(
    stream: BinaryIO,
    *,
    source: str,
    fmt: Format,
    edge: TierProfile,
    settings: Settings,
    promise: Promise | None,
) -> _Survey:
    """Read the file once: count, hash, price, hold it against a preview, and keep the first rejections."""
    reader = HashingReader(stream)
    accepted = pictures = floor = rejected_count = 0
    rejected: list[Rejection] = []
    for item in _read(reader, source=source, fmt=fmt, settings=settings, seed_base=b""):
        if isinstance(item, GenerationRequest):
            accepted += 1
            pictures += item.n
            floor += edge.price(item.n, width=item.width, height=item.height)
            if promise is not None:
                promise.see(item)
            continue
        rejected_count += 1
        if len(rejected) < REPORTED:
            rejected.append(item)
    if not accepted and not rejected_count:
        raise IntakeError(
            f"no prompts in {source}; write one JSON object a line, or one prompt a line in a .txt"
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


def _check_budget(survey: _Survey, *, edge: TierProfile, budget_micro_usd: int | None) -> None:
    """Raise BudgetTooSmall if all pictures cost more on the edge tier than the budget holds."""
    floor = survey.floor_micro_usd
    if budget_micro_usd is not None and floor > budget_micro_usd:
        raise BudgetTooSmall(
            f"the budget of ${dollars(budget_micro_usd)} does not cover {survey.pictures} pictures, which "
            f"cost ${dollars(floor)} on tier {edge.name}; type --budget {dollars(floor)} or more"
        )


def _write(
    repository: Batches,
    opened: OpenedBatch,
    stream: BinaryIO,
    *,
    survey: _Survey,
    source: str,
    fmt: Format,
    settings: Settings,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Read the file again and write what is behind the batch's cursor, then open the batch to windows."""
    reader = HashingReader(stream)
    requests: list[GenerationRequest] = []
    rejections: list[Rejection] = []
    done = 0

    def commit(cursor_line: int) -> None:
        if requests or rejections:
            repository.add_jobs(opened.batch_id, requests, rejections, cursor_line=cursor_line)
            requests.clear()
            rejections.clear()
        if progress is not None:
            progress(done, survey.lines)

    seed_base = bytes.fromhex(survey.sha256)
    cursor = opened.cursor_line
    for item in _read(reader, source=source, fmt=fmt, settings=settings, seed_base=seed_base):
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
        raise IntakeError(f"{source} changed while it was read; type the command again")
    commit(cursor)
    repository.close_intake(opened.batch_id)
