"""`budget show|set|ledger`, and the group: what may be spent, by whom and until when; limits are set here.

It parses and prints; policies and periods are `db.budgets`, reading is `db.balances`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from db import balances
from db.balances import Balance
from routet2i.contracts import NAME, BudgetPolicy, Carry, Scope
from routet2i.errors import UsageError
from routet2i.periods import SPANS, TOTAL
from scheduler.cli.batches import Json, micro_usd
from scheduler.cli.people import who
from scheduler.cli.reconcile import reconcile, resume
from scheduler.cli.results import output_stream
from scheduler.cli.session import open_repository, own_purse, read_settings, typed
from scheduler.cli.show import as_json, console, money, table, write_csv, write_line

LIFTED = "none"  # a limit that is none
SHOWN = ("scope", "name", "span", "limit", "carried in", "reserved", "spent", "free", "resets at (UTC)")
LINE = ("at", "kind", "budget", "period", "from", "to", "usd", "event", "who: why")

budget = typer.Typer(no_args_is_help=True, help="What may be spent: limits, what is left, every movement.")

budget.command()(reconcile)
budget.command()(resume)

ScopeArgument = Annotated[
    Scope | None, typer.Argument(help="batch, client or deployment; none: all.", show_default=False)
]
NameArgument = Annotated[
    str | None,
    typer.Argument(help="A batch's id (or 'last'), a client, a deployment; none: all.", show_default=False),
]


@budget.command()
def show(
    ctx: typer.Context, scope: ScopeArgument = None, name: NameArgument = None, json: Json = False
) -> None:
    """Show every limit in force, what is reserved and spent of it, and when it begins anew.

    Example: routet2i budget show
    Example: routet2i budget show batch last
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    if name is not None and scope is Scope.BATCH:
        name = repository.resolve_batch(name)
    found = balances.balances(repository.engine, purse=own_purse(settings), scope=scope, name=name)
    if json:
        write_line(as_json(found))
        return
    out = console()
    for tier, overrun in repository.paused_tiers().items():
        out.print(
            f"tier {tier} is paused: it billed {money(overrun)} more than its prices; mend them in the tier "
            f"file, then type: {typed(ctx)} budget resume {tier}",
            soft_wrap=True,
        )
    lost, most = repository.unknown_calls()
    if lost:
        out.print(
            f"{lost} paid calls may have cost {money(most)}, counted as spent; find out with the provider's "
            f"usage export: {typed(ctx)} budget reconcile FILE",
            soft_wrap=True,
        )
    if not found:
        out.print(f"no limit is set; type: {typed(ctx)} budget set deployment --limit 10 --per day")
        return
    out.print(table(None, columns=SHOWN, rows=[_row(one) for one in found]))
    for one in found:
        if one.overrun_micro_usd:
            out.print(
                f"{one.scope} {one.name}: bills exceeded reservations by {money(one.overrun_micro_usd)}",
                soft_wrap=True,
            )


def _row(one: Balance) -> tuple[Any, ...]:
    return (
        one.scope.value,
        one.name,
        one.span,
        money(one.limit_micro_usd),
        money(one.carried_micro_usd),
        money(one.reserved_micro_usd),
        money(one.spent_micro_usd),
        money(one.free_micro_usd),
        "never" if one.resets_at is None else f"{one.resets_at:%Y-%m-%d %H:%M:%S}",
    )


@budget.command("set")
def set_(
    ctx: typer.Context,
    scope: Annotated[Scope, typer.Argument(help="Whose money: batch, client or deployment.")],
    limit: Annotated[str, typer.Option(metavar="USD", help="Of one period; 'none' lifts the limit.")],
    name: Annotated[
        str | None,
        typer.Argument(
            help="A batch's id (or 'last'), a client; a deployment: this one.", show_default=False
        ),
    ] = None,
    per: Annotated[
        Literal["minute", "hour", "day", "month", "total"], typer.Option(help="The span it covers, by UTC.")
    ] = "total",
    carry: Annotated[
        Carry, typer.Option(help="What the next period takes over of the money that is left.")
    ] = Carry.NONE,
    cap: Annotated[
        str | None, typer.Option(metavar="USD", help="Most that is carried over; with --carry capped.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept with the limit.")] = "",
) -> None:
    """Set, raise, lower or lift a limit, from this moment on; who and why are kept.

    Example: routet2i budget set deployment --limit 10 --per day --carry capped --cap 5
    Example: routet2i budget set client default --limit 2.50 --per hour
    Example: routet2i budget set batch last --limit 4 --reason "twenty more posters"
    """
    settings = read_settings(ctx)
    if (carry is Carry.CAPPED) != (cap is not None):
        raise UsageError("--carry capped and --cap USD go together")
    if per == TOTAL and carry is not Carry.NONE:
        raise UsageError(f"a total has no next period; choose --per {', '.join(SPANS[:-1])} with --carry")
    repository = open_repository(settings)
    if scope is Scope.BATCH:
        name = repository.resolve_batch(name or "last")
    elif name is None:
        if scope is Scope.CLIENT:
            raise UsageError("say which client: routet2i budget set client NAME --limit USD")
        name = settings.deployment
    elif not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} is no name: letters, digits, dot, dash and underscore, at most 64")
    policy = BudgetPolicy(
        scope=scope,
        name=name,
        span=per,
        limit_micro_usd=None if limit == LIFTED else _amount(limit, option="--limit"),
        carry=carry,
        cap_micro_usd=None if cap is None else _amount(cap, option="--cap"),
    )
    account = repository.set_budget(policy, who=who(), reason=reason)
    out = console()
    if account is None:
        out.print(f"{scope} {name} had no limit per {per}; nothing changed", soft_wrap=True)
        return
    out.print(f"{scope} {name}: {money(policy.limit_micro_usd)} per {per}, from now on", soft_wrap=True)
    out.print(f"next: {typed(ctx)} budget show {scope} {name}", soft_wrap=True)


def _amount(text: str, *, option: str) -> int:
    try:
        return micro_usd(text)
    except UsageError:
        raise UsageError(f"{text!r} is no amount in dollars; write e.g. {option} 2.50") from None


@budget.command()
def ledger(
    ctx: typer.Context,
    batch: Annotated[
        str | None, typer.Option(help="Only this batch's: id, its beginning, or 'last'.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="Only from this moment on, UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
        ),
    ] = None,
    fmt: Annotated[
        Literal["table", "jsonl", "csv"], typer.Option("--format", help="jsonl and csv have every column.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="Write to this file instead of standard output.")
    ] = None,
) -> None:
    """Print every movement of money in the order it was written: from where, to where, why.

    Example: routet2i budget ledger --batch last
    Example: routet2i budget ledger --since 2026-01-01 --format csv --output ledger.csv
    """
    repository = open_repository(read_settings(ctx))
    batch_id = None if batch is None else repository.resolve_batch(batch)
    moment = None if since is None else since.replace(tzinfo=UTC)
    with (
        closing(balances.ledger_lines(repository.engine, batch_id=batch_id, since=moment)) as lines,
        output_stream(output) as stream,
    ):
        if fmt == "table":
            _write_table(lines, stream=stream)
        elif fmt == "csv":
            write_csv(lines, columns=balances.COLUMNS, stream=stream)
        else:
            for line in lines:
                stream.write(as_json(line, lines=True) + "\n")


def _write_table(lines: Iterator[Mapping[str, Any]], *, stream: IO[str]) -> None:
    rows = [
        (
            f"{line['at']:%Y-%m-%d %H:%M:%S}",
            line["kind"],
            line["budget_id"],
            line["period"],
            line["from_side"],
            line["to_side"],
            f"${line['usd']:f}",
            line["event_id"],
            None if line["who"] is None else f"{line['who']}: {line['reason']}",
        )
        for line in lines
    ]
    out = console()
    out.file = stream
    out.print(table(None, columns=LINE, rows=rows))
