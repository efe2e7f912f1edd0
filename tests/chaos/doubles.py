"""Stand-ins that break one promise each, for the negative controls; the product has no switch for any.

`CHAOS_DOUBLE=name` in the environment of the harness's own entry modules puts one in place. It knows which
function is replaced, not what the checker will say: `tests.chaos.controls` foretells that.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

import db.claims
import db.sweeping
import routet2i.celery_app
import scheduler.service
from db.closing import OF_MICROBATCH, Held, held
from db.dialects import run
from routet2i.contracts import Claim, SweepReport
from routet2i.execution import Lease
from routet2i.images import ImageStore


def no_sweeper() -> None:
    """N1: nobody brings back what was lost."""
    scheduler.service.sweep = lambda *_, **__: SweepReport()  # type: ignore[assignment]


def broker_brings_back() -> None:
    """N2: nobody but the broker does, which delivers again what was not acknowledged for 8 seconds."""
    no_sweeper()
    usual = routet2i.celery_app.configuration

    def shorter(*arguments: Any, **named: Any) -> dict[str, Any]:
        settings = usual(*arguments, **named)
        settings["visibility_timeout"] = 8
        settings["broker_transport_options"]["visibility_timeout"] = 8
        settings["broker_transport_options"]["unacked_restore_interval"] = 1
        settings["broker_transport_options"]["unacked_restore_throttle"] = 1
        return settings

    routet2i.celery_app.configuration = shorter


def no_fence() -> None:
    """N4: whoever once had a claim may write, and believes in its lease for ever."""

    def hold(connection: Connection, claim: Claim) -> Held | None:
        row = run(
            connection,
            f"UPDATE microbatch SET fence = fence WHERE id = :id RETURNING {OF_MICROBATCH}",
            {"id": claim.microbatch_id},
        ).one_or_none()
        return None if row is None else held(claim.microbatch_id, row, fence=claim.fence)

    db.claims.hold = hold
    Lease.check = lambda _: None  # type: ignore[method-assign]


def written_in_place() -> None:
    """N5: a picture is written under its own name, piece by piece."""

    def put(self: ImageStore, png: bytes) -> str:
        name = hashlib.sha256(png).hexdigest()
        target = self.path_of(name)
        if target.exists():
            return name
        self._make(target.parent)
        with target.open("wb") as file:
            file.write(png[: len(png) // 2])
            file.flush()
            time.sleep(0.4)  # a slow disk, so that most kills come amid a picture
            file.write(png[len(png) // 2 :])
        return name

    ImageStore.put = put  # type: ignore[method-assign]


def any_tier() -> None:
    """N7: a claim does not ask which tier a microbatch is for."""
    usual = db.claims._claim

    def claim(connection: Connection, which: str, **named: Any) -> Claim | None:
        return usual(connection, which.replace("AND tier = :tier", ""), **named)

    db.claims._claim = claim


def deliveries_count() -> None:
    """N8: a message that had to be sent again counts like a worker that died."""
    usual = db.sweeping.expire

    def expire(connection: Connection, microbatch_id: str, **named: Any) -> Any:
        run(
            connection,
            """UPDATE microbatch SET deaths = deaths + deliveries
                WHERE id = :id AND state = 'claimed' AND lease_until_ms < {NOW}""",
            {"id": microbatch_id},
        )
        return usual(connection, microbatch_id, **named)

    db.sweeping.expire = expire


def client_repeats() -> None:
    """N6: the provider's client sends again by itself, as SDKs do, where the answer was an error or none."""
    from routet2i.provider import Answer, Provider, Unsure

    usual = Provider._send

    def send(self: Provider, *arguments: Any, **named: Any) -> Answer:
        answer = usual(self, *arguments, **named)
        for _ in range(2):
            if not isinstance(answer, Unsure):
                break
            answer = usual(self, *arguments, **named)
        return answer

    Provider._send = send  # type: ignore[method-assign]


def none() -> None:
    """Break nothing."""


DOUBLES: Mapping[str, Callable[[], None]] = {
    "": none,
    "no_sweeper": no_sweeper,
    "broker_brings_back": broker_brings_back,
    "no_fence": no_fence,
    "written_in_place": written_in_place,
    "any_tier": any_tier,
    "deliveries_count": deliveries_count,
    "client_repeats": client_repeats,
}


def put_in_place() -> None:
    """Put the double in place that this process's environment names."""
    DOUBLES[os.environ.get("CHAOS_DOUBLE", "")]()


def names() -> Sequence[str]:
    """Return the doubles that break something."""
    return [name for name in DOUBLES if name]
