"""Templates into answers: one environment with autoescape, the words and numbers that all pages share.

It knows how money, ages and shares are told, and the addresses of static files; no page's content, no SQL.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from db.gallery import PRS
from routet2i.contracts import JobState
from scheduler.allocator import REASONS
from scheduler.api.callers import Caller
from scheduler.api.deployment import settings_of, tiers_of
from scheduler.api.pages.static_files import address
from scheduler.running import running

THEME = "routet2i_theme"  # cookie: light, dark, or absent = as the system has it
STATES = {  # in the order of a progress bar
    JobState.SUCCEEDED: "drawn",
    JobState.RUNNING: "being drawn",
    JobState.ASSIGNED: "assigned",
    JobState.QUEUED: "queued",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
DID = {  # what an action says on the page that it leads to
    "cancelled": "{n} cancelled; what a worker has stops before its next picture.",
    "retried": "{n} to be tried again, in this new batch.",
    "nothing": "There was nothing to do.",
    "rerouted": "{n} to be drawn by the large tier, in this new batch.",
    "paused_batch": "Paused: its queued jobs wait.",
    "resumed_batch": "Resumed: windows decide its jobs again.",
    "paused_tier": "Paused: windows give the tier no job.",
    "resumed_tier": "Resumed: windows give the tier jobs again.",
    "resumed": "The tier may buy again.",
}


@cache
def environment() -> Environment:
    """Return the templates of the pages; every value is escaped."""
    made = Environment(
        loader=PackageLoader("scheduler.api", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        money=money, ago=ago, moment=moment, iso=iso, count=counted, percent=percent, span=span, jobs=jobs
    )
    made.globals.update(address=address, states=STATES, reasons=REASONS, query=query, PRS=PRS)
    return made


def page(
    request: Request, template: str, found: Caller | None, *, code: int = 200, **values: Any
) -> HTMLResponse:
    """Fill a template.

    Args:
        found: who looks; None = a stranger.
        code: of the answer.
        values: of the template.
    """
    theme = request.cookies.get(THEME, "")
    tiers = tiers_of(request)
    told = request.query_params.get("did", "")
    number = request.query_params.get("n", "")[:9]
    number = number if number.isdecimal() else "0"
    html = (
        environment()
        .get_template(template)
        .render(
            caller=found,
            code=code,
            path=request.url.path,
            theme=theme if theme in ("light", "dark") else "",
            flower=flower(request),
            tones={tiers.edge: "edge", tiers.cloud: "cloud"},
            notice=DID[told].format(n=jobs(int(number))) if told in DID else "",
            **values,
        )
    )
    return HTMLResponse(html, status_code=code, headers={"Cache-Control": "no-cache, private"})


def flower(request: Request) -> str | None:
    """Return the address of the workers' view: the setting, or of the one that runs in this home."""
    if url := settings_of(request).flower_url:
        return str(url)
    stack = running(settings_of(request).home)
    found = None if stack is None else stack.get("flower")
    return None if found is None else str(found["url"])


def query(now: Mapping[str, Any], **changes: Any) -> str:
    """Return a query string with some fields changed; what is empty is left out."""
    merged = {**now, **changes}
    return urlencode({name: value for name, value in merged.items() if value not in (None, "", False)})


def money(micro_usd: int | None) -> str:
    """Return micro-dollars as dollars: two decimals, or as many as a small amount needs to be seen."""
    if micro_usd is None:
        return "no limit"
    if micro_usd == 0 or micro_usd >= 1_000_000:
        return f"${micro_usd / 1_000_000:,.2f}"
    return f"${micro_usd / 1_000_000:.{4 if micro_usd >= 1_000 else 6}f}"


def counted(number: float) -> str:
    """Return a number with thousands set apart."""
    return f"{number:,.0f}" if number >= 9.95 or number == int(number) else f"{number:.1f}"


def jobs(number: int) -> str:
    """Return so many jobs in words."""
    return f"{number:,} job{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """Return a share; what is not nothing and not all does not look like it."""
    value = 100 * share
    if 0 < value < 1:
        return "<1 %"
    if 99 < value < 100:
        return ">99 %"
    return f"{value:.0f} %"


def span(seconds: float) -> str:
    """Return a time in one or two units."""
    whole = round(seconds)
    for unit, length, small, part in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit} {rest} {small}" if rest else f"{whole // length} {unit}"
    return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{whole} s"


def ago(when: datetime) -> str:
    """Return how long ago a moment was."""
    seconds = (datetime.now(UTC) - when).total_seconds()
    if seconds < 45:
        return "just now"
    for unit, length, until in (("min", 60, 5_400), ("h", 3_600, 129_600), ("days", 86_400, 5_184_000)):
        if seconds < until:
            return f"{round(seconds / length)} {unit} ago"
    return f"{when:%d %b %Y}"


def moment(when: datetime) -> str:
    """Return a moment for people, by UTC."""
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def iso(when: datetime) -> str:
    """Return a moment for programs."""
    return when.isoformat(timespec="seconds")
