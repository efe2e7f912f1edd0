"""`results` and `audit`: what came out, and why.

It reads `db.audit` and prints; it decides nothing.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from db import audit as records
from db.audit import JobStory, PictureStory
from db.story import CallStory
from routet2i.contracts import JobState
from routet2i.errors import UsageError
from scheduler.allocator import REASONS
from scheduler.cli.batches import Json
from scheduler.cli.exports import write_file
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import as_json, clean, console, money, shortened, table, write_csv, write_line

PROMPT_WIDTH = 48  # characters of a prompt in the table
TABLE_COLUMNS = ("custom_id", "tier", "state", "reason", "PRS", "alpha", "cost", "mean score", "prompt")


def results(
    ctx: typer.Context,
    batch: Annotated[str, typer.Argument(help="Id, the beginning of an id, or 'last'.")] = "last",
    fmt: Annotated[
        Literal["table", "jsonl", "csv", "parquet", "zip"],
        typer.Option("--format", help="All but the table have every column; zip has the pictures, too."),
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="Write to this file instead of standard output.")
    ] = None,
) -> None:
    """Print one row per picture: tier, reason, cost, scores, file.

    Example: routet2i results last --format csv --output results.csv
    """
    if fmt in ("parquet", "zip"):
        if output is None:
            raise UsageError(f"--format {fmt} needs a file: --output FILE")
        write_file(ctx, batch, fmt=fmt, output=output)
        return
    repository = open_repository(read_settings(ctx))
    batch_id = repository.resolve_batch(batch)
    with (
        closing(records.rows(repository.engine, batch_id=batch_id)) as found,
        output_stream(output) as stream,
    ):
        if fmt == "table":
            _write_table(found, stream=stream)
        elif fmt == "csv":
            _write_csv(found, stream=stream)
        else:
            for row in found:
                stream.write(as_json(row, lines=True) + "\n")


@contextmanager
def output_stream(output: Path | None) -> Iterator[IO[str]]:
    """Open the file of `--output`, or standard output; raises UsageError if it cannot be written."""
    if output is None:
        yield sys.stdout
        return
    try:
        file = output.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; name another --output") from error
    with file as stream:
        yield stream


def _write_csv(found: Iterator[dict[str, Any]], *, stream: IO[str]) -> None:
    first = next(found, None)
    if first is not None:

        def rows() -> Iterator[Mapping[str, Any]]:
            yield first
            yield from found

        write_csv(rows(), columns=list(first), stream=stream)


def _write_table(found: Iterator[dict[str, Any]], *, stream: IO[str]) -> None:
    rows = [
        (
            row["custom_id"],
            row["tier"],
            JobState(row["state"]) if row["image_deleted_at"] is None else _gone(row["image_deleted_at"]),
            row["reason"],
            row["prs_predicted"],
            row["prs_threshold"],
            None if row["cost_charged_usd"] is None else f"${row['cost_charged_usd']:.3f}",
            mean_score(row),
            shortened(row["prompt"], width=PROMPT_WIDTH),
        )
        for row in found
    ]
    out = console()
    out.file = stream
    out.print(table(None, columns=TABLE_COLUMNS, rows=rows))


def _gone(deleted_at: str) -> str:
    return f"deleted on {deleted_at[:10]}"


def mean_score(row: Mapping[str, Any]) -> float | None:
    """Return the mean of a row's ten pair scores, alignment apart; None without a picture."""
    scores = [
        value
        for name, value in row.items()
        if name.startswith("q_") and name != "q_alignment" and value is not None
    ]
    return sum(scores) / len(scores) if scores else None


def audit(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="Id, the beginning of an id, or custom_id.")],
    batch: Annotated[
        str | None, typer.Option(help="Its batch, where several batches have this custom_id.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell one job's story: prediction, money, tier and reason, cost, scores, attempts.

    Example: routet2i audit shape-042 --batch last
    """
    repository = open_repository(read_settings(ctx))
    batch_id = None if batch is None else repository.resolve_batch(batch)
    story = records.job_story(repository.engine, repository.resolve_job(job, batch_id=batch_id))
    if json:
        write_line(as_json(story))
        return
    out = console()
    for name, text in tell(story):
        out.print(f"{name:<10} {text}", soft_wrap=True)


def tell(story: JobStory) -> list[tuple[str, str]]:
    """Return a job's story as about ten lines of (what, text)."""
    lines = [
        ("job", f"{clean(story.custom_id)} ({story.job_id}), {_place(story)}"),
        ("prompt", f"{clean(story.prompt)} (seed {story.seed}, {_pictures(story.n)})"),
        ("state", _state(story)),
    ]
    if story.retry_of is not None:
        lines.append(("retry of", f"job {story.retry_of}"))
    if story.requested_tier is not None:
        lines.append(("asks for", f"tier {clean(story.requested_tier)}"))
    if story.wanted_until is not None:
        lines.append(("deadline", _deadline(story.wanted_until, story.finished_at)))
    if story.tier is None:
        waits = REASONS.get(story.defer_reason or "", "no window has looked at it yet")
        return [*lines, ("decision", f"none yet: {waits}")]
    if story.preview_id is not None:
        lines.append(("preview", f"{story.preview_id} chose tier and price before the submission"))
    lines += [
        ("predicted", _predicted(story)),
        (
            "window",
            f"{story.window_id} could spend {money(story.available_micro_usd)} (rule {story.policy})",
        ),
        ("decision", f"tier {story.tier}: {REASONS.get(story.reason or '', story.reason)} ({story.reason})"),
        ("cost", f"reserved {_paid(story.reserved_micro_usd)}, charged {_paid(story.charged_micro_usd)}"),
    ]
    lines += [("scores", f"picture {one.index}: {_scores(one.scores)}") for one in story.pictures]
    lines += [("picture", _where(one)) for one in story.pictures]
    if story.model_id is not None:
        lines.append(("model", f"{story.model_id}, revision {story.model_revision}"))
    lines += [
        (
            f"attempt {number}",
            f"{one.worker}, fence {one.fence}, from {one.started_at:%H:%M:%S} to "
            + (f"{one.ended_at:%H:%M:%S}" if one.ended_at else "now")
            + (f", {one.error_class}: {clean(one.error or '')}" if one.error_class else ""),
        )
        for number, one in enumerate(story.attempts, start=1)
    ]
    lines += [
        (
            "call",
            f"picture {one.index}: {one.state}, {_billed(one)}, key {one.idem_key}"
            + (f", {clean(one.error)}" if one.error else ""),
        )
        for one in story.calls
    ]
    if story.retried_by is not None:
        lines.append(("retry", f"job {story.retried_by} tries it again"))
    if story.error is not None:
        lines.append(("error", f"{story.error_class}: {clean(story.error)}"))
    return lines


def _where(picture: PictureStory) -> str:
    """Return where a picture lies, or since when it does not any more."""
    if picture.deleted_at is None:
        return f"{picture.image_uri} (seed {picture.seed})"
    return (
        f"deleted on {picture.deleted_at:%Y-%m-%d} by {clean(picture.deleted_by or '')} "
        f"(seed {picture.seed}, {picture.sha256[:12]})"
    )


def _pictures(n: int) -> str:
    return "1 picture" if n == 1 else f"{n} pictures"


def _state(story: JobStory) -> str:
    """Return state, submission and duration."""
    text = f"{story.state.value}, submitted {story.submitted_at:%Y-%m-%d %H:%M:%S} UTC"
    if story.finished_at is not None:
        text += f", finished {(story.finished_at - story.submitted_at).total_seconds():.1f} s later"
    if story.seconds is not None:
        text += f" ({story.seconds:.2f} s of the device)"
    return text


def _place(story: JobStory) -> str:
    return f"line {story.line_no} of batch {story.batch_id} of client {story.client}"


def _deadline(wanted_until: datetime, finished_at: datetime | None) -> str:
    text = f"{wanted_until:%Y-%m-%d %H:%M:%S} UTC"
    if finished_at is None:
        return text
    late = (finished_at - wanted_until).total_seconds()
    return f"{text}: " + ("met" if late <= 0 else f"missed by {late:.0f} s")


def _predicted(story: JobStory) -> str:
    """Return the prediction against the threshold, and the mean score per tier where there is one."""
    text = f"PRS {story.prs:.3f}, cloud below {story.threshold:.3f}"
    means = [
        f"{tier} {sum(scores.values()) / len(scores):.3f}"
        for tier, scores in story.predicted.items()
        if scores
    ]
    if means:
        text += f"; mean score {', '.join(means)}"
    return f"{text} ({story.predictor_name} {story.predictor_version})"


def _billed(call: CallStory) -> str:
    known = "bill not known" if call.cost_micro_usd is None else f"billed {money(call.cost_micro_usd)}"
    return f"{known}, at most {money(call.cost_max_micro_usd)}"


def _paid(micro_usd: int | None) -> str:
    return "nothing yet" if micro_usd is None else money(micro_usd)


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
