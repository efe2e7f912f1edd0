"""What a provider's own bill says of the calls that a run has recorded (I4), before and after reconciling.

Three questions at rest: has each line its call; what is unknown, and what was bought twice; and once the bill
is read by `budget reconcile`, is every call charged or void exactly as billed. It knows calls and lines, not
what befell anybody.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row

from db.dialects import run
from db.invariants import check_invariants
from db.session import reading
from scheduler.cli.exits import Exit
from tests.chaos.checker import Findings
from tests.chaos.world import World
from tests.provider.bill import unmatched

Lines = Sequence[Mapping[str, Any]]
DAYS = timedelta(days=2)  # to either side of now: all that a run has bought lies well inside


def breaches(engine: Engine, lines: Lines) -> list[str]:
    """Return a sentence per line of the bill, or call that counts, that does not fit the other side."""
    lines_of = Counter(line["idempotency_key"] for line in lines)
    twice = [f"billed {number} times: {key}" for key, number in lines_of.items() if number > 1]
    return twice + unmatched(lines, engine)


def count(engine: Engine, lines: Lines) -> dict[str, float]:
    """Return what was bought, what of it is unknown, and which pictures were paid for twice."""
    calls = _calls(engine)
    billed = Counter(line["idempotency_key"] for line in lines)
    unknown = [call for call in calls if call.state == "unknown"]
    known = sum(call.cost_actual for call in calls if call.state == "charged")
    most = sum(call.cost_max for call in unknown)
    purchases = defaultdict(list)
    for call in calls:
        purchases[call.job_id, call.idx] += [call] * billed[call.idem_key]
    doubles = [paid for paid in purchases.values() if len(paid) > 1]
    return {
        "bill_lines": len(lines),
        "unrecorded": len(breaches(engine, lines)),
        "calls": len(calls),
        "unknown_calls": len(unknown),
        "unknown_billed": sum(billed[call.idem_key] > 0 for call in unknown),
        "unknown_micro_usd": most,
        "paid_micro_usd": known + most,
        "bought_twice": len(doubles),
        "bought_twice_unknown": sum(any(call.state == "unknown" for call in paid) for paid in doubles),
    }


def reconcile(world: World, lines: Lines, found: Findings) -> None:
    """Type `budget reconcile` with the whole bill, twice; then each call must be as its bill says."""
    assert world.cloud is not None
    world.cloud.bill.touch()
    now = datetime.now(UTC)
    span = [(now - DAYS).strftime("%Y-%m-%d"), (now + DAYS).strftime("%Y-%m-%d")]
    told: list[dict[str, Any]] = []
    for _ in range(2):
        done = world.cli(
            *("budget", "reconcile", str(world.cloud.bill), "--tier", "cloud", "--complete", *span, "--json")
        )
        if done.returncode != Exit.OK:
            found.breaches["I4"].append(f"reconcile ended with {done.returncode}: {done.stderr[-200:]}")
            return
        told.append(json.loads(done.stdout))
    first, again = told
    found.counts |= {
        "reconciled_charged": first["charged"],
        "reconciled_void": first["voided"],
    }
    if again["charged"] or again["voided"] or again["still_unknown"]:
        found.breaches["I4"].append(f"reconciling twice is not as once: {again}"[:200])
    billed: Counter[str] = Counter()
    for line in lines:
        billed[line["idempotency_key"]] += round(line["cost_usd"] * 1_000_000)
    calls = _calls(world.engine)
    found.counts["unreconciled"] = 0
    for call in calls:
        wanted = ("charged", billed[call.idem_key]) if call.idem_key in billed else ("void", None)
        if (call.state, call.cost_actual) != wanted:
            found.counts["unreconciled"] += 1
            found.breaches["I4"].append(
                f"reconciled, call {call.idem_key} is {call.state} {call.cost_actual}, billed {wanted[1]}"
            )
    for violation in check_invariants(world.engine):
        found.breaches[violation.invariant].append(f"reconciled, {violation.detail}")


def _calls(engine: Engine) -> Sequence[Row[Any]]:
    with reading(engine) as connection:
        return run(
            connection,
            "SELECT job_id, idx, idem_key, state, cost_max, cost_actual FROM call ORDER BY id",
        ).all()
