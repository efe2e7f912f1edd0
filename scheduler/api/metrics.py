"""`/metrics` for Prometheus: what the database says, as gauges and counters with stable names.

Every number is read from SQL when it is asked for, at most once a second, so that each process of `serve`
tells the same and a restart forgets nothing. It knows names and formats; the questions are `db.gauges`. What
each name means stands in docs/metrics.md.
"""

import ipaddress
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from db.balances import Balance, balances
from db.gauges import Gauges, Sums, Totals, gauges
from db.repository import Repository
from routet2i import __version__
from routet2i.contracts import Scope
from routet2i.settings import Settings
from scheduler.api.callers import auditor, caller
from scheduler.api.turns import Turn
from scheduler.budget import purse_of
from scheduler.comparison import Means, means

FRESH_SECONDS = 1.0  # two scrapes within this are told the same
PRS_SECONDS = 60.0  # between two looks at pairs of pictures
PRS_PAIRS = 1_000  # the newest
QUANTILES = (0.5, 0.95, 0.99)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")  # a proxy stands between

Labels = TypeVar("Labels", bound=tuple[str, ...])  # values of a family's labels

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format, or OpenMetrics if that is accepted.

    Open to this machine; from elsewhere with a key of role auditor or admin.
    """
    if not _is_local(request):
        auditor(caller(request))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    exposition: Exposition = request.app.state.exposition
    return Response(encode(exposition.registry()), media_type=content_type)


def _is_local(request: Request) -> bool:
    """Whether a program of this machine asks, neither for somebody else nor by a page of another site."""
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    if request.app.state.behind_proxy:
        return False
    if request.client is None or host not in LOOPBACK_NAMES or "origin" in request.headers:
        return False
    if any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


class _Fixed(Collector):
    """Families that were made before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Exposition:
    """The metrics of one deployment, remembered for a second."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self._repository = repository
        self._settings = settings
        self._totals = Totals()
        self._turn = Turn()  # one thread asks, some others wait for its answer
        self._known: tuple[float, CollectorRegistry] | None = None
        self._means: tuple[float, Sequence[Means]] | None = None

    def registry(self) -> CollectorRegistry:
        """Return the metrics of now, or of less than a second ago.

        Raises:
            ServiceUnavailable: the database does not answer.
            Refused: too many ask at once.
        """
        with self._turn.taken():
            now = time.monotonic()
            if self._known is None or now - self._known[0] > FRESH_SECONDS:
                registry = CollectorRegistry(auto_describe=False)
                registry.register(_Fixed(list(self._families())))
                self._known = now, registry
            return self._known[1]

    def _families(self) -> Iterator[Metric]:
        started = time.perf_counter()
        engine = self._repository.engine
        yield _gauge("build", "1, with this program's version.", ("version",), {(__version__,): 1})
        now = gauges(engine)
        yield from _queue(now)
        yield from _tiers(now)
        yield from _scheduling(now)
        yield from _outcomes(self._totals.read(engine))
        yield from _budgets(self._balances())
        yield from _predictions(self._predictions())
        yield _gauge(
            "scrape_seconds", "Seconds that these numbers took.", (), {(): time.perf_counter() - started}
        )

    def _balances(self) -> list[Balance]:
        settings = self._settings
        purse = purse_of(
            deployment=settings.deployment,
            limit_micro_usd=settings.budget_micro_usd,
            seconds=settings.budget_period_seconds,
            now=None,
        )
        engine = self._repository.engine
        return [
            one
            for scope in (Scope.DEPLOYMENT, Scope.CLIENT)
            for one in balances(engine, purse=purse, scope=scope)
        ]

    def _predictions(self) -> Sequence[Means]:
        now = time.monotonic()
        if self._means is None or now - self._means[0] > PRS_SECONDS:
            found = means(
                self._repository.shadow_pairs(limit=PRS_PAIRS),
                yardsticks=self._repository.yardsticks(),
                tiers=self._settings.read_tiers(),
                weights=self._settings.read_metrics().weights,
            )
            self._means = now, found
        return self._means[1]


def _queue(now: Gauges) -> Iterator[Metric]:
    yield _gauge("queue_jobs", "Jobs that wait for a window.", (), {(): now.queued_jobs})
    yield _gauge("queue_pictures", "Pictures wanted by them.", (), {(): now.queued_pictures})
    yield _gauge("queue_deferred_jobs", "Of them, left for later by a window.", (), {(): now.deferred_jobs})
    yield _gauge(
        "queue_oldest_job_seconds",
        "Age of the oldest batch that has jobs waiting for a window; 0 = nothing waits.",
        (),
        {(): now.queue_oldest_seconds or 0.0},
    )


def _tiers(now: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "jobs",
        "Unfinished jobs: queued (no tier yet), ready, sent, running.",
        ("tier", "state"),
        {("", "queued"): now.queued_jobs}
        | {
            (tier, "running" if state == "claimed" else state): jobs
            for tier, one in now.tiers.items()
            for state, jobs in one.jobs.items()
        },
    )
    yield _gauge(
        "microbatches",
        "Unfinished microbatches.",
        ("tier", "state"),
        {(tier, state): n for tier, one in now.tiers.items() for state, n in one.microbatches.items()},
    )
    yield _gauge(
        "tier_oldest_job_seconds",
        "Age of the oldest unfinished job that was assigned to the tier; 0 = none.",
        ("tier",),
        {(tier,): one.oldest_seconds or 0.0 for tier, one in now.tiers.items()},
    )
    yield _gauge(
        "reserved_usd",
        "Money held for unfinished work.",
        ("tier",),
        {(tier,): one.reserved_micro_usd / 1e6 for tier, one in now.tiers.items()},
    )
    yield _gauge("workers", "Workers heard of within an hour.", ("tier", "state"), now.workers)


def _scheduling(now: Gauges) -> Iterator[Metric]:
    yield _gauge("leader", "1 if a scheduler leads.", (), {(): int(now.leads)})
    yield _quantiles("window_seconds", "Time that the newest windows took to decide.", now.window_seconds)
    yield _quantiles("wait_seconds", "Time from submission to assignment, lately.", now.wait_seconds)
    age = {} if now.window_age_seconds is None else {(): now.window_age_seconds}
    yield _gauge("window_age_seconds", "Since the last window; missing before the first.", (), age)
    yield _gauge("overdue_claims", "Claims that have ended and nobody swept.", (), {(): now.overdue_claims})
    yield _counter(
        "sweeper_findings",
        "What sweeps found and mended.",
        ("finding",),
        {(finding,): total for finding, total in now.findings.items()},
    )
    yield _gauge(
        "calls_open",
        "Paid calls without an answer: out now, or lost.",
        ("state",),
        {(state,): calls for state, calls in now.open_calls.items()},
    )
    yield _gauge(
        "calls_unknown_usd", "Spent on calls whose answer was lost.", (), {(): now.unknown_micro_usd / 1e6}
    )
    yield _gauge(
        "webhook_deliveries",
        "Webhook deliveries that are pending, or were given up.",
        ("state",),
        {(state,): number for state, number in now.deliveries.items()},
    )
    yield _gauge(
        "webhook_late_seconds",
        "Since the first pending webhook delivery was due; 0 = none is.",
        (),
        {(): now.delivery_late_seconds or 0.0},
    )


def _outcomes(found: Sums) -> Iterator[Metric]:
    yield _counter("jobs_finished", "Jobs that have their outcome.", ("tier", "state"), found.jobs)
    yield _counter("job_failures", "Jobs that failed, by error.", ("tier", "error"), found.failures)
    yield _counter(
        "spent_usd",
        "Charged by finished jobs.",
        ("tier",),
        {(tier,): micro_usd / 1e6 for tier, micro_usd in found.micro_usd.items()},
    )
    yield _counter(
        "device_seconds",
        "Seconds of the devices (GPU seconds where those are GPUs).",
        ("tier",),
        {(tier,): microseconds / 1e6 for tier, microseconds in found.device_us.items()},
    )
    yield _counter("attempts", "Attempts of finished jobs, by their end.", ("tier", "end"), found.attempts)


def _budgets(found: Sequence[Balance]) -> Iterator[Metric]:
    labels = ("scope", "name", "span")
    for what, told in (
        ("limit", "Limit"),
        ("reserved", "Reserved"),
        ("spent", "Spent"),
        ("overrun", "Overrun"),
    ):
        yield _gauge(
            f"budget_{what}_usd",
            f"{told} in the running period of a client's or deployment's budget.",
            labels,
            {
                (one.scope.value, one.name, one.span): amount / 1e6
                for one in found
                if (amount := getattr(one, f"{what}_micro_usd")) is not None
            },
        )


def _predictions(found: Sequence[Means]) -> Iterator[Metric]:
    labels = ("predictor", "version")
    for what, told in (
        ("predicted", "Mean PRS that was predicted for the newest pairs of pictures."),
        ("measured", "Mean PRS that was measured on the same pairs."),
        ("pairs", "How many pairs those are."),
    ):
        values = {(one.name, one.version): getattr(one, what) for one in found}
        yield _gauge(f"prs_{what}", told, labels, values)


def _gauge(name: str, told: str, labels: Sequence[str], values: Mapping[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"routet2i_{name}", told, labels=labels)
    for given, value in sorted(values.items()):
        family.add_metric(given, value)
    return family


def _counter(
    name: str, told: str, labels: Sequence[str], values: Mapping[Labels, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"routet2i_{name}", told, labels=labels)
    for given, value in sorted(values.items()):
        family.add_metric(given, value)
    return family


def _quantiles(name: str, told: str, ascending: Sequence[float]) -> GaugeMetricFamily:
    """Return quantiles of a sample as gauges: a summary's count and sum would be of all time."""
    return _gauge(
        name,
        told,
        ("quantile",),
        {
            (str(quantile),): ascending[min(int(quantile * len(ascending)), len(ascending) - 1)]
            for quantile in QUANTILES
            if ascending
        },
    )
