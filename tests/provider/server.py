"""A provider of pictures over HTTP that keeps its own bill and misbehaves as it is told.

It speaks what `routet2i.provider` reads. A bill line is on disk before the answer begins, as with a real
provider, whatever becomes of the answer. It knows nothing of our database.
"""

import base64
import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from routet2i.execution import RenderRequest
from routet2i.fakes import FakeGenerator

MISBEHAVIOURS = (
    "bill_then_500",  # billed, then an error
    "bill_then_hang",  # billed, then silence
    "bill_then_cut",  # billed, then half an answer
    "fail_500",  # an error, not billed
    "duplicate",  # the picture twice in one answer
    "busy",  # 429 with Retry-After
    "slow",  # right, after a while
    "accepted",  # 202 with an id, to be polled
    "wrong_size",  # billed, another size than asked for
    "no_image",  # billed, text instead of a picture
    "huge",  # billed, an answer without end
    "overcharge",  # billed above the price
    "decline",  # 400: content policy
    "refuse",  # 401
    "moved",  # 302 to somewhere else
)
POLLS = 2  # answers "not yet" before an accepted picture is there


class FakeProvider:
    """A server on loopback: `with FakeProvider(...) as provider`, or alone: `python -m tests.provider`."""

    def __init__(
        self,
        *,
        bill: Path,
        port: int = 0,
        seed: int = 0,
        rates: Mapping[str, float] | None = None,
        script: Sequence[str] = (),
        honours_keys: bool = False,
        key: str = "sk-fake",
        usd: float = 0.065,
        tells_cost: bool = True,
        hang_seconds: float = 30.0,
        slow_seconds: float = 1.0,
        busy_seconds: float = 0.2,
        draw_seconds: float = 0.0,
        mood_file: Path | None = None,
    ) -> None:
        """Bind the port; `script` names what becomes of the first requests, `rates` of those after it.

        While `mood_file` is there, its word is what becomes of every request. A provider that honours keys
        knows those on its bill after it was started again, too.
        """
        assert set(script) | set(rates or {}) <= {*MISBEHAVIOURS, "ok"}
        self.bill = bill
        self.honours_keys = honours_keys
        self.key, self.usd, self.tells_cost = key, usd, tells_cost
        self.hang_seconds, self.slow_seconds, self.busy_seconds = hang_seconds, slow_seconds, busy_seconds
        self.requests: list[dict[str, Any]] = []  # every POST that came: key and body
        self.gate: threading.Event | None = None  # if set, a picture waits for it after it was billed
        self._seed, self._rates, self._script = seed, dict(rates or {}), list(script)
        self._lock = threading.RLock()
        self._by_key: dict[str, dict[str, Any]] = {}  # what a key has bought, if keys are honoured
        self._billed = {line["idempotency_key"] for line in self.lines()}  # before this start
        self._draw_seconds, self._mood_file = draw_seconds, mood_file
        self._jobs: dict[str, list[Any]] = {}  # remote id -> [polls left, answer]
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", port), type("Bound", (_Handler,), {"provider": self})
        )
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The endpoint as a tier file names it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "FakeProvider":
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        """Answer until stopped."""
        self._server.serve_forever(poll_interval=0.05)

    def lines(self) -> list[dict[str, Any]]:
        """Return the bill."""
        return [json.loads(line) for line in self.bill.read_text().splitlines()] if self.bill.exists() else []

    def mood(self) -> str:
        """Return what becomes of the next request."""
        if self._mood_file is not None:
            with contextlib.suppress(FileNotFoundError):
                word = self._mood_file.read_text()
                return word if word in MISBEHAVIOURS else "ok"
        with self._lock:
            if self._script:
                return self._script.pop(0)
            number = len(self.requests)
        dice = random.Random(f"{self._seed}:{number}").random()
        for name, rate in self._rates.items():
            dice -= rate
            if dice < 0:
                return name
        return "ok"

    def bought(self, idem_key: str | None, answer: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a key has bought already, if keys are honoured; else remember `answer` for it."""
        if not self.honours_keys or idem_key is None:
            return None
        if idem_key in self._billed:
            return self._by_key.setdefault(idem_key, answer)
        known = self._by_key.get(idem_key)
        if known is None:
            self._by_key[idem_key] = answer
        return known

    def charge(self, idem_key: str | None, *, remote_id: str, usd: float) -> None:
        """Append a bill line, durably."""
        line = {
            "at_ms": time.time_ns() // 1_000_000,
            "idempotency_key": idem_key,
            "id": remote_id,
            "cost_usd": usd,
        }
        with self._lock, self.bill.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def sleep(self, seconds: float) -> None:
        """Wait, unless the server stops."""
        self._stopping.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        mine = self.provider
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        idem_key = self.headers.get("idempotency-key")
        mood = mine.mood()
        with mine._lock:
            mine.requests.append({"key": idem_key, "body": body, "mood": mood})
            number = len(mine.requests)
            known = mine._by_key.get(idem_key) if mine.honours_keys else None
        if self.headers.get("authorization") != f"Bearer {mine.key}" or mood == "refuse":
            return self._error(401, f"Incorrect API key provided: {self.headers.get('authorization')}")
        if mood == "busy":
            return self._error(429, "slow down", headers={"retry-after": str(mine.busy_seconds)})
        if mood == "fail_500":
            return self._error(500, "the server had an error")
        if mood == "moved":
            return self._error(302, "moved", headers={"location": "http://127.0.0.1:1/v1"})
        if mood == "decline":
            return self._error(400, "Your request was rejected\x1b[31m", code="content_policy_violation")
        if known is not None:
            return self._json(200, known)
        remote_id = f"img-{number}-{random.Random(f'{mine._seed}:{number}:id').getrandbits(48):x}"
        answer = self._draw(body, mood=mood)
        usd = mine.usd * (2 if mood == "overcharge" else 1)
        if mine.tells_cost:
            answer["usage"] = {"cost": usd}
        with mine._lock:
            known = mine.bought(idem_key, answer)
            if known is None:
                mine.charge(idem_key, remote_id=remote_id, usd=usd)
        if known is not None:
            return self._json(200, known)
        mine.sleep(mine._draw_seconds)
        if mine.gate is not None:
            mine.gate.wait(60)
        self._misbehave(mood, answer, remote_id=remote_id)

    def do_GET(self) -> None:
        mine = self.provider
        remote_id = self.path.rsplit("/", 1)[-1]
        with mine._lock:
            job = mine._jobs.get(remote_id)
            if job is not None:
                job[0] -= 1
        if job is None:
            return self._error(404, "no such picture")
        if job[0] >= 0:
            return self._json(202, {"id": remote_id, "status": "drawing"})
        self._json(200, job[1])

    def _draw(self, body: Mapping[str, Any], *, mood: str) -> dict[str, Any]:
        width, height = map(int, body["size"].split("x"))
        if mood == "wrong_size":
            width += 8
        request = RenderRequest(
            prompt=body["prompt"], negative_prompt=None, seed=body.get("seed", 0), width=width, height=height
        )
        (png,) = FakeGenerator(style="http").generate([request])
        assert isinstance(png, bytes)
        image = b"<html>no picture</html>" if mood == "no_image" else png
        entry = {"b64_json": base64.b64encode(image).decode()}
        return {"created": 0, "data": [entry] * (2 if mood == "duplicate" else 1)}

    def _misbehave(self, mood: str, answer: dict[str, Any], *, remote_id: str) -> None:
        mine = self.provider
        if mood == "bill_then_500":
            return self._error(500, "the server had an error")
        if mood == "bill_then_hang":
            mine.sleep(mine.hang_seconds)
            self.close_connection = True
            return None
        if mood == "accepted":
            with mine._lock:
                mine._jobs[remote_id] = [POLLS, answer]
            return self._json(202, {"id": remote_id, "status": "drawing"})
        if mood == "slow":
            mine.sleep(mine.slow_seconds)
        if mood == "huge":
            return self._endless()
        self._json(200, answer, cut=mood == "bill_then_cut")
        return None

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(10**10))
        self.end_headers()
        self.close_connection = True
        try:
            while not self.provider._stopping.is_set():
                self.wfile.write(b" " * (1 << 20))
        except OSError:
            return

    def _error(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._json(status, {"error": {"message": message, "code": code}}, headers=headers)

    def _json(
        self, status: int, content: Any, *, headers: Mapping[str, str] | None = None, cut: bool = False
    ) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut or self.close_connection
        except OSError:
            self.close_connection = True
