"""One batch as one page: split, spend, scores, predictions and a gallery, in a file that needs nothing else.

It reads `db.audit`, the pairs of pictures and the picture files, and fills `templates/report.html.j2`;
pictures and plots are inside the page, which asks for nothing from anywhere. It decides nothing and writes
one file.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from db import audit
from db.audit import BatchStatus, WindowStory
from db.pairs import ShadowSpending
from db.repository import Repository
from routet2i.contracts import JobState, Rejection
from routet2i.settings import Settings
from scheduler.allocator import REASONS
from scheduler.comparison import Compared, compare

MAX_CARDS = 400  # a page with more is slow to open; the rows are all in SQL
SERIES = 4  # colours in the page's style sheet; tiers beyond share the last one


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One picture of the gallery, or a job that has none."""

    row: Mapping[str, Any]  # of the view job_audit
    picture: str | None  # data: URI of the PNG
    scores: Mapping[str, float]
    why: str  # the reason as a sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """One tier's part of the batch."""

    name: str
    series: int  # colour, from 1
    jobs: int
    share: float  # of the assigned jobs, [0, 1]
    scores: Mapping[str, float]  # metric -> mean


def write_report(repository: Repository, batch_id: str, *, settings: Settings) -> Path:
    """Write HOME/report.html about a batch and return its path.

    Raises:
        NotFound: no batch has this id.
        ServiceUnavailable: the database does not answer.
    """
    page = render(repository, batch_id, settings=settings)
    path = settings.home.resolve() / "report.html"
    new = path.with_suffix(".new")
    new.write_text(page, encoding="utf-8")
    new.replace(path)
    return path


def render(repository: Repository, batch_id: str, *, settings: Settings) -> str:
    """Return the page as HTML; pictures are those of the settings' home."""
    engine = repository.engine
    status = audit.batch_status(engine, batch_id)
    with closing(audit.rows(engine, batch_id=batch_id)) as rows:
        cards = list(islice(_cards(rows, home=settings.home.resolve()), MAX_CARDS))
    return fill(
        status,
        tiers=_tiers(status, audit.mean_scores(engine, batch_id)),
        windows=audit.windows(engine, batch_id),
        rejected=audit.rejections(engine, batch_id),
        shadows=repository.shadow_spending(batch_id),
        compared=compared(repository, batch_id, settings=settings),
        cards=cards,
    )


def compared(repository: Repository, batch_id: str, *, settings: Settings) -> list[Compared]:
    """Return predicted beside measured PRS of a batch's jobs that both tiers drew, per predictor version."""
    return compare(
        repository.shadow_pairs(batch_id=batch_id),
        yardsticks=repository.yardsticks(),
        tiers=settings.read_tiers(),
        weights=settings.read_metrics().weights,
    )


def fill(
    status: BatchStatus,
    *,
    tiers: Sequence[Tier],
    windows: Sequence[WindowStory],
    rejected: Sequence[Rejection],
    shadows: ShadowSpending,
    compared: Sequence[Compared],
    cards: Sequence[Card],
) -> str:
    """Return the page for values that are given; everything is escaped."""
    environment = Environment(
        loader=PackageLoader("scheduler", "templates"),
        autoescape=True,  # whatever the template's ending
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = list(dict.fromkeys(metric for tier in tiers for metric in tier.scores))
    return environment.get_template("report.html.j2").render(
        status=status,
        tiers=tiers,
        series={tier.name: tier.series for tier in tiers},
        metrics=metrics,
        windows=windows,
        tallest=max((window.reserved_micro_usd for window in windows), default=0) or 1,
        rejected=rejected,
        shadows=shadows,
        compared=compared,
        cards=cards,
        max_cards=MAX_CARDS,
        states=[(state, jobs) for state, jobs in status.by_state.items() if jobs],
        seconds=_seconds(status),
    )


def _seconds(status: BatchStatus) -> float | None:
    if status.finished_at is None:
        return None
    return (status.finished_at - status.created_at).total_seconds()


def _tiers(status: BatchStatus, scores: Mapping[str, Mapping[str, float]]) -> list[Tier]:
    """Return the tiers that got jobs, by name from the lightest: edge comes after cloud in the alphabet."""
    assigned = sum(status.by_tier.values()) or 1
    return [
        Tier(
            name=name,
            series=min(series, SERIES),
            jobs=jobs,
            share=jobs / assigned,
            scores=scores.get(name, {}),
        )
        for series, (name, jobs) in enumerate(sorted(status.by_tier.items(), reverse=True), start=1)
    ]


def _cards(rows: Iterator[dict[str, Any]], *, home: Path) -> Iterator[Card]:
    for row in rows:
        yield Card(
            row=row,
            picture=_data_uri(home, row["image_uri"]) if row["image_uri"] else None,
            scores={
                name.removeprefix("q_"): float(value)
                for name, value in row.items()
                if name.startswith("q_") and value is not None
            },
            why=REASONS.get(row["reason"] or "", JobState(row["state"]).value),
        )


def _data_uri(home: Path, name: str) -> str | None:
    """Return a PNG file of a home as a data: URI; None if it is gone, or lies elsewhere."""
    path = (home / name).resolve()
    if not path.is_relative_to(home.resolve()):
        return None
    try:
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except OSError:
        return None
