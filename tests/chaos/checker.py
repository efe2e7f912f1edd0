"""What must hold after every fault: invariants in SQL, the picture files, the poison, the money, the bill.

It looks at a stack that has come to rest and answers with one list of breaches per invariant, beside what was
counted. It does not know which faults there were. `bill` holds a provider's own against it (I4).
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from sqlalchemy import Connection, Engine, text

from db.dialects import run
from db.invariants import check_invariants
from db.session import reading
from routet2i.images import ImageStore
from tests.chaos.load import Promised

SHOWN = 5  # breaches told per invariant

Bill = Callable[
    [Engine], Sequence[str]
]  # returns a sentence per line of a bill that no recorded call matches


@dataclass(kw_only=True)
class Findings:
    """What was found."""

    breaches: dict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # invariant -> sentences
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return not any(self.breaches.values())

    def shown(self) -> dict[str, list[str]]:
        """Return the breaches, a few of each."""
        return {
            name: [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
            for name, found in sorted(self.breaches.items())
            if found
        }


def check(
    engine: Engine,
    *,
    pictures: Path,
    promised: Promised,
    max_deaths: int,
    drawn: int,
    bill: Bill | None = None,
) -> Findings:
    """Hold a database and a picture folder against what was promised.

    Args:
        promised: what submitters were told, and which jobs are poison.
        drawn: pictures that all workers have drawn, recorded or not.
    """
    found = Findings()
    for violation in check_invariants(engine):
        found.breaches[violation.invariant].append(violation.detail)
    with reading(engine) as connection:
        _jobs(connection, found, promised)
        _poison(connection, found, promised, max_deaths=max_deaths)
        _once(connection, found)
        _rest(connection, found)
        _equal(connection, found)
        recorded = _pictures(connection, found, ImageStore(root=pictures))
    found.breaches["I2"] += promised.errors
    if bill is not None:
        found.breaches["I4"] += bill(engine)
    found.counts |= {
        "drawn": drawn,
        "recorded": recorded,
        "wasted_share": round(max(0, drawn - recorded) / drawn, 5) if drawn else 0.0,
        "temporary_left": sum(1 for _ in pictures.glob("*/*/*.tmp")),
    }
    return found


def _jobs(connection: Connection, found: Findings, promised: Promised) -> None:
    """I1, I2: each accepted job is there and has its one outcome; no healthy job failed."""
    states: Mapping[str, int] = {
        row.state: row.jobs
        for row in run(
            connection,
            """SELECT COALESCE(o.state, 'none') AS state, count(*) AS jobs
                FROM job j LEFT JOIN outcome o ON o.job_id = j.id GROUP BY 1""",
        )
    }
    found.counts |= {"jobs": sum(states.values()), "lost": states.get("none", 0)}
    found.counts |= {state: states.get(state, 0) for state in ("succeeded", "failed", "cancelled")}
    if states.get("none"):
        found.breaches["I1"] += [f"{states['none']} jobs have no outcome", _stuck(connection)]
    there = {
        row.id: row.n_accepted
        for row in run(connection, "SELECT id, n_accepted FROM batch WHERE client <> 'shadow'")
    }
    for batch, jobs in promised.batches.items():
        if there.get(batch) != jobs:
            found.breaches["I2"].append(
                f"batch {batch} was accepted with {jobs} jobs and has {there.get(batch)}"
            )
    for row in run(
        connection,
        """SELECT j.custom_id, j.batch_id, o.state, o.error_class, o.error,
                  (SELECT count(*) FROM call c WHERE c.job_id = j.id AND c.state <> 'void') AS paid,
                  (SELECT count(*) FROM call c WHERE c.job_id = j.id AND c.error IS NOT NULL
                    AND c.image_sha256 IS NULL) AS complained
            FROM job j JOIN outcome o ON o.job_id = j.id WHERE o.state <> 'succeeded'""",
    ):
        if row.state == "cancelled" and row.batch_id in promised.may_be_cancelled:
            continue
        if row.state == "failed" and "-poison-" in row.custom_id:
            continue
        excused = {"UnknownCharge": row.paid, "GenerationFailed": row.complained}
        if row.state == "failed" and excused.get(row.error_class):
            found.counts["failed_by_provider"] = found.counts.get("failed_by_provider", 0) + 1
            continue
        found.breaches["healthy"].append(
            f"job {row.custom_id} {row.state}: {row.error_class}: {row.error}"[:200]
        )


def _stuck(connection: Connection) -> str:
    """Say where the first jobs without an outcome stand, and who could have drawn them."""
    jobs = run(
        connection,
        """SELECT j.custom_id, j.state, m.tier, m.state AS microbatch, m.deliveries, m.deaths, m.fence,
                {NOW} - m.sent_at_ms AS sent_ago, m.lease_until_ms - {NOW} AS leased
            FROM job j LEFT JOIN microbatch m ON m.id = j.microbatch_id
            WHERE NOT EXISTS (SELECT 1 FROM outcome o WHERE o.job_id = j.id) ORDER BY j.id LIMIT 5""",
    )
    workers = run(
        connection, "SELECT id, state, {NOW} - heartbeat_ms AS silent, fault FROM worker ORDER BY id"
    )
    told = [
        f"{row.custom_id} is {row.state}, its microbatch of {row.tier} {row.microbatch} after "
        f"{row.deliveries} messages, {row.deaths} deaths, {row.fence} claims, sent {row.sent_ago} ms ago, "
        f"leased for {row.leased} ms more"
        for row in jobs
    ]
    told += [f"{row.id} {row.state}, heard {row.silent} ms ago, fault {row.fault}" for row in workers]
    return "; ".join(told)


def _poison(connection: Connection, found: Findings, promised: Promised, *, max_deaths: int) -> None:
    """Each planted poison job failed by itself and killed no more workers than declared."""
    deaths: list[int] = []
    for row in run(
        connection,
        """SELECT j.custom_id, j.batch_id, o.state, o.error_class, m.deaths,
                  (SELECT count(*) FROM attempt a WHERE a.job_id = j.id) AS attempts
            FROM job j LEFT JOIN outcome o ON o.job_id = j.id LEFT JOIN microbatch m ON m.id = o.microbatch_id
            WHERE j.custom_id LIKE '%-poison-%'""",
    ):
        if row.state == "cancelled" and row.batch_id in promised.may_be_cancelled:
            continue
        deaths.append(row.deaths or 0)
        told = f"poison {row.custom_id}: {row.state} {row.error_class} after {row.deaths} deaths"
        if "recursion" in row.custom_id:
            if row.state != "failed":
                found.breaches["poison"].append(told)
        elif row.state != "failed" or row.error_class != "poison" or row.deaths > max_deaths:
            found.breaches["poison"].append(told)
        found.counts["poison_attempts_max"] = max(found.counts.get("poison_attempts_max", 0), row.attempts)
    found.counts["poison"] = len(deaths)
    found.counts["poison_deaths_max"] = max(deaths, default=0)


def _once(connection: Connection, found: Findings) -> None:
    """I1, I3: nothing was settled twice and nothing spent beyond a limit."""
    doubled = connection.scalar(
        text(
            """SELECT count(*) FROM (SELECT event_id, budget_id, period FROM ledger WHERE kind = 'settle'
                GROUP BY event_id, budget_id, period HAVING count(*) > 1) AS twice"""
        )
    )
    many = connection.scalar(
        text(
            """SELECT count(*) FROM (
                SELECT job_id FROM outcome GROUP BY job_id HAVING count(*) > 1) AS twice"""
        )
    )
    over = connection.scalar(
        text("SELECT COALESCE(sum(spent + reserved - lim), 0) FROM budget WHERE spent + reserved > lim")
    )
    bound = connection.scalar(
        text(
            """SELECT count(*) FROM budget WHERE id LIKE 'batch:%' AND lim IS NOT NULL
                AND lim - spent < 56000"""  # not one more cloud picture instead of an edge one
        )
    )
    found.counts |= {
        "doubled": int(doubled or 0) + int(many or 0),
        "overspend_micro_usd": int(over or 0),
        "budgets_that_bound": int(bound or 0),
    }
    if doubled or many:
        found.breaches["I1"].append(f"{doubled} settlements and {many} outcomes are doubled")


def _rest(connection: Connection, found: Findings) -> None:
    """I7: nobody holds a lease and nothing is reserved; terms of leaders never went back."""
    live = connection.scalar(text("SELECT count(*) FROM microbatch WHERE state = 'claimed'"))
    reserved = connection.scalar(text("SELECT COALESCE(sum(reserved), 0) FROM budget"))
    if live:
        found.breaches["I7"].append(f"{live} microbatches are still claimed")
    if reserved:
        found.breaches["I7"].append(f"{reserved} micro-dollars are still reserved")
    terms = [
        row.leader_term
        for row in run(connection, "SELECT leader_term FROM decision_window ORDER BY committed_ms, id")
    ]
    if terms != sorted(terms):
        found.breaches["I1"].append(f"the leader's terms went back: {terms}"[:200])
    found.counts |= {"windows": len(terms), "leader_terms": len(set(terms))}


def _equal(connection: Connection, found: Findings) -> None:
    """I10: equal requests of one tier have equal pictures."""
    wrong = connection.scalar(
        text(
            """SELECT count(*) FROM (SELECT j.prompt FROM picture p JOIN job j ON j.id = p.job_id
                JOIN outcome o ON o.job_id = j.id
                GROUP BY j.prompt, p.seed, o.tier, o.model_revision, p.width, p.height
                HAVING count(DISTINCT p.sha256) > 1) AS differing"""
        )
    )
    if wrong:
        found.breaches["I10"].append(f"{wrong} equal requests have different pictures")


def _pictures(connection: Connection, found: Findings, store: ImageStore) -> int:
    """I5: each recorded picture is there, hashes to its name, decodes, has its size; return their number."""
    recorded = 0
    seen: set[str] = set()
    for row in run(connection, "SELECT sha256, width, height FROM picture"):
        recorded += 1
        if row.sha256 in seen:
            continue
        seen.add(row.sha256)
        if wrong := _wrong(store.path_of(row.sha256), row.sha256, (row.width, row.height)):
            found.breaches["I5"].append(f"picture {row.sha256[:12]} {wrong}")
    on_disk = {path.stem for path in store.root.glob("*/*/*.png")}
    found.counts["orphan_pictures"] = len(on_disk - seen)
    return recorded


def _wrong(path: Path, sha256: str, size: tuple[int, int]) -> str | None:
    try:
        content = path.read_bytes()
    except OSError:
        return "is missing"
    if hashlib.sha256(content).hexdigest() != sha256:
        return "does not hash to its name"
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return None if picture.size == size else f"is {picture.size}, not {size}"
    except OSError:
        return "does not decode"
