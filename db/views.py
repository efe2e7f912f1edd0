"""The views, column by column: what readers may count on, in words.

It knows names and meanings; the statements that make the views stand in `db/migrations`. Amounts are dollars,
times ISO 8601 in UTC; but for `shadow_pair`, whose readers are programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One view in words."""

    row: str  # what one row of it is
    columns: Mapping[str, str]  # name -> meaning, in the view's order


_SCORES = (
    *("definition", "detail", "clarity", "sharpness", "harmony", "realism"),
    *("color", "consistency", "layout", "integrity"),
)
VIEWS: Mapping[str, View] = {
    "job_audit": View(
        row="One row per picture of a user's job; a job without pictures has one row. Shadows are left out.",
        columns={
            "batch_id": "its batch",
            "job_id": "its job",
            "custom_id": "the user's own id of the job",
            "prompt": "what was to be drawn",
            "tier": "where it went; NULL = not decided yet",
            "state": "queued, assigned, running, succeeded, failed, cancelled",
            "reason": "why this tier: a code of `scheduler/allocator.py`",
            "prs_predicted": "predicted superiority of edge over cloud, [0, 1]",
            "prs_threshold": "below it a job went to the cloud",
            "predictor_version": "that predicted it",
            "cost_reserved_usd": "this picture's part of what was reserved for the job",
            "cost_charged_usd": "this picture's part of what the job was charged; NULL = not finished",
            **{f"q_{name}": "measured, [0, 1], higher is better" for name in _SCORES},
            "q_alignment": "how well the picture fits the prompt, measured, [0, 1]",
            "image_uri": "where the picture lies, below the home; NULL = there is none, or it was deleted",
            "image_sha256": "of the PNG's bytes",
            "model_id": "that drew it",
            "model_revision": "of that model",
            "seed": "of this picture",
            "attempts": "claims that took the job",
            "worker": "of the last attempt",
            "submitted_at": "when the job came in",
            "assigned_at": "when a window decided it",
            "started_at": "when the last attempt began",
            "finished_at": "when its outcome was recorded",
            "error": "why there is no picture",
            "image_deleted_at": "since when the picture's file is not wanted any more",
            "requested_tier": "that the job asked for; NULL = the window chose",
        },
    ),
    "batch_summary": View(
        row="One row per batch of a user: how far it is, what it has cost. Shadows' batches are left out.",
        columns={
            "batch_id": "the batch",
            "name": "for people",
            "client": "whose it is",
            "state": "ingesting, open, cancelled",
            "complete": "1 = its file is read and every job has its outcome",
            "submitted_at": "when it was opened",
            "finished_at": "when the last outcome was recorded; NULL = it is not complete",
            "accepted": "lines that became jobs",
            "rejected": "lines that did not",
            "queued": "jobs that wait for a window",
            "assigned": "jobs that wait for a worker",
            "running": "jobs that a worker has",
            "succeeded": "jobs with all their pictures",
            "failed": "jobs without",
            "cancelled": "jobs that nobody wants any more",
            "pictures": "of the jobs that succeeded",
            "limit_usd": "its budget; NULL = unlimited",
            "reserved_usd": "held for assigned jobs",
            "spent_usd": "charged, unknown purchases included: the ledger's sum",
            "overrun_usd": "charged beyond what was permitted",
            "free_usd": "left of the budget; NULL = unlimited",
            "device_seconds": "of all devices on finished jobs",
            "retry_of": "the batch whose jobs it repeats",
            "preview_id": "that decided its jobs; NULL = windows did",
        },
    ),
    "window_summary": View(
        row="One row per decision round of the scheduler; shadows are counted apart.",
        columns={
            "window_id": "the window",
            "decided_at": "when its decision was committed",
            "policy": "the allocator's rule",
            "predictor_name": "that predicted its jobs",
            "predictor_version": "of that predictor",
            "assigned": "users' jobs that got a tier",
            "deferred": "jobs left queued",
            "fallback": "jobs that the ledger sent to the cheaper tier",
            "finished": "of the assigned, those with an outcome by now",
            "succeeded": "of these, those with pictures",
            "prs_mean": "mean predicted superiority of edge over cloud, [0, 1]",
            "prs_threshold": "highest threshold below which a job went to the cloud",
            "available_usd": "what the window could spend; NULL = unlimited",
            "reserved_usd": "what it reserved for users' jobs",
            "charged_usd": "what these jobs were charged by now",
            "shadows": "jobs it drew on the other tier, too",
            "shadow_usd": "reserved for them",
            "solve_ms": "milliseconds that the decision took",
        },
    ),
    "tier_daily": View(
        row="One row per tier and day (UTC) on which it finished jobs; shadows are counted apart.",
        columns={
            "day": "YYYY-MM-DD, UTC, of the outcomes",
            "tier": "the tier",
            "succeeded": "users' jobs with all their pictures",
            "failed": "users' jobs without",
            "cancelled": "users' jobs that were cancelled after they had got this tier",
            "pictures": "of the jobs that succeeded",
            "attempts": "claims that took these jobs, lost ones included",
            "charged_usd": "what these jobs were charged",
            "device_seconds": "of this tier's devices on these jobs",
            "seconds_per_picture": "of jobs that succeeded; NULL = none did",
            "alignment_mean": "mean measured fit of picture and prompt, [0, 1]; NULL = none was measured",
            "shadows": "jobs drawn only to compare the tiers",
            "shadow_usd": "what these were charged",
        },
    ),
    "budget_status": View(
        row="One row per budget and period that has begun: batches, shadows' batches included, clients, "
        "deployments. A period begins when the first job draws on it.",
        columns={
            "budget_id": "the budget, all periods alike",
            "scope": "batch, client, deployment",
            "name": "a batch's id, a client's or a deployment's name",
            "span": "minute, hour, day, month, total; seconds = of any other length",
            "period": "its name: 2026-11-22, 2026-11, total ...",
            "runs_now": "1 = by the database's clock this period runs, 0 = it is over; NULL = the length of "
            "the span stands in the scheduler's environment",
            "limit_usd": "never exceeded, carry-over included; NULL = unlimited",
            "carried_usd": "of it, taken over from the period before",
            "reserved_usd": "held for assigned jobs",
            "spent_usd": "charged, unknown purchases included",
            "unknown_usd": "of it, purchases whose answer was lost",
            "overrun_usd": "charged beyond what was permitted",
            "free_usd": "left; NULL = unlimited",
            "set_by": "who set the limit in force; NULL = it came with the batch, or from the environment",
            "reason": "in their words",
            "set_at": "when they did",
        },
    ),
    "shadow_pair": View(
        row="One row per user's job whose first picture was drawn on both tiers.",
        columns={
            "batch_id": "the user's batch",
            "job_id": "the user's job",
            "shadow_job_id": "the job that repeated it",
            "prompt": "what was drawn",
            "seed": "of both pictures",
            "window_id": "that decided both",
            "committed_ms": "when it did, milliseconds since 1970",
            "predictor_name": "that predicted it",
            "predictor_version": "of that predictor",
            "prs_predicted": "predicted superiority of edge over cloud, [0, 1]",
            "propensity": "probability of the shadow when it was drawn by lot",
            "tier": "the user's picture's",
            "model_id": "that drew it",
            "scores": "JSON, metric -> measured [0, 1]",
            "shadow_tier": "the other picture's",
            "shadow_model_id": "that drew it",
            "shadow_scores": "JSON, metric -> measured [0, 1]",
        },
    ),
}
SECRETS: Mapping[str, frozenset[str]] = {
    "api_key": frozenset({"sha256"}),
    "link_secret": frozenset({"secret"}),
    "webhook_secret": frozenset({"secret"}),
}  # table -> columns no reader is shown
