"""Traces from submission to picture on both databases, with the in-memory exporter; and off by default."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from routet2i import tracing
from routet2i.contracts import QueueLimits, new_id
from routet2i.errors import UsageError
from routet2i.execution import Outcome, run_microbatch
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.images import ImageStore
from routet2i.settings import Settings
from scheduler.clerk import Clerk
from scheduler.file_store import FileStore
from scheduler.predictor.interface import open_predictor
from scheduler.retrying import retry
from scheduler.service import run_window
from scheduler.single import submit_single
from scheduler.submit import submit_file
from tests.protocol.world import order as an_order


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    assert tracing.start(Settings(), service="test", exporter=found)
    yield found
    tracing.stop()


def draw_a_batch(shop: Any, home: Any) -> tuple[str, list[str]]:
    """Submit three lines, decide them and draw what was decided; return the batch and its microbatches."""
    settings = Settings(home=home, predictor="constant")
    tiers = settings.read_tiers()
    file = home / "prompts.txt"
    file.write_text("a red circle\na blue square\na secret wish\n")
    batch = submit_file(shop.repository, file, tiers=tiers, settings=settings, budget_micro_usd=None).batch_id
    predictor = open_predictor("constant", tiers=tiers)
    assert run_window(shop.repository, predictor, tiers=tiers, settings=settings, term=None)
    with shop.engine.connect() as connection:
        made = connection.exec_driver_sql("SELECT id, tier FROM microbatch ORDER BY id").all()
    for microbatch, tier in made:
        outcome = run_microbatch(
            microbatch,
            store=shop.repository,
            profile=tiers[tier],
            worker="w1",
            load=lambda: (FakeGenerator(), FakeScorer(settings.read_metrics().names)),
            pictures=ImageStore(root=settings.pictures),
            lease_seconds=45,
        )
        assert outcome is Outcome.DONE
    return batch, [microbatch for microbatch, _ in made]


def test_a_batch_is_one_trace_from_its_submission_to_its_pictures(shop, tmp_path, exporter):
    # Given a batch that was submitted, decided and drawn
    batch, microbatches = draw_a_batch(shop, tmp_path)
    spans: tuple[ReadableSpan, ...] = exporter.get_finished_spans()
    # Then all spans are of one trace, which is named as the batch is
    assert {span.context.trace_id for span in spans} == {tracing.trace_id(batch)}
    by_name: dict[str, list[ReadableSpan]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    assert set(by_name) == {
        "submit", "window", "microbatch", "load", "generate", "score", "store", "record",
    }  # fmt: skip
    # And they hang together: what windows and workers did under the submission, the steps under the worker
    (root,) = by_name["submit"]
    assert root.parent is None
    assert root.context.span_id == tracing.root_id(batch)
    for span in (*by_name["window"], *by_name["microbatch"]):
        assert span.parent.span_id == root.context.span_id
    workers = {span.context.span_id for span in by_name["microbatch"]}
    for name in ("load", "generate", "score", "store", "record"):
        assert {span.parent.span_id for span in by_name[name]} <= workers
    assert {span.attributes["routet2i.microbatch"] for span in by_name["microbatch"]} == set(microbatches)
    # And each picture is an event with its name in the store
    pictures = {event.attributes["routet2i.sha256"] for span in by_name["store"] for event in span.events}
    with shop.engine.connect() as connection:
        assert pictures == set(connection.exec_driver_sql("SELECT sha256 FROM picture").scalars())
    # And no prompt is told
    assert "secret wish" not in "".join(span.to_json() for span in spans)


def test_every_way_of_submitting_begins_the_trace_of_its_batch(shop, tmp_path, exporter):
    settings = Settings(home=tmp_path / "home", shadow_share=1.0)
    tiers = settings.read_tiers()
    repository = shop.repository
    # Given a batch that failed, which came in before anybody traced
    failed = shop.submit(1)
    shop.window(price=65)
    claim = shop.poll()
    assert repository.record(claim, [shop.outcome(job, fails=True) for job in claim.jobs])
    assert repository.finish(claim)
    # When it is tried again, a picture is asked for, an order is read, and a window draws a second picture
    again = retry(
        repository,
        failed,
        job_ids=None,
        tiers=tiers,
        limits=QueueLimits(jobs=100, client_jobs=None),
        budget_micro_usd=None,
    ).batch_id
    single = submit_single(
        repository,
        {"prompt": "a star"},
        client="ann",
        key=None,
        name="one",
        budget_micro_usd=None,
        settings=settings,
        tiers=tiers,
    ).batch_id
    ordered = _order(repository, settings)
    assert run_window(
        repository, open_predictor("constant", tiers=tiers), tiers=tiers, settings=settings, term=None
    )
    shadow = shop.read("SELECT id FROM batch WHERE client = 'shadow'")
    # Then each has a first span, once, whose id follows from the batch
    spans = exporter.get_finished_spans()
    roots = {span.attributes["routet2i.batch"]: span for span in spans if span.name == "submit"}
    assert sorted(span.name for span in spans).count("submit") == len(roots)
    assert set(roots) == {again, single, ordered, shadow}
    for batch, root in roots.items():
        assert root.parent is None
        assert (root.context.trace_id, root.context.span_id) == (
            tracing.trace_id(batch),
            tracing.root_id(batch),
        )
        assert root.start_time <= root.end_time
    assert roots[again].attributes["routet2i.retry_of"] == failed
    # And the next window's second pictures go on with the trace that is there
    shop.submit(1)
    assert run_window(
        repository, open_predictor("constant", tiers=tiers), tiers=tiers, settings=settings, term=None
    )
    assert shop.read("SELECT n_accepted FROM batch WHERE client = 'shadow'") == 4
    assert [span.name for span in exporter.get_finished_spans()].count("submit") == len(roots)


def _order(repository: Any, settings: Settings) -> str:
    """Order a batch over HTTP's way, let a clerk read its file, and return the batch."""
    line = (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a ring"}}'
    )
    name, size = FileStore(root=settings.files).put(io.BytesIO(line))
    file = repository.add_file(client="ann", filename="a.jsonl", size=size, sha256=name, seconds=None)
    order, _ = repository.order_batch(an_order(file.id, key=None))
    assert Clerk(repository, settings).step()
    batch: str = repository.find_order(order.id).batch_id
    return batch


def test_without_being_asked_for_nothing_is_traced(shop, tmp_path):
    assert not tracing.start(Settings(), service="test")
    draw_a_batch(shop, tmp_path)
    with tracing.span("x", batch_id=new_id()) as span:
        span.event("nothing")
    said = (
        "import sys, routet2i.tracing, routet2i.execution; print([m for m in sys.modules if 'opentel' in m])"
    )
    printed = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, timeout=60)
    assert printed.stdout.strip() == "[]"


def test_an_error_inside_a_span_is_told_and_goes_on(exporter):
    batch = new_id()
    with pytest.raises(ValueError, match="no"), tracing.span("x", batch_id=batch):
        raise ValueError("no")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok


def test_spans_of_no_batch_have_ids_of_their_own(exporter):
    tracing.submitted(new_id(), began_ns=1, attributes={})
    with tracing.span("alone"):
        pass
    first, second = exporter.get_finished_spans()
    assert first.context.trace_id != second.context.trace_id


@pytest.mark.parametrize("url", ["http://collector.example/v1/traces", "ftp://127.0.0.1/", "nonsense"])
def test_a_collector_that_lies_open_is_refused(url):
    with pytest.raises(UsageError, match="ROUTET2I_TRACES_URL"):
        tracing.start(Settings(traces_url=url), service="test")
    tracing.stop()


def test_a_collector_gets_what_was_traced():
    # Given a collector
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    batch = new_id()
    # When a process ends that has traced to it
    settings = Settings(traces_url=f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    with tracing.running(settings, service="test"):
        tracing.submitted(batch, began_ns=1, attributes={})
    server.shutdown()
    server.server_close()
    # Then the span has arrived, under the batch's id
    assert got[0][0] == "/v1/traces"
    assert tracing.trace_id(batch).to_bytes(16, "big") in b"".join(body for _, body in got)
