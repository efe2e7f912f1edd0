"""Verdicts of soaks as text for a terminal and as figures for a document.

It knows rows and numbers, not how any came about.
"""

from collections.abc import Iterator, Sequence

from routet2i.figures import Figure
from tests.soak.growth import MB, Judgement
from tests.soak.soak import LINEAR, Verdict

COMMAND = "make soak"
IN_BYTES = ("rss", "private", "used_memory", "wal_bytes")
TOLD = {"private": "memory of its own", "used_memory": "memory", "wal_bytes": "write-ahead log"}


def as_text(verdict: Verdict) -> str:
    """Return everything that was judged, one line each."""
    lines = [f"{'series':58}{'first':>12}{'last':>12}{'per 10 min':>12}{'allowed':>10}"]
    for one in verdict.judgements:
        mark = "LEAKS" if one.leaks else ("" if one.judged else "too few samples")
        numbers = f"{_shown(one, one.first):>12}{_shown(one, one.last):>12}"
        lines.append(
            f"{one.series:58}{numbers}{_shown(one, one.growth):>12}{_shown(one, one.allowed):>10} {mark}"
        )
        if one.series in verdict.curves:
            _, values = verdict.curves[one.series]
            lines.append("    " + " ".join(_shown(one, value) for value in values[:: 1 + len(values) // 12]))
    lines += [
        "",
        f"{verdict.rate:.1f} jobs/s came; {verdict.done} done in {verdict.seconds:.0f} s, "
        f"{verdict.failed} failed, {verdict.lost} lost",
        f"unfinished {verdict.unfinished[0]:.0f} at first, {verdict.unfinished[1]:.0f} at last; nothing "
        f"unfinished in {verdict.idle:.1%} of the looks; {verdict.held_back:.1%} of the batches held back",
        f"events heard: {verdict.heard}",
        f"temporary files left: {verdict.left}; replaced: {verdict.replaced}; broken: {verdict.breaches}",
    ]
    lines += [
        f"{name}: {each:.0f} bytes a job, {ratio:.3f} times as much in the second half"
        for name, (each, ratio) in verdict.added.items()
    ]
    return "\n".join(lines)


def _shown(one: Judgement, number: float) -> str:
    return f"{number / MB:.2f} MB" if one.series.rsplit(": ", 1)[1] in IN_BYTES else f"{number:.3g}"


def figures(verdict: Verdict, *, part: str) -> Iterator[Figure]:
    """Yield the rows of a report."""

    def row(figure: str, value: float, unit: str, *, target: str = "", holds: bool | None = None) -> Figure:
        return Figure(
            figure=f"{part}: {figure}",
            value=value,
            unit=unit,
            baseline="",
            target=target,
            holds=holds,
            command=COMMAND,
        )

    found = next((step for step in verdict.steps if not step.lasts), None)
    yield row(
        "load",
        round(verdict.done / verdict.seconds, 2),
        f"jobs/s for {verdict.seconds / 60:.0f} min on {verdict.plan.cores} cores ({verdict.done} jobs"
        + (f"; {found.served:.1f} served where {found.rate:.0f} came)" if found else ")"),
    )
    first, last = verdict.unfinished
    yield row(
        "unfinished jobs",
        last,
        f"in the last quarter, {first:.0f} in the first; none in {100 * verdict.idle:.1f} % of the looks; "
        f"{100 * verdict.held_back:.1f} % of the batches held back",
    )
    yield row(
        "failed or lost",
        verdict.failed + verdict.lost,
        "jobs",
        target="0",
        holds=verdict.failed + verdict.lost == 0,
    )
    yield row("processes replaced", len(verdict.replaced), "", target="0", holds=not verdict.replaced)
    yield row("promises broken", len(verdict.breaches), "", target="0", holds=not verdict.breaches)
    yield row("temporary pictures left", verdict.left, "files", target="0", holds=verdict.left == 0)
    for one in verdict.judgements:
        measure = one.series.rsplit(": ", 1)[1]
        if one.judged and measure in TOLD:
            subject = one.series.rsplit(": ", 1)[0]
            yield row(
                f"{subject}, {TOLD[measure]}",
                round(one.growth / MB, 2),
                f"MB per 10 min ({one.first / MB:.1f} MB, then {one.last / MB:.1f} MB)",
                target=f"under {one.allowed / MB:.1f}",
                holds=not one.leaks,
            )
    others = [one for one in verdict.judgements if one.series.rsplit(": ", 1)[1] not in TOLD]
    growing = [one.series for one in others if one.leaks]
    told = f"of {len(others)}" + (f" ({'; '.join(growing)})" if growing else "")
    yield row(
        "growing series of resident memory, open files, threads, connections, keys, temporary files",
        len(growing),
        told,
        target="0",
        holds=not growing,
    )
    for name, (each, ratio) in verdict.added.items():
        yield row(
            f"{name}, per job",
            round(each),
            f"bytes, {ratio:.3f} times as much in the second half",
            target=f"at most {1 + LINEAR:g} times",
            holds=name not in verdict.crooked,
        )
    yield row("Celery events heard", sum(verdict.heard.values()), "", target="", holds=None)


def control(verdict: Verdict, *, name: str, sentence: str, seen: Sequence[Judgement]) -> Figure:
    """Return the row of a leak that was put in."""
    told = "; ".join(f"{one.series} +{_shown(one, one.growth)} per 10 min" for one in seen)
    return Figure(
        figure=f"control: {sentence} ({name})",
        value=len(seen),
        unit=f"series grow ({told})" if seen else "series grow",
        baseline="",
        target="at least 1",
        holds=bool(seen),
        command=COMMAND,
    )
