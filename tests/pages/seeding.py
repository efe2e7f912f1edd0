"""A database that looks lived in, written in seconds: batches of jobs in every state, with pictures.

For the pages' tests, measurements and screenshots. Rows are inserted table by table, as their verbs would
have left them; pictures are the shape world's own drawings, the edge tier's a little worse. It knows no page.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from sqlalchemy import Connection, Engine, insert, text

from db import models
from db.budgets import now
from db.session import transaction
from routet2i.contracts import SHADOW_CLIENT, SHADOW_REASON, BudgetPolicy, Carry, Scope, new_id
from routet2i.images import ImageStore
from routet2i.pocket.world import Caption, render, sample_prompts
from routet2i.tiers import Tiers

METRICS = (
    *("definition", "detail", "clarity", "sharpness", "harmony", "realism", "color", "consistency"),
    *("layout", "integrity", "alignment"),
)
PER_WINDOW = 512
PER_MICROBATCH = 16
JOB_MS = 400  # of a device
AT_ONCE = 5_000  # rows of a statement


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One batch to be."""

    name: str
    jobs: int
    client: str = "default"
    done: float = 1.0  # share of the jobs that have their outcome
    failed: float = 0.01  # share of those
    cancelled: float = 0.0
    shadows: float = 0.0  # share of the successes that the other tier drew too
    budget_micro_usd: int | None = 400_000
    hours_ago: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What both tiers made of a prompt."""

    prompt: str
    files: dict[str, str]  # tier -> sha256
    difficulty: float


def drawings(store: ImageStore, *, count: int, size: int = 256) -> list[Drawing]:
    """Draw prompts of the shape world twice and keep both pictures."""
    rng = np.random.default_rng(7)
    return [
        _drawing(caption, store=store, rng=rng, size=size) for caption in sample_prompts(seed=3, count=count)
    ]


def _drawing(caption: Caption, *, store: ImageStore, rng: np.random.Generator, size: int) -> Drawing:
    cloud = Image.fromarray(render(caption.scene, rng=rng, size=size))
    worse = Image.fromarray(render(caption.scene, rng=rng, size=size // 4)).resize((size, size))
    edge = worse.filter(ImageFilter.GaussianBlur(size / 200))
    names = {}
    for tier, picture in (("edge", edge), ("cloud", cloud)):
        data = io.BytesIO()
        picture.save(data, "PNG")
        names[tier] = store.put(data.getvalue())
    return Drawing(prompt=caption.text, files=names, difficulty=len(caption.scene.things) / 6)


def blank(*, count: int) -> list[Drawing]:
    """Return drawings whose files do not exist, where only rows matter."""
    return [
        Drawing(
            prompt=caption.text,
            files={tier: sha256(f"{tier}{number}".encode()).hexdigest() for tier in ("edge", "cloud")},
            difficulty=len(caption.scene.things) / 6,
        )
        for number, caption in enumerate(sample_prompts(seed=3, count=count))
    ]


def seed(engine: Engine, wanted: Sequence[Wanted], *, tiers: Tiers, known: Sequence[Drawing]) -> list[str]:
    """Write batches and return their ids, in the given order."""
    rng = np.random.default_rng(1)
    with transaction(engine) as connection:
        clock = now(connection)
        found = [
            _batch(connection, one, clock=clock, tiers=tiers, known=known, rng=rng)
            for one in sorted(wanted, key=lambda one: -one.hours_ago)
        ]
    with transaction(engine) as connection:
        connection.execute(text("ANALYZE"))
    by_name = dict(found)
    return [by_name[one.name] for one in wanted]


def seed_workers(engine: Engine) -> None:
    """Write two workers per tier that were heard of just now, and for an hour to come."""
    with transaction(engine) as connection:
        later = now(connection) + 3_600_000
        _insert(
            connection,
            models.worker,
            (
                {
                    "id": f"{tier}@site-{number}",
                    "tier": tier,
                    "device": "cpu",
                    "version": "0",
                    "state": state,
                    "started_ms": later - 7_200_000,
                    "heartbeat_ms": later,
                }
                for tier in ("edge", "cloud")
                for number, state in enumerate(("busy", "idle"))
            ),
        )


def policies() -> list[BudgetPolicy]:
    """Return limits a deployment may have."""
    return [
        BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="day", limit_micro_usd=20_000_000),
        BudgetPolicy(
            scope=Scope.CLIENT, name="default", span="day", limit_micro_usd=5_000_000, carry=Carry.ALL
        ),
        BudgetPolicy(scope=Scope.CLIENT, name="studio", span="month", limit_micro_usd=40_000_000),
    ]


def _insert(connection: Connection, table: Any, rows: Iterator[dict[str, Any]]) -> None:
    part: list[dict[str, Any]] = []
    for row in rows:
        part.append(row)
        if len(part) == AT_ONCE:
            connection.execute(insert(table), part)
            part = []
    if part:
        connection.execute(insert(table), part)


def _batch(
    connection: Connection,
    one: Wanted,
    *,
    clock: int,
    tiers: Tiers,
    known: Sequence[Drawing],
    rng: np.random.Generator,
) -> tuple[str, str]:
    batch_id, created = new_id(), clock - round(one.hours_ago * 3_600_000)
    _insert(connection, models.batch, iter([_batch_row(batch_id, one.client, one.name, one.jobs, created)]))
    decided = min(one.jobs, round(one.jobs * one.done) + (2 * PER_MICROBATCH if one.done < 1 else 0))
    done = round(one.jobs * one.done)
    pick = rng.integers(len(known), size=one.jobs)
    prs = np.clip(
        0.62 - 0.35 * np.array([known[k].difficulty for k in pick]) + rng.normal(0, 0.06, one.jobs), 0, 1
    )
    chosen = np.where(prs < 0.45, "cloud", "edge")
    ends = created + 5_000 + np.sort(rng.integers(max(1, clock - created - 5_000), size=one.jobs))
    state = np.full(one.jobs, "queued", dtype=object)
    state[:decided] = "assigned"
    state[:done] = rng.choice(
        ["succeeded", "failed", "cancelled"],
        p=[1 - one.failed - one.cancelled, one.failed, one.cancelled],
        size=done,
    )
    jobs = [new_id() for _ in range(one.jobs)]
    windows = [new_id() for _ in range(0, decided, PER_WINDOW)]
    _insert(
        connection, models.decision_window, (_window(k, created + 1_000 * n) for n, k in enumerate(windows))
    )
    price = {tier: tiers[tier].price(1) for tier in ("edge", "cloud")}
    packed, microbatches = _packed(decided, done, chosen, ends, batch_id, windows, clock, price)
    _insert(connection, models.microbatch, iter(microbatches))
    rows = range(one.jobs)
    _insert(
        connection,
        models.job,
        (
            _job(
                jobs[k],
                batch_id,
                one.client,
                k + 1,
                known[pick[k]].prompt,
                created,
                state="queued" if state[k] == "queued" else "assigned" if state[k] == "assigned" else "done",
                microbatch_id=packed[k] if k < decided else None,
            )
            for k in rows
        ),
    )
    _insert(
        connection,
        models.assignment,
        (
            _assignment(
                jobs[k], windows[k // PER_WINDOW], str(chosen[k]), float(prs[k]), price[str(chosen[k])], rng
            )
            for k in range(decided)
        ),
    )
    final = range(done)
    _insert(
        connection,
        models.attempt,
        (
            {
                "job_id": jobs[k],
                "microbatch_id": packed[k],
                "fence": 1,
                "worker_id": f"{chosen[k]}@site-0",
                "started_ms": int(ends[k]) - JOB_MS,
                "ended_ms": int(ends[k]),
                "error_class": "GenerationFailed" if state[k] == "failed" else None,
                "error": "the picture was empty" if state[k] == "failed" else None,
            }
            for k in final
        ),
    )
    charged = {k: price[str(chosen[k])] if state[k] == "succeeded" else 0 for k in final}
    _insert(
        connection,
        models.outcome,
        (
            _outcome(jobs[k], str(state[k]), str(chosen[k]), packed[k], charged[k], int(ends[k]))
            for k in final
        ),
    )
    good = [k for k in final if state[k] == "succeeded"]
    _insert(
        connection,
        models.picture,
        (_picture(jobs[k], known[pick[k]], str(chosen[k]), k, rng) for k in good),
    )
    spent = sum(charged.values())
    reserved = sum(price[str(chosen[k])] for k in range(done, decided))
    limit = None if one.budget_micro_usd is None else max(one.budget_micro_usd, spent + reserved)
    _insert(connection, models.budget, iter([_budget(f"batch:{batch_id}", "total", limit, reserved, spent)]))
    _insert(
        connection,
        models.ledger,
        (
            {
                "event_id": f"settle:{jobs[k]}",
                "budget_id": f"batch:{batch_id}",
                "period": "total",
                "kind": "settle",
                "from_side": "reserved",
                "to_side": "spent",
                "micro_usd": charged[k],
                "at_ms": int(ends[k]),
            }
            for k in good
        ),
    )
    if one.jobs > decided:
        waiting = one.jobs - decided
        _insert(
            connection,
            models.waiting,
            iter(
                [
                    {
                        "batch_id": batch_id,
                        "width": 0,
                        "height": 0,
                        "tier": "",
                        "jobs": waiting,
                        "pictures": waiting,
                    }
                ]
            ),
        )
    shadowed = [k for k in good if rng.random() < one.shadows]
    if shadowed:
        _shadows(
            connection,
            one,
            shadowed,
            jobs=jobs,
            chosen=chosen,
            known=[known[k] for k in pick],
            windows=windows,
            ends=ends,
            price=price,
            rng=rng,
        )
    return one.name, batch_id


def _shadows(
    connection: Connection,
    one: Wanted,
    shadowed: Sequence[int],
    *,
    jobs: Sequence[str],
    chosen: Any,
    known: Sequence[Drawing],
    windows: Sequence[str],
    ends: Any,
    price: dict[str, int],
    rng: np.random.Generator,
) -> None:
    batch_id, end = new_id(), int(ends[-1])
    name = f"shadow {one.name}"
    _insert(
        connection, models.batch, iter([_batch_row(batch_id, SHADOW_CLIENT, name, len(shadowed), end - 1)])
    )
    other = {k: "edge" if chosen[k] == "cloud" else "cloud" for k in shadowed}
    own = {k: new_id() for k in shadowed}
    held = {tier: new_id() for tier in ("edge", "cloud")}
    _insert(
        connection,
        models.microbatch,
        (
            _microbatch(id_, batch_id, windows[0], tier, "done", closed=end, clock=end)
            for tier, id_ in held.items()
        ),
    )
    _insert(
        connection,
        models.job,
        (
            _job(
                own[k],
                batch_id,
                SHADOW_CLIENT,
                n,
                known[k].prompt,
                end,
                state="done",
                microbatch_id=held[other[k]],
                shadow_of=jobs[k],
            )
            for n, k in enumerate(shadowed, start=1)
        ),
    )
    _insert(
        connection,
        models.assignment,
        (
            _assignment(own[k], windows[k // PER_WINDOW], other[k], 0.5, price[other[k]], rng, SHADOW_REASON)
            for k in shadowed
        ),
    )
    _insert(
        connection,
        models.outcome,
        (
            _outcome(own[k], "succeeded", other[k], held[other[k]], price[other[k]], int(ends[k]))
            for k in shadowed
        ),
    )
    _insert(connection, models.picture, (_picture(own[k], known[k], other[k], k, rng) for k in shadowed))
    spent = sum(price[other[k]] for k in shadowed)
    _insert(connection, models.budget, iter([_budget(f"batch:{batch_id}", "total", None, 0, spent)]))


def _packed(
    decided: int,
    done: int,
    chosen: Any,
    ends: Any,
    batch_id: str,
    windows: Sequence[str],
    clock: int,
    price: dict[str, int],
) -> tuple[dict[int, str], list[dict[str, Any]]]:
    packed: dict[int, str] = {}
    rows: list[dict[str, Any]] = []
    for first, last in ((0, done), (done, decided)):
        for tier in ("edge", "cloud"):
            own = [k for k in range(first, last) if chosen[k] == tier]
            for start in range(0, len(own), PER_MICROBATCH):
                part, id_ = own[start : start + PER_MICROBATCH], new_id()
                packed.update(dict.fromkeys(part, id_))
                state = "done" if last == done else "claimed" if start == 0 else "ready"
                closed = int(ends[part[-1]]) if state == "done" else None
                window = windows[part[0] // PER_WINDOW]
                row = _microbatch(id_, batch_id, window, tier, state, closed=closed, clock=clock)
                rows.append(row | {"reserved_left": 0 if closed else len(part) * price[tier]})
    return packed, rows


def _microbatch(
    id_: str, batch_id: str, window: str, tier: str, state: str, *, closed: int | None, clock: int
) -> dict[str, Any]:
    return {
        "id": id_,
        "batch_id": batch_id,
        "window_id": window,
        "tier": tier,
        "width": 64,
        "height": 64,
        "state": state,
        "fence": 0 if state == "ready" else 1,
        "lease_until_ms": clock + 3_600_000 if state == "claimed" else None,
        "worker_id": None if state == "ready" else f"{tier}@site-0",
        "deliveries": 0,
        "deaths": 0,
        "reserved_left": 0,
        "created_ms": (closed or clock) - 5_000,
        "closed_ms": closed,
    }


def _batch_row(id_: str, client: str, name: str, jobs: int, created: int) -> dict[str, Any]:
    return {
        "id": id_,
        "client": client,
        "idem_key": id_,
        "body_sha256": "",
        "name": name,
        "state": "open",
        "n_accepted": jobs,
        "n_rejected": 0,
        "cursor_line": jobs,
        "created_ms": created,
        "announced": 0,
    }


def _window(id_: str, at: int) -> dict[str, Any]:
    return {
        "id": id_,
        "policy": "bid_price",
        "predictor_name": "routet2i",
        "predictor_version": "9f3c51d0a7be",
        "n_assigned": PER_WINDOW,
        "n_deferred": 0,
        "n_fallback": 0,
        "available_micro_usd": 400_000,
        "solve_us": 1_800,
        "committed_ms": at,
        "reached": 0,
    }


def _job(
    id_: str,
    batch_id: str,
    client: str,
    seq: int,
    prompt: str,
    created: int,
    *,
    state: str,
    microbatch_id: str | None,
    shadow_of: str | None = None,
) -> dict[str, Any]:
    return {
        "id": id_,
        "batch_id": batch_id,
        "seq": seq,
        "custom_id": f"shape-{seq:05d}",
        "prompt": prompt,
        "seed": 1000 + seq,
        "n": 1,
        "priority": 0,
        "not_before_ms": 0,
        "cancel_requested": 0,
        "state": state,
        "microbatch_id": microbatch_id,
        "created_ms": created,
        "shadow_of": shadow_of,
        "client": client,
    }


def _assignment(
    job_id: str,
    window: str,
    tier: str,
    prs: float,
    price: int,
    rng: np.random.Generator,
    reason: str | None = None,
) -> dict[str, Any]:
    scores = {
        name: {metric: round(float(value), 4) for metric, value in zip(METRICS, values, strict=True)}
        for name, values in (
            ("edge", np.clip(0.35 + 0.3 * prs + rng.normal(0, 0.08, len(METRICS)), 0, 1)),
            ("cloud", np.clip(0.66 + rng.normal(0, 0.08, len(METRICS)), 0, 1)),
        )
    }
    return {
        "job_id": job_id,
        "window_id": window,
        "tier": tier,
        "reason": reason or f"predicted_better_on_{tier}",
        "prs": prs,
        "threshold": 0.45,
        "micro_usd": price,
        "scores": json.dumps(scores),
        "propensity": 0.05,
    }


def _outcome(job_id: str, state: str, tier: str, microbatch: str, charged: int, at: int) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "state": state,
        "tier": tier,
        "microbatch_id": microbatch,
        "fence": 1,
        "micro_usd": charged,
        "seconds": JOB_MS / 1000,
        "model_id": f"pocket:{tier}",
        "model_revision": "1",
        "settings": '{"steps": 20}',
        "error_class": "GenerationFailed" if state == "failed" else None,
        "error": "the picture was empty" if state == "failed" else None,
        "at_ms": at,
    }


def _picture(job_id: str, drawing: Drawing, tier: str, k: int, rng: np.random.Generator) -> dict[str, Any]:
    centre = 0.72 if tier == "cloud" else 0.68 - 0.3 * drawing.difficulty
    values = np.clip(rng.normal(centre, 0.11, len(METRICS)), 0.01, 0.99)
    scores = {metric: round(float(value), 4) for metric, value in zip(METRICS, values, strict=True)}
    return {
        "job_id": job_id,
        "idx": 0,
        "sha256": drawing.files[tier],
        "seed": 1001 + k,
        "width": 256,
        "height": 256,
        "scores": json.dumps(scores),
    }


def _budget(id_: str, period: str, limit: int | None, reserved: int, spent: int) -> dict[str, Any]:
    return {
        "id": id_,
        "period": period,
        "lim": limit,
        "reserved": reserved,
        "spent": spent,
        "carried": 0,
        "overrun": 0,
    }


def store_of(home: Path) -> ImageStore:
    """Return the picture store of a home."""
    return ImageStore(root=home / "images", low_water_bytes=0)
