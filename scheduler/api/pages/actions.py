"""What buttons do: first a question that says what will happen and cost, then the act, and a page says so.

A question is a page of its own, which the script shows as a dialog. Acts are the repository's and
`scheduler.retrying`'s, as the command line and `/routet2i/v1` call them; who may not act sees no question.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Form, Path, Request
from fastapi.responses import Response

from db.audit import BatchStatus
from db.pauses import Paused
from db.story import JobStory
from routet2i.contracts import NAME, JobState
from routet2i.errors import NotFound
from scheduler.api.answers import Refused
from scheduler.api.callers import Caller
from scheduler.api.deployment import repository_of, settings_of, tiers_of
from scheduler.api.pages.amounts import micro_usd
from scheduler.api.pages.batches import own_batch, standing, told
from scheduler.api.pages.frame import Id, Visitor, changed_by, pages
from scheduler.api.pages.jobs import elsewhere, own_job
from scheduler.api.pages.rendering import jobs, money, page
from scheduler.retrying import Quote, quote, retry
from scheduler.submit import queue_limits

FAILED, EDGE = "failed", "edge"  # what another tier is to draw

Budget = Annotated[str, Form(max_length=30)]
Reason = Annotated[str, Form(max_length=500)]
TierName = Annotated[str, Path(pattern=f"^{NAME}$")]

router = pages()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of several things that a question offers."""

    value: str
    label: str
    told: str  # what it comes to
    possible: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked before something is done."""

    title: str
    told: str
    act: str  # on the button; none = it cannot be done
    where: str  # the act is posted to
    back: str  # page that it was asked on
    danger: bool = False
    budget: bool = False  # a limit of the new batch is asked for
    reason: bool = False
    choices: tuple[Choice, ...] = ()


def asked(request: Request, found: Caller, question: Question) -> Response:
    """Show a question."""
    return page(request, "ask.html.j2", found, title=question.title, question=question)


def owned_batch(request: Request, found: Caller, batch_id: str) -> BatchStatus:
    """Return a batch that the visitor may change; raises NotFound, or Refused with 403."""
    status = own_batch(request, found, batch_id)
    changed_by(found, status.client, what=f"batch {batch_id}")
    return status


def owned_job(request: Request, found: Caller, job_id: str) -> JobStory:
    """Return a job that the visitor may change; raises NotFound, or Refused with 403."""
    story = own_job(request, found, job_id)
    changed_by(found, story.client, what=f"job {job_id}")
    return story


def cost(one: Quote) -> str:
    """Return what new jobs cost, in words."""
    pictures = f"{one.pictures:,} picture{'' if one.pictures == 1 else 's'}"
    if one.floor_micro_usd == one.most_micro_usd:
        return f"{pictures}, {money(one.floor_micro_usd)} in all"
    return (
        f"{pictures}, from {money(one.floor_micro_usd)} to {money(one.most_micro_usd)}, as tiers are chosen"
    )


# a batch


@router.get("/batches/{batch_id}/ask/{act}")
def ask_of_batch(
    request: Request, found: Visitor, batch_id: Id, act: Literal["pause", "cancel", "retry", "reroute"]
) -> Response:
    """Ask before something is done with a batch."""
    status = owned_batch(request, found, batch_id)
    where = f"/batches/{batch_id}"
    open_jobs = sum(number for state, number in status.by_state.items() if not state.is_final)
    if act == "pause":
        question = Question(
            title=f"Pause {status.name}?",
            told="Its queued jobs wait until somebody resumes it. What is assigned already is drawn.",
            act="Pause",
            where=f"{where}/pause",
            back=where,
            reason=True,
        )
    elif act == "cancel":
        question = Question(
            title=f"Cancel {status.name}?",
            told=f"{jobs(open_jobs)} that did not end will not be drawn, and their money is free again. "
            "Pictures that are there stay. This cannot be undone."
            if open_jobs
            else "Every job has ended; there is nothing to cancel.",
            act="Cancel the batch" if open_jobs else "",
            where=f"{where}/cancel",
            back=where,
            danger=True,
        )
    elif act == "retry":
        quoted = quoted_of(request, batch_id)
        question = Question(
            title="Retry what failed?",
            told=f"A new batch of {jobs(quoted.jobs)} that failed, same prompts and seeds: {cost(quoted)}."
            if quoted.jobs
            else "Nothing failed that was not tried again already.",
            act="Retry" if quoted.jobs else "",
            where=f"{where}/retry",
            back=where,
            budget=True,
        )
    else:
        question = rerouting(request, status)
    return asked(request, found, question)


def rerouting(request: Request, status: BatchStatus) -> Question:
    """Return what is asked before the cloud draws jobs of a batch."""
    tiers = tiers_of(request)
    failed = quoted_of(request, status.batch_id, tier=tiers.cloud)
    drawn = quoted_of(request, status.batch_id, tier=tiers.cloud, drawn_by=tiers.edge)
    return Question(
        title=f"Draw on {tiers.cloud}?",
        told=f"A new batch whose jobs ask for tier {tiers.cloud}: same prompts and seeds.",
        act=f"Draw on {tiers.cloud}" if failed.jobs or drawn.jobs else "",
        where=f"/batches/{status.batch_id}/reroute",
        back=f"/batches/{status.batch_id}",
        budget=True,
        choices=tuple(
            Choice(
                value=value,
                label=f"{jobs(one.jobs)} {label}",
                told=cost(one) if one.jobs else "nothing to draw",
                possible=one.jobs > 0,
            )
            for value, label, one in (
                (FAILED, "that failed", failed),
                (EDGE, f"that {tiers.edge} drew", drawn),
            )
        ),
    )


@router.post("/batches/{batch_id}/pause")
def pause(request: Request, found: Visitor, batch_id: Id, reason: Reason = "") -> Response:
    """Let windows leave a batch's jobs queued."""
    owned_batch(request, found, batch_id)
    return paused(request, found, Paused.BATCH, batch_id, reason=reason, back=f"/batches/{batch_id}")


@router.post("/batches/{batch_id}/resume")
def resume(request: Request, found: Visitor, batch_id: Id) -> Response:
    """Let windows decide a batch's jobs again."""
    owned_batch(request, found, batch_id)
    return resumed(request, Paused.BATCH, batch_id, back=f"/batches/{batch_id}")


@router.post("/batches/{batch_id}/cancel")
def cancel(request: Request, found: Visitor, batch_id: Id) -> Response:
    """Cancel what is not final."""
    owned_batch(request, found, batch_id)
    report = repository_of(request).cancel_batch(batch_id)
    standing(request).forget(batch_id)
    number = report.cancelled + report.running
    return told(f"/batches/{batch_id}", "cancelled" if number else "nothing", number)


@router.post("/batches/{batch_id}/retry")
def retry_failed(request: Request, found: Visitor, batch_id: Id, budget: Budget = "") -> Response:
    """Make a new batch of what failed."""
    owned_batch(request, found, batch_id)
    return again(request, batch_id, budget=budget)


@router.post("/batches/{batch_id}/reroute")
def reroute(
    request: Request,
    found: Visitor,
    batch_id: Id,
    which: Annotated[Literal["failed", "edge"], Form()],
    budget: Budget = "",
) -> Response:
    """Make a new batch for the cloud tier of what failed, or of what the edge tier drew."""
    owned_batch(request, found, batch_id)
    tiers = tiers_of(request)
    return again(
        request,
        batch_id,
        budget=budget,
        tier=tiers.cloud,
        drawn_by=tiers.edge if which == EDGE else None,
    )


# a job


@router.get("/jobs/{job_id}/ask/{act}")
def ask_of_job(
    request: Request, found: Visitor, job_id: Id, act: Literal["cancel", "retry", "reroute"]
) -> Response:
    """Ask before something is done with a job."""
    story = owned_job(request, found, job_id)
    where = f"/jobs/{job_id}"
    if act == "cancel":
        open_still = not story.state.is_final
        question = Question(
            title=f"Cancel {story.custom_id}?",
            told="It will not be drawn, unless its picture comes before a worker hears of this."
            if open_still
            else "It has ended; there is nothing to cancel.",
            act="Cancel the job" if open_still else "",
            where=f"{where}/cancel",
            back=where,
            danger=True,
        )
    else:
        tier = elsewhere(request, story) if act == "reroute" else None
        fit = tier is not None if act == "reroute" else story.state is not JobState.SUCCEEDED
        quoted = quoted_of(request, story.batch_id, job_ids=[job_id], tier=tier) if fit else None
        possible = quoted is not None and quoted.jobs > 0
        question = Question(
            title=f"Draw on {tier}?" if tier is not None else "Try again?",
            told=f"A new batch of this job, same prompt and seed: {cost(quoted)}."
            if quoted is not None and possible
            else "This job has no other end to hope for, or was tried again already.",
            act=(f"Draw on {tier}" if tier is not None else "Try again") if possible else "",
            where=f"{where}/{act}",
            back=where,
            budget=True,
        )
    return asked(request, found, question)


@router.post("/jobs/{job_id}/cancel")
def cancel_job(request: Request, found: Visitor, job_id: Id) -> Response:
    """Cancel one job."""
    story = owned_job(request, found, job_id)
    was = repository_of(request).cancel_job(job_id)
    standing(request).forget(story.batch_id)
    return told(f"/jobs/{job_id}", "nothing" if was.is_final else "cancelled", int(not was.is_final))


@router.post("/jobs/{job_id}/retry")
def retry_job(request: Request, found: Visitor, job_id: Id, budget: Budget = "") -> Response:
    """Make a new batch of this job, if it ended without success."""
    story = owned_job(request, found, job_id)
    return again(request, story.batch_id, job_ids=[job_id], budget=budget)


@router.post("/jobs/{job_id}/reroute")
def reroute_job(request: Request, found: Visitor, job_id: Id, budget: Budget = "") -> Response:
    """Make a new batch of this job for the cloud tier, unless that drew it."""
    story = owned_job(request, found, job_id)
    return again(request, story.batch_id, job_ids=[job_id], budget=budget, tier=tiers_of(request).cloud)


# a tier


@router.get("/tiers/{tier}/ask/pause")
def ask_of_tier(request: Request, found: Visitor, tier: TierName) -> Response:
    """Ask before a tier rests."""
    ruled(request, found, tier)
    question = Question(
        title=f"Pause tier {tier}?",
        told="Windows give it no job until somebody resumes it; jobs that must have it wait. "
        "What is assigned already is drawn.",
        act="Pause",
        where=f"/tiers/{tier}/pause",
        back="/",
        reason=True,
    )
    return asked(request, found, question)


@router.post("/tiers/{tier}/pause")
def pause_tier(request: Request, found: Visitor, tier: TierName, reason: Reason = "") -> Response:
    """Let windows give a tier no job."""
    ruled(request, found, tier)
    return paused(request, found, Paused.TIER, tier, reason=reason, back="/")


@router.post("/tiers/{tier}/resume")
def resume_tier(request: Request, found: Visitor, tier: TierName) -> Response:
    """Let windows give a tier jobs again."""
    ruled(request, found, tier)
    return resumed(request, Paused.TIER, tier, back="/")


# what they share


def ruled(request: Request, found: Caller, tier: str) -> None:
    """Make sure that the visitor rules the deployment, and that it has such a tier."""
    if not found.may_change_all:
        raise Refused(403, "this needs a key of role admin", code="role")
    if tier not in tiers_of(request).routed:
        raise NotFound(f"no tier {tier}")


def paused(request: Request, found: Caller, kind: Paused, name: str, *, reason: str, back: str) -> Response:
    """Pause and tell."""
    text = " ".join("".join(one if one.isprintable() else " " for one in reason).split())
    done = repository_of(request).pause(kind, name, who=f"key {found.key_id}", reason=text)
    return told(back, f"paused_{kind.value}" if done else "nothing", 0)


def resumed(request: Request, kind: Paused, name: str, *, back: str) -> Response:
    """Resume and tell."""
    done = repository_of(request).resume(kind, name)
    return told(back, f"resumed_{kind.value}" if done else "nothing", 0)


def quoted_of(
    request: Request,
    batch_id: str,
    *,
    job_ids: list[str] | None = None,
    tier: str | None = None,
    drawn_by: str | None = None,
) -> Quote:
    """Return what jobs of a batch would cost once more."""
    return quote(
        repository_of(request),
        batch_id,
        job_ids=job_ids,
        tiers=tiers_of(request),
        tier=tier,
        drawn_by=drawn_by,
    )


def again(
    request: Request,
    batch_id: str,
    *,
    budget: str,
    job_ids: list[str] | None = None,
    tier: str | None = None,
    drawn_by: str | None = None,
) -> Response:
    """Make a new batch of jobs of another, and lead to it."""
    made = retry(
        repository_of(request),
        batch_id,
        job_ids=job_ids,
        tiers=tiers_of(request),
        limits=queue_limits(settings_of(request)),
        budget_micro_usd=micro_usd(budget),
        tier=tier,
        drawn_by=drawn_by,
    )
    if made.batch_id is None:
        return told(f"/batches/{batch_id}", "nothing", 0)
    done = "nothing" if not made.jobs else "retried" if tier is None else "rerouted"
    return told(f"/batches/{made.batch_id}", done, made.jobs)
