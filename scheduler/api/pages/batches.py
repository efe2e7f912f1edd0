"""The first page and a batch's own: progress, money, tiers, the gallery.

It reads `db.dashboard` and `db.gallery`; what runs is sent once more as the piece of page it stands in. What
can be done about it is `scheduler.api.pages.actions`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from db import dashboard, gallery
from db.audit import BatchStatus, rejections
from db.gallery import LINE, PRS, Wish
from db.pauses import Pause, Paused
from routet2i.contracts import JobState
from routet2i.heartbeat import LIVE_SECONDS
from routet2i.tiers import Tiers
from scheduler.api.callers import Caller
from scheduler.api.deployment import repository_of, tiers_of
from scheduler.api.pages import charts
from scheduler.api.pages.frame import SEE_OTHER, Id, Visitor, pages, shown_to
from scheduler.api.pages.rendering import STATES, page
from scheduler.api.pages.standing import Standing

LISTED = 12  # batches of a page
CARDS = 24  # jobs of a page: a multiple of every number of columns
REJECTED = 20  # lines shown
MAX_TEXT = 200  # characters searched for

router = pages()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One batch of the list."""

    status: BatchStatus
    parts: tuple[charts.Part, ...]  # of its progress bar
    spent: tuple[charts.Part, ...]  # of its budget
    share: float  # of its jobs that are final
    by_tier: dict[str, int]  # jobs, the light tier and the large one also before their first
    paused: Pause | None


def standing(request: Request) -> Standing:
    """Return the process's memory of where batches stand."""
    found: Standing = request.app.state.standing
    return found


def row(status: BatchStatus, *, tiers: Tiers, paused: Pause | None) -> Row:
    """Return a batch with its bars."""
    whole = status.n_accepted or 1
    final = sum(count for state, count in status.by_state.items() if state.is_final)
    limit = status.limit_micro_usd
    return Row(
        status=status,
        parts=charts.stacked({state.value: status.by_state[state] for state in STATES}, whole=whole),
        spent=charts.stacked(
            {"spent": status.spent_micro_usd, "reserved": status.reserved_micro_usd}, whole=limit or None
        ),
        share=1.0 if status.complete else final / whole,
        by_tier=_by_weight({tiers.edge: 0, tiers.cloud: 0, **status.by_tier}),
        paused=paused,
    )


def everything(request: Request, found: Caller, *, after: str | None) -> dict[str, Any]:
    """Return what the first page shows."""
    repository = repository_of(request)
    heads = dashboard.heads(
        repository.engine,
        client=None if found.sees_all else found.client,
        after=after,
        limit=LISTED + 1,
    )
    held = pauses(request)
    return {
        "rows": [
            row(
                standing(request).of(head.batch_id),
                tiers=tiers_of(request),
                paused=held.get((Paused.BATCH, head.batch_id)),
            )
            for head in heads[:LISTED]
        ],
        "more": heads[LISTED - 1].batch_id if len(heads) > LISTED else None,
        "flows": flows(request),
        "resting": {name: one for (kind, name), one in held.items() if kind is Paused.TIER},
        "line": charts.line,
    }


def pauses(request: Request) -> dict[tuple[Paused, str], Pause]:
    """Return all that is paused."""
    return {(one.kind, one.name): one for one in repository_of(request).pauses()}


def flows(request: Request) -> list[dashboard.Flow]:
    """Return the tiers' flows, the light one first."""
    tiers = tiers_of(request)
    return dashboard.flows(
        repository_of(request).engine, tiers=list(tiers.profiles), live_seconds=LIVE_SECONDS
    )


After = Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")]


@router.get("/")
def first_page(request: Request, found: Visitor, after: After = None) -> Response:
    """Show tiers and batches."""
    return page(
        request, "batches.html.j2", found, title="Batches", after=after,
        **everything(request, found, after=after),
    )  # fmt: skip


@router.get("/live")
def first_page_again(request: Request, found: Visitor, after: After = None) -> Response:
    """Send what changes on the first page."""
    return page(
        request, "batches_live.html.j2", found, after=after, **everything(request, found, after=after)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What the form above a gallery holds."""

    tier: str = ""
    state: str = ""
    metric: str = ""
    low: str = ""
    high: str = ""
    text: str = ""
    both: bool = False
    sort: str = LINE
    up: bool = False  # the smallest first

    def wish(self, batch_id: str, *, known: tuple[str, ...], tiers: Mapping[str, Any], after: str) -> Wish:
        """Return what is looked for; what the form cannot hold is left out."""
        metric = self.metric if self.metric in (PRS, *known) else None
        sort = self.sort if self.sort in (PRS, *known) else LINE
        return Wish(
            batch_id=batch_id,
            tier=self.tier if self.tier in tiers else None,
            state=JobState(self.state) if self.state in CHOSEN else None,
            metric=metric,
            low=_score(self.low) if metric else None,
            high=_score(self.high) if metric else None,
            text="".join(one for one in self.text if one.isprintable()).strip()[:MAX_TEXT] or None,
            shadowed=self.both,
            sort=sort,
            descending=sort != LINE and not self.up,
            after=_place(after),
            limit=CARDS,
        )

    def fields(self) -> dict[str, Any]:
        """Return it as fields of an address, without what is as it always is."""
        return {
            "tier": self.tier, "state": self.state, "metric": self.metric, "low": self.low, "high": self.high,
            "text": self.text, "both": "1" if self.both else "", "up": "1" if self.up else "",
            "sort": "" if self.sort == LINE else self.sort,
        }  # fmt: skip


CHOSEN = tuple(
    state.value for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED)
)


def _score(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _place(text: str) -> tuple[float, int] | None:
    value, _, line_no = text.partition("_")
    try:
        place = float(value), int(line_no)
    except ValueError:
        return None
    return place if abs(place[0]) < 2**53 and 0 <= place[1] < 2**31 else None


def own_batch(request: Request, found: Caller, batch_id: str) -> BatchStatus:
    """Return a batch that the visitor may see; raises NotFound."""
    status = standing(request).of(batch_id)
    shown_to(found, status.client, what=f"batch {batch_id}")
    return status


def progress(
    request: Request, found: Caller, status: BatchStatus, *, watched: bool = False
) -> dict[str, Any]:
    """Return what a batch's live part shows.

    Args:
        watched: it comes to a page that showed the running batch, and moves nothing on it.
    """
    held = pauses(request)
    end = status.finished_at or datetime.now(UTC)
    seconds = (end - status.created_at).total_seconds()
    final = sum(count for state, count in status.by_state.items() if state.is_final)
    return {
        "row": row(status, tiers=tiers_of(request), paused=held.get((Paused.BATCH, status.batch_id))),
        "steady": watched or not status.complete,
        "may_change": found.may_change(status.client),
        "cloud": tiers_of(request).cloud,
        "client_paused": held.get((Paused.CLIENT, status.client)),
        "status": status,
        "final": final,
        "seconds": seconds,
        "per_minute": 60 * final / seconds if seconds > 0 else 0.0,
        "tiers": charts.stacked(_by_weight(status.by_tier)),
    }


def _by_weight(by_tier: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(by_tier.items(), reverse=True))


@router.get("/batches/{batch_id}")
def batch(
    request: Request,
    found: Visitor,
    batch_id: Id,
    tier: str = "",
    state: str = "",
    metric: str = "",
    low: str = "",
    high: str = "",
    text: str = "",
    both: bool = False,
    sort: str = LINE,
    up: bool = False,
    after: str = "",
) -> Response:
    """Show a batch and its gallery."""
    repository = repository_of(request)
    status = own_batch(request, found, batch_id)
    known = gallery.metrics(repository.engine, batch_id)
    filters = Filters(
        tier=tier,
        state=state,
        metric=metric,
        low=low,
        high=high,
        text=text[:MAX_TEXT],
        both=both,
        sort=sort,
        up=up,
    )
    wish = filters.wish(batch_id, known=known, tiers=status.by_tier, after=after)
    shown = gallery.gallery(repository.engine, wish)
    rejected = rejections(repository.engine, batch_id) if status.n_rejected else []
    return page(
        request,
        "batch.html.j2",
        found,
        title=status.name,
        metrics=known,
        filters=filters,
        filtered=any(value for name, value in filters.fields().items() if name not in ("sort", "up")),
        fields=filters.fields(),
        chosen=CHOSEN,
        wish=wish,
        order=f"{wish.sort}, {'lowest' if filters.up else 'highest'} first" if wish.sort != LINE else "",
        cards=shown.cards,
        next=None if shown.next is None else f"{shown.next[0]!r}_{shown.next[1]}",
        after=after,
        rejected=rejected[:REJECTED],
        **progress(request, found, status),
    )


@router.get("/batches/{batch_id}/live")
def batch_again(request: Request, found: Visitor, batch_id: Id) -> Response:
    """Send what changes on a batch's page."""
    status = own_batch(request, found, batch_id)
    return page(request, "batch_live.html.j2", found, **progress(request, found, status, watched=True))


def told(where: str, what: str, number: int) -> Response:
    """Lead to a page that says what was done."""
    return RedirectResponse(f"{where}?did={what}&n={number}", status_code=SEE_OTHER)
