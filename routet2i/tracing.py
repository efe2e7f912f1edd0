"""OpenTelemetry traces, off unless asked for: one trace per batch, from its submission to its pictures.

No message and no row carries a context: a batch's id has 128 bits, as a trace's id has, so it *is* the
trace's id, and the root span's id follows from it. Whoever reads a batch's id from SQL, as every window and
claim does, continues its trace. Spans tell ids, counts and tiers, never a prompt. OpenTelemetry is imported
only when it is turned on.
"""

import contextvars
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from routet2i.errors import UsageError
from routet2i.exposure import LOOPBACK
from routet2i.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "routet2i"
EXPORT_SECONDS = 3.0  # of one try: a collector that is away must not hold up a command's end
SEND_EVERY_MS = 1_000  # a worker's process may be killed at any moment
Value = str | int | float | bool

_new_root: contextvars.ContextVar[str | None] = contextvars.ContextVar("new_root", default=None)


class _Process:
    """What this process records with; nothing while traces are off."""

    tracer: Any = None
    provider: Any = None


def trace_id(batch_id: str) -> int:
    """Return the id of a batch's trace: the batch's own."""
    return UUID(batch_id).int


def root_id(batch_id: str) -> int:
    """Return the id of a batch's first span; never 0, which means none."""
    return int.from_bytes(hashlib.sha256(batch_id.encode()).digest()[:8], "big") or 1


def start(settings: Settings, *, service: str, exporter: "SpanExporter | None" = None) -> bool:
    """Turn traces on for this process if the settings name a collector; return whether they are on.

    Args:
        service: name of this process: `scheduler`, `worker-edge` ...
        exporter: where spans go; None = the collector, in the background.
    Raises:
        UsageError: the collector's address lies open, or OpenTelemetry is not installed.
    """
    if exporter is None and not settings.traces_url:
        return False
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ModuleNotFoundError as error:
        raise UsageError(f"{error}; type: pip install 'routet2i[otel]'") from error

    class BatchIds(RandomIdGenerator):
        """Gives a batch's first span the ids that follow from the batch."""

        def generate_trace_id(self) -> int:
            batch_id = _new_root.get()
            return super().generate_trace_id() if batch_id is None else trace_id(batch_id)

        def generate_span_id(self) -> int:
            batch_id = _new_root.get()
            return super().generate_span_id() if batch_id is None else root_id(batch_id)

    resource = Resource.create(
        {"service.namespace": SERVICE, "service.name": service, "deployment.environment": settings.deployment}
    )
    provider = TracerProvider(resource=resource, id_generator=BatchIds())
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        _check(settings)
        sent = OTLPSpanExporter(endpoint=settings.traces_url, timeout=EXPORT_SECONDS)
        provider.add_span_processor(BatchSpanProcessor(sent, schedule_delay_millis=SEND_EVERY_MS))
    _Process.provider, _Process.tracer = provider, provider.get_tracer(SERVICE)
    return True


def stop() -> None:
    """Send what is left and turn traces off."""
    provider, _Process.provider, _Process.tracer = _Process.provider, None, None
    if provider is not None:
        provider.shutdown()


@contextmanager
def running(settings: Settings, *, service: str) -> Iterator[None]:
    """Turn traces on for what happens inside, if the settings ask for it; see `start`."""
    start(settings, service=service)
    try:
        yield
    finally:
        stop()


def _check(settings: Settings) -> None:
    parts = urlsplit(settings.traces_url)
    trusted = parts.hostname in (*LOOPBACK, *settings.private_names)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or (parts.scheme == "http" and not trusted)
    ):
        raise UsageError(
            "ROUTET2I_TRACES_URL is no address of a collector, or reached without TLS; write "
            "https://HOST/v1/traces, or name a host of a network that is yours alone in "
            "ROUTET2I_PRIVATE_HOSTS"
        )


def submitted(batch_id: str, *, began_ns: int, attributes: Mapping[str, Value]) -> None:
    """Record the first span of a new batch's trace: its submission, which has just ended.

    Args:
        began_ns: `time.time_ns()` when it began.
    """
    if _Process.tracer is None:
        return
    from opentelemetry.context import Context

    token = _new_root.set(batch_id)
    try:
        span = _Process.tracer.start_span(
            "submit",
            context=Context(),
            start_time=began_ns,
            attributes={"routet2i.batch": batch_id, **attributes},
        )
    finally:
        _new_root.reset(token)
    span.end()


def record(batch_id: str, name: str, *, began_ns: int, attributes: Mapping[str, Value]) -> None:
    """Record a span of a batch's trace that began then and ends now; its parent is the submission."""
    if _Process.tracer is not None:
        _Process.tracer.start_span(
            name,
            context=_context(batch_id),
            start_time=began_ns,
            attributes={"routet2i.batch": batch_id, **attributes},
        ).end()


@contextmanager
def span(name: str, *, batch_id: str | None = None, **attributes: Value) -> Iterator["Span"]:
    """Record what happens inside as a span; those opened inside are its children.

    Args:
        batch_id: whose trace it continues; None = the span that is open in this thread.
    """
    if _Process.tracer is None:
        yield Span(None)
        return
    given = {f"routet2i.{key}": value for key, value in attributes.items()}
    context = None
    if batch_id is not None:
        given["routet2i.batch"] = batch_id
        context = _context(batch_id)
    with _Process.tracer.start_as_current_span(name, context=context, attributes=given) as made:
        yield Span(made)


class Span:
    """An open span, or nothing."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def event(self, name: str, **attributes: Value) -> None:
        """Note a moment in it."""
        if self._made is not None:
            self._made.add_event(name, {f"routet2i.{key}": value for key, value in attributes.items()})


def _context(batch_id: str) -> Any:
    """Return the context of a batch's first span, whoever recorded that."""
    from opentelemetry import trace

    parent = trace.SpanContext(
        trace_id=trace_id(batch_id),
        span_id=root_id(batch_id),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))
