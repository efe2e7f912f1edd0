"""`budget reconcile|resume`: a provider's own account is held against ours; a paused tier goes on.

It parses and prints; what a bill does to a call is `db.reconciling`.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from db.reconciling import MARGIN_MS, Period, Reconciliation
from db.reconciling import reconcile as hold_against
from routet2i.errors import UsageError
from scheduler.cli.batches import Json
from scheduler.cli.exits import Exit
from scheduler.cli.people import who
from scheduler.cli.session import open_repository, own_purse, read_settings, typed
from scheduler.cli.show import as_json, clean, console, money, write_line
from scheduler.usage_export import read_export

FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
SHOWN = 20  # lines of a list on a terminal; --json has all


def reconcile(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The provider's usage export: .csv or .jsonl.")],
    tier: Annotated[str | None, typer.Option(help="Only calls of this tier; none: of all.")] = None,
    complete: Annotated[
        tuple[datetime, datetime] | None,
        typer.Option(
            metavar="FROM TO",
            help="UTC; the export lacks no call between: unknown ones that it does not name are void.",
            formats=FORMATS,
        ),
    ] = None,
    after_restore: Annotated[
        bool,
        typer.Option(
            "--after-restore",
            help="Charge bills with keys of ours that the restored backup does not know to the deployment.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; tell what it would do.")] = False,
    json: Json = False,
) -> None:
    """Find out from a provider's usage export what unknown calls have cost; nothing is edited.

    Example: routet2i budget reconcile usage.csv --tier cloud --dry-run
    Example: routet2i budget reconcile usage.csv --tier cloud --complete 2026-01-01 2026-02-01
    Example: routet2i budget reconcile usage.csv --tier cloud --after-restore
    """
    settings = read_settings(ctx)
    if tier is not None:
        settings.read_tiers()[tier]
    if complete is not None and tier is None:
        raise UsageError("--complete says what one provider's export lacks: name its --tier, too")
    period = None
    if complete is not None:
        first, last = (int(moment.replace(tzinfo=UTC).timestamp() * 1000) for moment in complete)
        if last <= first:
            raise UsageError("--complete FROM TO: the second moment must be later than the first")
        period = Period(from_ms=first, to_ms=last)
    bills = read_export(file)
    found = hold_against(
        open_repository(settings).engine,
        bills,
        tier=tier,
        complete=period,
        payer=own_purse(settings) if after_restore else None,
        dry_run=dry_run,
    )
    if json:
        write_line(as_json(found))
    else:
        _print(found, dry_run=dry_run, is_complete=period is not None)
    if found.unmatched:
        raise typer.Exit(Exit.REJECTED)


def _print(found: Reconciliation, *, dry_run: bool, is_complete: bool) -> None:
    out = console()
    told = [
        f"{found.lines} bills; {found.agreed} agree with what was charged",
        f"{found.charged} unknown calls were billed, {money(found.charged_micro_usd)}",
        f"{found.voided} unknown calls were not billed, {money(found.voided_micro_usd)} is free again",
        f"{found.still_unknown} calls stay unknown",
    ]
    if found.still_unknown:
        told[-1] += (
            f": they are nearer than {MARGIN_MS // 60_000} minutes to the ends of that time, or outside"
            if is_complete
            else "; if the export lacks nothing, say so: --tier TIER --complete FROM TO"
        )
    if found.overrun_micro_usd:
        told.append(f"bills exceed what was permitted by {money(found.overrun_micro_usd)}: the tier pauses")
    if found.forgotten:
        told.append(
            f"{found.forgotten} bills are of calls that the restored backup does not know: "
            f"{money(found.forgotten_micro_usd)} is charged to the deployment, of which "
            f"{money(found.beyond_limit_micro_usd)} stands beside its limits"
        )
    if found.open:
        told.append(f"{found.open} calls are out; come back when they are not")
    for text in told:
        out.print(text, soft_wrap=True)
    for title, lines in (("charged otherwise", found.differing), ("not ours", found.unmatched)):
        for line in lines[:SHOWN]:
            out.print(f"{title}: {clean(line)}", soft_wrap=True)
        if len(lines) > SHOWN:
            out.print(f"{title}: {len(lines) - SHOWN} more; --json has all")
    if dry_run:
        out.print("nothing was written; without --dry-run it would be", soft_wrap=True)


def resume(
    ctx: typer.Context,
    tier: Annotated[str, typer.Argument(help="A tier that is paused: `budget show` names it.")],
    reason: Annotated[str, typer.Option(help="Kept with your name.")] = "",
) -> None:
    """Accept that a paid tier has billed more than its price, and let it buy again.

    Mend its prices in the tier file first: they are upper bounds.

    Example: routet2i budget resume cloud --reason "price list of May"
    """
    settings = read_settings(ctx)
    settings.read_tiers()[tier]
    out = console()
    if open_repository(settings).resume_tier(tier, who=who(), reason=reason):
        out.print(f"tier {tier} buys again", soft_wrap=True)
        out.print(f"next: {typed(ctx)} budget show", soft_wrap=True)
    else:
        out.print(f"tier {tier} was not paused; nothing changed", soft_wrap=True)
