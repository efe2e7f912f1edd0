"""The paid cloud tier of one run: a provider process of its own with an append-only bill, and its tier file.

It knows where the provider listens, what it bills to, and how to make it misbehave for a while. What its bill
must agree with stands in `tests.chaos.account`.
"""

import json
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from scheduler.broker import free_port
from tests.provider.tier_file import TIERS

CloudKind = Literal["own", "http", "keys"]  # our own model; a paid one; a paid one that bills a key once
API_KEY = "sk-chaos"
TIMEOUT_SECONDS = 2  # of a worker's patience with one answer
HANG_SECONDS = 5
MIX = (  # what becomes of a request all the while; the rest is answered as it should be
    "bill_then_500=0.04,bill_then_cut=0.03,bill_then_hang=0.02,fail_500=0.02,duplicate=0.05,busy=0.05,"
    "slow=0.05,accepted=0.05,wrong_size=0.01,no_image=0.01,decline=0.01"
)


class PaidCloud:
    """A provider, started as a member of the crew and again whenever it ends, on one port with one bill."""

    def __init__(
        self, folder: Path, *, kind: CloudKind, seed: int, draw_seconds: float, misbehave: str
    ) -> None:
        """Choose a port; `misbehave` is what it does at random, as `python -m tests.provider` takes it."""
        folder.mkdir()
        self.bill = folder / "bill.jsonl"
        self._honours_keys = kind == "keys"
        self._mood = folder / "mood"
        self._port = free_port()
        self._seed, self._draw_seconds, self._misbehave = seed, draw_seconds, misbehave

    def command(self, start: int) -> list[str]:
        """Return the argv of its n-th start; each draws other misbehaviours and other ids."""
        return [
            *(sys.executable, "-m", "tests.provider", "--port", str(self._port), "--bill", str(self.bill)),
            *("--seed", str(1000 * self._seed + start), "--key", API_KEY, "--misbehave", self._misbehave),
            *("--hang-seconds", str(HANG_SECONDS), "--draw-seconds", str(self._draw_seconds)),
            *("--mood-file", str(self._mood)),
            *(["--honours-keys"] if self._honours_keys else []),
        ]

    def tier_file(self) -> str:
        """Return the tiers: the pocket edge tier, and this provider."""
        return TIERS.format(
            url=f"http://127.0.0.1:{self._port}/v1",
            idempotent=str(self._honours_keys).lower(),
            timeout=TIMEOUT_SECONDS,
            more="microbatch_size = 2",
        )

    def answers(self) -> bool:
        """Whether somebody listens."""
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    @contextmanager
    def only(self, misbehaviour: str) -> Iterator[None]:
        """Let every request end in one way."""
        draft = self._mood.with_suffix(".draft")
        draft.write_text(misbehaviour)
        draft.rename(self._mood)
        try:
            yield
        finally:
            self._mood.unlink()

    def lines(self) -> Sequence[dict[str, Any]]:
        """Return the bill."""
        return [json.loads(line) for line in self.bill.read_text().splitlines()] if self.bill.exists() else []
