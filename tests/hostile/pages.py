"""The report page with one text in every place that a user can fill.

It knows the page's values, not what the text is.
"""

from datetime import UTC, datetime

from db.audit import BatchStatus
from db.pairs import ShadowSpending
from routet2i.contracts import JobState, Rejection
from scheduler.report import Card, fill

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def report_of(text: str) -> str:
    """Return the page of a batch whose name, prompt, custom id, error and rejection are a text."""
    status = BatchStatus(
        batch_id="b",
        name=text,
        client="default",
        state="open",
        n_accepted=1,
        n_rejected=1,
        by_state={**dict.fromkeys(JobState, 0), JobState.FAILED: 1},
        by_tier={"edge": 1},
        device_seconds={"edge": 0.5},
        limit_micro_usd=1,
        reserved_micro_usd=0,
        spent_micro_usd=1,
        complete=True,
        created_at=NOW,
        finished_at=NOW,
    )
    texts = dict.fromkeys(("custom_id", "prompt", "error"), text)
    numbers = {
        "seed": 1,
        "prs_predicted": 0.3,
        "prs_threshold": 0.4,
        "cost_charged_usd": 0.009,
        "attempts": 1,
    }
    row = {"job_id": "j", "tier": "edge", "state": "failed", "image_deleted_at": None} | texts | numbers
    return fill(
        status,
        tiers=[],
        windows=[],
        rejected=[Rejection(line_no=1, reason=text, remedy=text, raw_sha256="0" * 64)],
        shadows=ShadowSpending(jobs=0, unfinished=0, spent_micro_usd=0),
        compared=[],
        cards=[Card(row=row, picture=None, scores={}, why=text)],
    )
