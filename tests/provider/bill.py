"""Hold a provider's bill against the calls that we recorded (invariant I4)."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Engine, text

from db.session import reading


def unmatched(bill: Iterable[Mapping[str, Any]], engine: Engine) -> list[str]:
    """Return what does not fit: bill lines without a call that counts, calls that count without a line.

    A call that is still open matches its line: its money is held. Unknown calls need no line.
    """
    with reading(engine) as connection:
        calls = {
            row.idem_key: row
            for row in connection.execute(
                text("SELECT idem_key, state, cost_max, cost_actual, overrun FROM call")
            )
        }
    wrong, billed = [], {}
    for line in bill:
        key = line["idempotency_key"]
        billed[key] = billed.get(key, 0) + round(line["cost_usd"] * 1_000_000)
        if key not in calls:
            wrong.append(f"billed, but never permitted: {key}")
        elif calls[key].state == "void":
            wrong.append(f"billed, but recorded as void: {key}")
    for key, call in calls.items():
        if call.state == "charged" and call.cost_actual != billed.get(key):
            wrong.append(f"charged {call.cost_actual}, billed {billed.get(key)}: {key}")
        if call.state == "unknown" and billed.get(key, 0) > call.cost_max:
            wrong.append(f"unknown, counted as {call.cost_max}, billed {billed[key]}: {key}")
    return wrong
