"""Verdicts as a table for a terminal and for the documents' figures.

It knows rows and numbers, not how any came about.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from routet2i.figures import Figure
from scheduler.service import TTL_SECONDS
from tests.chaos.campaign import Verdict, recoveries
from tests.chaos.faults import FAULTS, Fault, missing
from tests.chaos.world import Shape

PURCHASES = (  # counted where the cloud is paid
    *("bill_lines", "calls", "unknown_calls", "unknown_billed", "unknown_micro_usd", "paid_micro_usd"),
    *("bought_twice", "bought_twice_unknown", "failed_by_provider", "unreconciled", "unrecorded"),
    *("reconciled_charged", "reconciled_void"),
)


def allowed(fault: Fault, shape: Shape) -> float:
    """Return how long recovery may take, seconds: the lease that must end first, and what the fault adds."""
    lease = {"": 0.0, "worker": shape.lease_seconds, "leader": TTL_SECONDS}[fault.lease]
    return lease + fault.within


def as_text(verdicts: Sequence[Verdict], shape: Shape) -> str:
    """Return the table at the end: one line per fault, then the sums."""
    alone, disturbed = recoveries(verdicts), recoveries(verdicts, disturbed=True)
    lines = [
        f"{'fault':6}{'strikes':>8}{'alone':>7}{'p50 s':>8}{'max s':>8}{'allowed':>9}{'disturbed':>11}  what"
    ]
    for fault in FAULTS:
        struck = sum(verdict.strikes.get(fault.id, 0) for verdict in verdicts)
        found, other = alone.get(fault.id, []), disturbed.get(fault.id, [])
        why = "" if struck else missing(fault, shape) or ""
        times = f"{median(found):8.2f}{max(found):8.2f}" if found else f"{'':16}"
        told = f"{fault.sentence}" + (f" (not struck: {why})" if why else "")
        most = f"{max(other):11.2f}" if other else f"{'':11}"
        lines.append(f"{fault.id:6}{struck:8}{len(found):7}{times}{allowed(fault, shape):9.1f}{most}  {told}")
    lines.append("")
    for name, value in sums(verdicts).items():
        lines.append(f"{name:24}{value:12.5g}")
    for verdict in verdicts:
        for invariant, found_breaches in verdict.breaches.items():
            lines += [f"seed {verdict.seed} BROKEN {invariant}: {one}" for one in found_breaches]
    return "\n".join(lines)


def sums(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return what all runs counted together."""
    added = ("jobs", "succeeded", "failed", "cancelled", "lost", "doubled", "overspend_micro_usd", "poison")
    added += PURCHASES if any(verdict.cloud != "own" for verdict in verdicts) else ()
    added += ("budgets_that_bound", "drawn", "recorded", "orphan_pictures", "windows", "restarts")
    total = {name: sum(verdict.counts.get(name, 0) for verdict in verdicts) for name in added}
    total["faults"] = sum(sum(verdict.strikes.values()) for verdict in verdicts)
    total["runs"] = len(verdicts)
    total["wasted_share"] = max(0, total["drawn"] - total["recorded"]) / max(1, total["drawn"])
    total["poison_deaths_max"] = max((v.counts.get("poison_deaths_max", 0) for v in verdicts), default=0)
    total["broken"] = sum(not verdict.holds for verdict in verdicts)
    return total


def figures(verdicts: Sequence[Verdict], shape: Shape, *, part: str, command: str) -> Iterator[Figure]:
    """Yield the rows of a report for runs of one kind."""
    total = sums(verdicts)
    told = f"{total['runs']:.0f} runs, {total['jobs']:,.0f} jobs, {total['faults']:.0f} faults"

    def row(
        figure: str,
        value: float,
        unit: str,
        *,
        target: str = "",
        holds: bool | None = None,
    ) -> Figure:
        return Figure(
            figure=f"{part}: {figure}",
            value=value,
            unit=unit,
            baseline="",
            target=target,
            holds=holds,
            command=command,
        )

    for name, unit in (
        ("lost", f"jobs ({told})"),
        ("doubled", "outcomes"),
        ("overspend_micro_usd", "micro-dollars"),
    ):
        yield row(name.replace("_micro_usd", ""), total[name], unit, target="0", holds=total[name] == 0)
    yield row("runs with a broken promise", total["broken"], "runs", target="0", holds=total["broken"] == 0)
    yield row(
        "poison jobs isolated",
        total["poison"],
        f"jobs, most workers that one killed: {total['poison_deaths_max']:.0f}",
        target=f"at most {shape.max_deaths} deaths",
        holds=total["poison_deaths_max"] <= shape.max_deaths,
    )
    yield row(
        "wasted work",
        round(100 * total["wasted_share"], 3),
        f"% of {total['drawn']:.0f} pictures drawn",
        target="under 3",
        holds=total["wasted_share"] < 0.03,
    )
    if "bill_lines" in total:
        lines = f"of {total['bill_lines']:.0f} lines of the provider's bill"
        yield row(
            "without a recorded call",
            total["unrecorded"],
            f"or otherwise wrong, {lines}",
            target="0",
            holds=total["unrecorded"] == 0,
        )
        yield row(
            "unknown cost",
            round(100 * total["unknown_micro_usd"] / max(1, total["paid_micro_usd"]), 2),
            f"% of what was paid at most, in {total['unknown_calls']:.0f} of {total['calls']:.0f} calls; "
            f"{total['unknown_billed']:.0f} of them were billed",
        )
        yield row(
            "pictures bought twice",
            total["bought_twice"],
            f"pictures, {total['bought_twice_unknown']:.0f} with a purchase recorded as unknown",
        )
        yield row(
            "not as billed after `budget reconcile`",
            total["unreconciled"],
            f"calls; {total['reconciled_charged']:.0f} unknown ones became charged, "
            f"{total['reconciled_void']:.0f} void",
            target="0",
            holds=total["unreconciled"] == 0,
        )
        yield row(
            "jobs that the provider failed", total["failed_by_provider"], "jobs, declined, unusable or lost"
        )
    alone, disturbed = recoveries(verdicts), recoveries(verdicts, disturbed=True)
    for fault in FAULTS:
        found, other = alone.get(fault.id, []), disturbed.get(fault.id, [])
        name = f"recovery, {fault.id} {fault.sentence}"
        amid = f"{max(other):.2f} amid another fault, {len(other)} times" if other else ""
        if found:
            yield row(
                name,
                round(max(found), 2),
                f"s at most, p50 {median(found):.2f} s of {len(found)}" + (f"; {amid}" if amid else ""),
                target=f"within {allowed(fault, shape):g}",
                holds=max(found) <= allowed(fault, shape),
            )
        elif other:
            yield row(
                name,
                round(max(other), 2),
                f"s at most, p50 {median(other):.2f} s of {len(other)}, each amid another fault",
            )
