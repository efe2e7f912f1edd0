"""A batch's jobs as cards: chosen, sorted and paged by SQL, each with its first picture and its shadow's.

Read only. Two steps: which jobs (a page of ids, by keyset), then what they look like. Sorting by a score
reads that score of every picture of the batch: as text, for a parser of JSON would take most of the time. It
knows no page and no file.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Engine

from db.dialects import pack_ids, run
from db.session import reading
from routet2i.contracts import JobState
from routet2i.errors import NotFound

SAMPLE = 400  # pictures of a tier that its mean is taken of
LINE = "line"  # sorted as in the file
PRS = "prs"  # sorted or chosen by what was predicted, which every decided job has
SCORE = {  # of the picture `p`: what follows its metric's name, parameter {key}; NULL if it has none
    "sqlite": "CAST(substr(p.scores, NULLIF(instr(p.scores, :{key}), 0) + length(:{key}), 24) AS REAL)",
    "postgresql": """CAST(NULLIF(btrim(split_part(split_part(p.scores, :{key}, 2), ',', 1), '}} nul'), '')
                          AS double precision)""",
}
SEARCHED = ("j.prompt {BYTES}", "j.custom_id {BYTES}")  # which spares PostgreSQL its language
LIKE = {"sqlite": "LIKE", "postgresql": "ILIKE"}  # of plain letters in either case
CLASSES = {"sqlite": "GLOB", "postgresql": "~"}  # of letters beyond ASCII, spelt out by `_spelt`


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Which jobs of a batch, in which order; filters are joined by AND."""

    batch_id: str
    tier: str | None = None  # chosen for it
    state: JobState | None = None  # final ones, or queued
    metric: str | None = None  # of the range, or PRS
    low: float | None = None  # of its score, [0, 1], inclusive
    high: float | None = None
    text: str | None = None  # in prompt or custom id, by the letter, in either case
    shadowed: bool = False  # only jobs that both tiers drew
    sort: str = LINE  # or PRS, or a metric
    descending: bool = False
    after: tuple[float, int] | None = None  # value and line of the last job of the page before
    limit: int = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One picture."""

    job_id: str
    tier: str
    sha256: str
    width: int  # pixels
    height: int
    scores: Mapping[str, float]  # metric -> measured [0, 1]
    deleted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One job."""

    job_id: str
    line_no: int
    custom_id: str
    prompt: str
    n: int  # pictures wanted
    state: JobState
    tier: str | None
    reason: str | None
    prs: float | None
    micro_usd: int | None  # charged; None = not final
    error: str | None
    picture: Shown | None
    shadow: Shown | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of cards, and where the next one begins."""

    cards: tuple[Card, ...]
    next: tuple[float, int] | None  # None = this is the last


def gallery(engine: Engine, wish: Wish) -> Page:
    """Return a page of a batch's jobs."""
    with reading(engine) as connection:
        found = _chosen(connection, wish)
        shown = found[: wish.limit]
        cards = _cards(connection, [row.id for row in shown])
    last = shown[-1] if len(found) > wish.limit else None
    return Page(
        cards=tuple(cards[row.id] for row in shown),
        next=None if last is None else (float(last.value), last.seq),
    )


def _chosen(connection: Connection, wish: Wish) -> Sequence[Any]:
    dialect = connection.dialect.name
    joins, where, given = [], ["j.batch_id = :batch_id"], {"batch_id": wish.batch_id, "limit": wish.limit + 1}
    ranged = wish.metric if (wish.low, wish.high) != (None, None) else None
    named = {"sorted": None if wish.sort == LINE else wish.sort, "ranged": ranged}
    scores = {use: _score(dialect, use, name) for use, name in named.items()}
    if wish.tier is not None or PRS in named.values():
        joins.append("JOIN assignment a ON a.job_id = j.id")
    if any(name not in (None, PRS) for name in named.values()):
        joins.append("JOIN picture p ON p.job_id = j.id AND p.idx = 0")
        given |= {
            use: f"{orjson.dumps(name).decode()}:" for use, name in named.items() if name not in (None, PRS)
        }
    value = "j.seq" if wish.sort == LINE else _or(scores["sorted"], -1 if wish.descending else 2)
    if wish.tier is not None:
        where.append("a.tier = :tier")
        given["tier"] = wish.tier
    if wish.state is not None and wish.state.is_final:
        joins.append("JOIN outcome o ON o.job_id = j.id")
        where.append("o.state = :state")
        given["state"] = wish.state.value
    elif wish.state is not None:
        where.append("j.state = :state")
        given["state"] = wish.state.value
    if wish.shadowed:
        joins.append("JOIN job s ON s.shadow_of = j.id AND s.shadow_of IS NOT NULL")
        joins.append("JOIN picture q ON q.job_id = s.id AND q.idx = 0")
    if wish.text:
        where.append(f"({' OR '.join(_contains(dialect, one, wish.text) for one in SEARCHED)})")
        given["text"] = "%" + "".join(_literal(one) for one in wish.text) + "%"
        given["spelt"] = _spelt(dialect, wish.text)
    for sign, bound, name, missing in ((">=", wish.low, "low", -1), ("<=", wish.high, "high", 2)):
        if bound is not None and ranged is not None:
            where.append(f"{_or(scores['ranged'], missing)} {sign} :{name}")
            given[name] = bound
    if wish.after is not None:
        given["value"], given["seq"] = wish.after
        beyond = "<" if wish.descending else ">"
        where.append(f"({value} {beyond} :value OR ({value} = :value AND j.seq > :seq))")
    order = "DESC" if wish.descending else "ASC"
    return run(
        connection,
        f"""SELECT j.id, j.seq, {value} AS value FROM job j {" ".join(joins)}
            WHERE {" AND ".join(where)} ORDER BY 3 {order}, 2 LIMIT :limit""",  # noqa: S608 - our own words
        given,
    ).all()


def _score(dialect: str, use: str, name: str | None) -> str:
    return "a.prs" if name == PRS else SCORE[dialect].format(key=use)


def _or(score: str, missing: int) -> str:
    """Return a score, or what stands for one that a picture has not.

    It names the job, which keeps PostgreSQL from reading the pictures of all batches before it looks whose.
    """
    return f"COALESCE({score}, 0 * j.seq + {missing})"


def _contains(dialect: str, column: str, text: str) -> str:
    """Return a condition on a column: it contains the text, by the letter, whatever the case.

    A database knows the cases of letters beyond ASCII only in its own language, or not at all. The quick
    comparison takes any letter for those; what it lets pass is compared with all their cases.
    """
    quick = rf"{column} {LIKE[dialect]} :text ESCAPE '\'"
    return quick if text.isascii() else f"({quick} AND {column} {CLASSES[dialect]} :spelt)"


def _literal(letter: str) -> str:
    if not letter.isascii():
        return "_"
    return f"\\{letter}" if letter in "\\%_" else letter


def _spelt(dialect: str, text: str) -> str:
    if dialect == "sqlite":
        return f"*{''.join(_cases(one) if one.isalpha() or one in '*?[' else one for one in text)}*"
    return "".join(_cases(one) if one.isalnum() or not one.isascii() else f"\\{one}" for one in text)


def _cases(letter: str) -> str:
    """Return a class of a letter in either case, as GLOB and regular expressions write it."""
    both = {one for one in (letter, letter.lower(), letter.upper()) if len(one) == 1}
    return f"[{''.join(sorted(both))}]"


def _cards(connection: Connection, job_ids: Sequence[str]) -> dict[str, Card]:
    rows = run(
        connection,
        """SELECT j.id, j.seq, j.custom_id, j.prompt, j.n, a.tier, a.reason, a.prs, o.micro_usd, o.error,
                CASE WHEN o.state IS NOT NULL THEN o.state
                     WHEN j.state = 'assigned' AND m.state = 'claimed' THEN 'running'
                     ELSE j.state END AS state,
                p.sha256, p.width, p.height, p.scores, d.at_ms AS deleted_ms,
                s.id AS shadow_id, u.tier AS shadow_tier, q.sha256 AS shadow_sha256, q.width AS shadow_width,
                q.height AS shadow_height, q.scores AS shadow_scores, e.at_ms AS shadow_deleted_ms
            FROM {IDS} AS w JOIN job j ON j.id = w.id -- first: PostgreSQL reorders eight tables at most
            LEFT JOIN assignment a ON a.job_id = j.id
            LEFT JOIN microbatch m ON m.id = j.microbatch_id
            LEFT JOIN outcome o ON o.job_id = j.id
            LEFT JOIN picture p ON p.job_id = j.id AND p.idx = 0
            LEFT JOIN picture_deletion d ON d.job_id = j.id AND d.idx = 0
            LEFT JOIN job s ON s.shadow_of = j.id AND s.shadow_of IS NOT NULL
            LEFT JOIN outcome u ON u.job_id = s.id
            LEFT JOIN picture q ON q.job_id = s.id AND q.idx = 0
            LEFT JOIN picture_deletion e ON e.job_id = s.id AND e.idx = 0""",
        {"ids": pack_ids(job_ids)},
    )
    return {row.id: _card(row) for row in rows}


def _card(row: Any) -> Card:
    picture = shadow = None
    if row.sha256 is not None:
        picture = Shown(
            job_id=row.id,
            tier=row.tier or "",
            sha256=row.sha256,
            width=row.width,
            height=row.height,
            scores=orjson.loads(row.scores),
            deleted=row.deleted_ms is not None,
        )
    if row.shadow_sha256 is not None:
        shadow = Shown(
            job_id=row.shadow_id,
            tier=row.shadow_tier or "",
            sha256=row.shadow_sha256,
            width=row.shadow_width,
            height=row.shadow_height,
            scores=orjson.loads(row.shadow_scores),
            deleted=row.shadow_deleted_ms is not None,
        )
    return Card(
        job_id=row.id,
        line_no=row.seq,
        custom_id=row.custom_id,
        prompt=row.prompt,
        n=row.n,
        state=JobState(row.state),
        tier=row.tier,
        reason=row.reason,
        prs=row.prs,
        micro_usd=row.micro_usd,
        error=row.error,
        picture=picture,
        shadow=shadow,
    )


def card(engine: Engine, job_id: str) -> Card:
    """Return one job as a card.

    Raises:
        NotFound: no job has this id.
    """
    with reading(engine) as connection:
        found = _cards(connection, [job_id])
    if job_id not in found:
        raise NotFound(f"no job {job_id}")
    return found[job_id]


def neighbours(engine: Engine, batch_id: str, *, line_no: int) -> tuple[str | None, str | None]:
    """Return the jobs before and after a line of a batch's file."""
    with reading(engine) as connection:
        found = [
            run(connection, statement, {"batch_id": batch_id, "seq": line_no}).scalar()
            for statement in (
                "SELECT id FROM job WHERE batch_id = :batch_id AND seq < :seq ORDER BY seq DESC LIMIT 1",
                "SELECT id FROM job WHERE batch_id = :batch_id AND seq > :seq ORDER BY seq LIMIT 1",
            )
        ]
    return found[0], found[1]


def metrics(engine: Engine, batch_id: str) -> tuple[str, ...]:
    """Return the metrics that a batch's first pictures were measured with, by name."""
    with reading(engine) as connection:
        rows = run(
            connection,
            """SELECT p.scores FROM job j JOIN picture p ON p.job_id = j.id AND p.idx = 0
                WHERE j.batch_id = :batch_id ORDER BY j.seq LIMIT 5""",
            {"batch_id": batch_id},
        ).scalars()
        return tuple(sorted({metric for scores in rows for metric in orjson.loads(scores)}))


def tier_means(engine: Engine, batch_id: str, *, tier: str) -> tuple[dict[str, float], int]:
    """Return metric -> mean score of a tier's pictures in a batch, and how many it was taken of.

    At most SAMPLE: the first of the file.
    """
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    pictures = 0
    with reading(engine) as connection:
        for scores in run(
            connection,
            """SELECT p.scores FROM job j JOIN outcome o ON o.job_id = j.id AND o.tier = :tier
                JOIN picture p ON p.job_id = j.id AND p.idx = 0
                WHERE j.batch_id = :batch_id ORDER BY j.seq LIMIT :limit""",
            {"batch_id": batch_id, "tier": tier, "limit": SAMPLE},
        ).scalars():
            pictures += 1
            for metric, value in orjson.loads(scores).items():
                sums[metric] += value
                counts[metric] += 1
    return {metric: total / counts[metric] for metric, total in sums.items()}, pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Owned:
    """A picture and whose it is."""

    client: str  # of a shadow: the client whose job it repeats
    sha256: str
    deleted: bool


def owned_picture(engine: Engine, job_id: str, *, index: int) -> Owned:
    """Return which picture this is.

    Raises:
        NotFound: the job has no such picture.
    """
    with reading(engine) as connection:
        row = run(
            connection,
            """SELECT COALESCE(k.client, j.client) AS client, p.sha256, d.at_ms AS deleted_ms
                FROM picture p JOIN job j ON j.id = p.job_id
                LEFT JOIN job k ON k.id = j.shadow_of
                LEFT JOIN picture_deletion d ON d.job_id = p.job_id AND d.idx = p.idx
                WHERE p.job_id = :id AND p.idx = :idx""",
            {"id": job_id, "idx": index},
        ).one_or_none()
    if row is None:
        raise NotFound(f"no picture {index} of job {job_id}")
    return Owned(client=row.client, sha256=row.sha256, deleted=row.deleted_ms is not None)
