"""The report page, filled with values that try to break it."""

from datetime import UTC, datetime
from html.parser import HTMLParser

from db.audit import BatchStatus, WindowStory
from db.pairs import ShadowSpending
from routet2i.contracts import JobState, Rejection
from scheduler.comparison import Compared
from scheduler.drift import Drift, Pair, drift_of
from scheduler.report import Card, Tier, fill

EVIL = "<script>alert('x')</script>"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Page(HTMLParser):
    """Tags and where they point."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def status(**changes: object) -> BatchStatus:
    values: dict[str, object] = {
        "batch_id": "b",
        "name": EVIL,
        "client": "default",
        "state": "open",
        "n_accepted": 3,
        "n_rejected": 1,
        "by_state": {**dict.fromkeys(JobState, 0), JobState.SUCCEEDED: 2, JobState.FAILED: 1},
        "by_tier": {"edge": 2, "cloud": 1},
        "device_seconds": {"edge": 0.5, "cloud": 2.0},
        "limit_micro_usd": 100_000,
        "reserved_micro_usd": 0,
        "spent_micro_usd": 83_000,
        "complete": True,
        "created_at": NOW,
        "finished_at": NOW,
    }
    return BatchStatus(**values | changes)  # type: ignore[arg-type]


def card(*, picture: str | None, state: str = "succeeded", tier: str | None = "edge") -> Card:
    row = {
        "job_id": "j",
        "custom_id": EVIL,
        "prompt": EVIL,
        "tier": tier,
        "state": state,
        "prs_predicted": 0.3 if tier else None,
        "prs_threshold": 0.4 if tier else None,
        "cost_charged_usd": 0.009 if tier else None,
        "seed": 1,
        "attempts": 1,
        "error": EVIL if state == "failed" else None,
        "image_deleted_at": None,
    }
    return Card(row=row, picture=picture, scores={"detail": 0.5}, why="because")


def window() -> WindowStory:
    return WindowStory(
        window_id="w",
        committed_at=NOW,
        policy="threshold",
        predictor_name="p",
        predictor_version=EVIL,
        jobs=3,
        by_tier={"cloud": 1, "edge": 2},
        reserved_micro_usd=83_000,
        available_micro_usd=100_000,
        threshold=0.4,
        solve_us=5,
    )


def drift() -> Drift:
    """Two pairs of equal pictures, predicted 0.2 and 0.6."""
    pairs = [
        Pair(prompt=p, window_id="w", committed_at=NOW, prs=prs, edge={"detail": 0.5}, cloud={"detail": 0.5})
        for p, prs in (("a", 0.2), ("b", 0.6))
    ]
    return drift_of(pairs, yardstick=None, weights={"detail": 1.0})


def test_a_page_asks_for_nothing_and_runs_nothing_of_a_users_text() -> None:
    # Given a batch whose every text is a script
    page = fill(
        status(),
        tiers=[
            Tier(name="edge", series=1, jobs=2, share=2 / 3, scores={"detail": 0.5}),
            Tier(name="cloud", series=2, jobs=1, share=1 / 3, scores={"detail": 0.7}),
        ],
        windows=[window()],
        rejected=[Rejection(line_no=4, reason=EVIL, remedy=EVIL, raw_sha256="")],
        shadows=ShadowSpending(jobs=3, unfinished=1, spent_micro_usd=74_000),
        compared=[Compared(name=EVIL, version="1", drift=drift())],
        cards=[
            card(picture="data:image/png;base64,AAAA"),
            card(picture=None, state="failed"),
            card(picture=None, state="queued", tier=None),
        ],
    )
    # When a browser reads it
    read = Page(page)
    # Then there is no script, every picture is inside, and all three plots are there
    assert "script" not in read.tags
    assert read.targets == ["data:image/png;base64,AAAA"]
    assert read.tags.count("svg") == 3
    assert page.count("&lt;script&gt;") >= 8
    assert "$0.083" in page
    # And predictions stand beside pictures, with the money of their own
    assert read.tags.count("circle") == 2
    assert "predicted 0.200, measured 0.500" in page
    assert "$0.074" in page
    assert "1 are not drawn yet" in page


def test_a_batch_without_limit_windows_or_pictures_has_a_page_too() -> None:
    # Given a batch that nothing has happened to
    page = fill(
        status(limit_micro_usd=None, by_tier={}, finished_at=None, spent_micro_usd=0),
        tiers=[],
        windows=[],
        rejected=[],
        shadows=ShadowSpending(jobs=0, unfinished=0, spent_micro_usd=0),
        compared=[],
        cards=[],
    )
    # Then the page says so
    assert "without a limit" in page
    assert "No window has decided yet" in page
    assert "measured PRS" not in page
