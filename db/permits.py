"""Permission to buy one picture of a provider, committed before the call; see reliability.md section 7.

Fenced: only the current claim may buy, and only it may take money back. What a call has cost in the end is
`db.calls`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from db import calls, ledger
from db.claims import hold
from db.closing import Held
from db.dialects import run
from db.ledger import Account, Wish
from routet2i.contracts import Bought, CallState, Claim, Permit, Withheld, new_id
from routet2i.errors import RouteT2IError

MOST_PURCHASES = 2  # of one picture: one whose answer was lost, and one more for money granted anew


def intend(
    connection: Connection, claim: Claim, *, job_id: str, index: int, cost_max: int, repeatable: bool
) -> Permit | Bought | Withheld:
    """Permit one purchase, or say what to do instead; see `Repository.intend`."""
    microbatch = hold(connection, claim)
    if microbatch is None:
        return Withheld.STALE
    wanted = run(
        connection,
        """SELECT 1 FROM job WHERE id = :job_id AND microbatch_id = :id AND state = 'assigned'
            AND cancel_requested = 0""",
        {"job_id": job_id, "id": claim.microbatch_id},
    ).scalar()
    if wanted is None:
        return Withheld.CANCELLED
    earlier = _earlier(connection, job_id=job_id, index=index)
    if (done := next((one for one in earlier if one.image_sha256 is not None), None)) is not None:
        return Bought(sha256=done.image_sha256)
    if (out := next((one for one in earlier if one.state == CallState.INTENT), None)) is not None:
        if not out.repeatable and out.remote_id is None:
            raise RouteT2IError(f"call {out.id} is out already; the sweeper settles it when its claim ends")
        return Permit(call_id=out.id, idem_key=out.idem_key, remote_id=out.remote_id, resumed=True)
    if (
        run(connection, f"{calls.PAUSED} AND provider = :tier LIMIT 1", {"tier": claim.tier}).scalar()
        is not None
    ):
        return Withheld.PAUSED
    lost = [one for one in earlier if one.state != CallState.VOID]
    if len(lost) >= MOST_PURCHASES:
        return Withheld.UNKNOWN_CHARGE
    call_id = new_id()
    drawn = 0 if any(one.drawn for one in earlier) else cost_max
    if drawn:
        _draw(connection, microbatch, micro_usd=drawn)
    elif not _granted(connection, call_id, accounts=microbatch.accounts, micro_usd=cost_max):
        return Withheld.UNKNOWN_CHARGE
    run(
        connection,
        """INSERT INTO call(id, microbatch_id, job_id, idx, fence, provider, idem_key, repeatable, state,
                            cost_max, drawn, created_ms)
            VALUES(:id, :microbatch_id, :job_id, :idx, :fence, :tier, :idem_key, :repeatable, 'intent',
                   :cost_max, :drawn, {NOW})""",
        {
            "id": call_id,
            "microbatch_id": claim.microbatch_id,
            "job_id": job_id,
            "idx": index,
            "fence": claim.fence,
            "tier": claim.tier,
            "idem_key": f"routet2i-{call_id}",
            "repeatable": int(repeatable),
            "cost_max": cost_max,
            "drawn": drawn,
        },
    )
    return Permit(call_id=call_id, idem_key=f"routet2i-{call_id}", remote_id=None, resumed=False)


def _earlier(connection: Connection, *, job_id: str, index: int) -> Sequence[Row[Any]]:
    """Return the purchases of one picture so far, oldest first."""
    return run(
        connection,
        """SELECT id, idem_key, remote_id, repeatable, state, image_sha256, drawn FROM call
            WHERE job_id = :job_id AND idx = :idx ORDER BY id""",
        {"job_id": job_id, "idx": index},
    ).all()


def _draw(connection: Connection, microbatch: Held, *, micro_usd: int) -> None:
    taken = run(
        connection,
        """UPDATE microbatch SET reserved_left = reserved_left - :c
            WHERE id = :id AND reserved_left >= :c""",
        {"c": micro_usd, "id": microbatch.microbatch_id},
    )
    if taken.rowcount != 1:
        raise RouteT2IError(
            f"microbatch {microbatch.microbatch_id} holds less than {micro_usd} micro-USD for a picture; "
            "type: routet2i db check"
        )


def _granted(connection: Connection, call_id: str, *, accounts: tuple[Account, ...], micro_usd: int) -> bool:
    """Reserve money for one more try; False if an account has none left."""
    wish = Wish(microbatch_id=call_id, accounts=accounts, prices=(micro_usd,))
    (verdict,) = ledger.reserve(connection, [wish], free=ledger.lock(connection, accounts))
    return verdict.granted is not None


def void(connection: Connection, claim: Claim, call_id: str, *, error: str) -> None:
    """Give back the money of a call that was surely not billed; see `Repository.void_call`."""
    microbatch = hold(connection, claim)
    call = calls.lock(connection, call_id)
    if call.state is CallState.UNKNOWN:
        calls.void_unknown(connection, call_id, error=error)
    elif call.state is CallState.INTENT and microbatch is not None:
        calls.set_void(connection, call_id, error=error, drawn=0)
        if call.drawn:
            run(
                connection,
                "UPDATE microbatch SET reserved_left = reserved_left + :c WHERE id = :id",
                {"c": call.drawn, "id": microbatch.microbatch_id},
            )
        rest = call.cost_max - call.drawn
        ledger.post(connection, [ledger.released(call_id, micro_usd=rest)], accounts=call.accounts)
