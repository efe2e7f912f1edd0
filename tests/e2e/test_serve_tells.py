"""`routet2i serve` as a real process: its herald tells a receiver of an end, and `/metrics` counts it."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families


def until(condition: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_serve_tells_of_a_batch_that_was_cancelled_and_signs_it(tmp_path: Path) -> None:
    # Given a receiver, a home with a webhook to it, and `serve`
    got: list[tuple[dict[str, str], str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            got.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    receiver = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=receiver.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"ROUTET2I_HOME": str(tmp_path), "ROUTET2I_PRIVATE_HOSTS": "127.0.0.1", "PATH": ""}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}

    def typed(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *words],
            env=environment, capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip

    typed("db", "upgrade")
    url = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
    secret = json.loads(typed("webhook", "add", url, "--json"))["secret"]
    log = tmp_path / "serve.log"
    with log.open("w") as stderr:
        serve = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", "serve", "--port", str(port)],
            env=environment, stderr=stderr, text=True,
        )  # fmt: skip
    try:
        # When a batch is submitted and cancelled
        file = tmp_path / "prompts.txt"
        file.write_text("a red circle\na blue square\n")
        batch = json.loads(typed("submit", str(file), "--json"))["batch_id"]
        typed("cancel", batch)
        # Then the receiver is told, with a signature that OpenAI's client believes
        until(lambda: got)
        headers, body = got[0]
        with OpenAI(api_key="none") as client:
            event = client.webhooks.unwrap(body, headers, secret=secret)
        assert (event.type, event.data.id) == ("batch.cancelled", batch)

        def answers() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
                return bool(answer.status == 200)
            return False

        def delivered() -> list[dict[str, Any]]:
            found = json.loads(typed("webhook", "deliveries", "--json"))
            return [one for one in found if one["state"] == "delivered"]

        def finished() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return {
                    sample.labels["state"]: sample.value
                    for family in text_string_to_metric_families(answer.read().decode())
                    for sample in family.samples
                    if sample.name == "routet2i_jobs_finished_total"
                }

        until(answers)  # it tells, and only then listens
        until(lambda: finished() == {"cancelled": 2.0})
        (row,) = until(delivered)
        assert [one["status"] for one in row["tries"]] == [204]
    finally:
        serve.terminate()
        serve.wait(60)
        receiver.shutdown()
        receiver.server_close()
    told = log.read_text()
    assert secret not in told
    assert "webhook_tried" in told
