"""The command line `routet2i`: arguments in, tables or JSON and an exit code out.

The package is split by noun; each command parses, calls and prints, and what happens is elsewhere. Errors of
ours end in one line on standard error and their own exit code (`scheduler.cli.exits`).
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from routet2i import __version__
from routet2i.errors import RouteT2IError, UsageError
from scheduler.cli.session import log_to_stderr
from scheduler.cli.show import clean, console

COMMANDS: Mapping[str, Mapping[str, str]] = {  # panel of the help -> function -> its module
    "Begin": {"demo": "stack", "up": "stack"},
    "Batches": {
        "preview": "preview",
        "submit": "batches",
        "status": "batches",
        "results": "results",
        "audit": "results",
        "sql": "sql",
        "cancel": "batches",
        "retry": "retrying",
        "pause": "pausing",
        "resume": "pausing",
    },
    "Look after it": {
        "health": "health",
        "doctor": "checks",
        "prune": "pruning",
        "backup": "backups",
        "restore": "backups",
    },
    "Parts of `up`, one by one": {"worker": "processes", "scheduler": "processes", "serve": "serve"},
    "Plan": {"simulate": "simulate"},
}
GROUPS: Mapping[str, str] = {  # group -> its module
    "budget": "budgets",
    "client": "clients",
    "key": "keys",
    "webhook": "webhooks",
    "predictor": "predictors",
    "db": "databases",
}
LIVING = "Settings that live in the database"


class OneLineErrors(TyperGroup):
    """Turns this project's errors into one line and an exit code, and shows flags as what they are."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _name_no_type_of_flags(self)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse what is no text; see click's Group."""
        for number, argument in enumerate(args, 1):
            if not argument.isascii() and any("\ud800" <= one <= "\udfff" for one in argument):
                console(stderr=True).print(
                    f"error: argument {number} is not UTF-8; rename the file, or retype it"
                )
                raise typer.Exit(UsageError.exit_code)
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see click's Group."""
        try:
            return super().invoke(ctx)
        except RouteT2IError as error:
            console(stderr=True).print(f"error: {clean(str(error))}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from None


def make_app(only: str | None = None) -> typer.Typer:
    """Return the application.

    Args:
        only: a command or group that is the only one in it, as long as there is one of that name: importing
            what all the others need takes a second.
    """
    known = {name for commands in COMMANDS.values() for name in commands} | GROUPS.keys()
    chosen = {only} & known or known
    app = _empty()
    for panel, commands in COMMANDS.items():
        for name, module in commands.items():
            if name in chosen:
                app.command(rich_help_panel=panel)(_of(module, name))
    for name, module in GROUPS.items():
        if name in chosen:
            app.add_typer(_of(module, name), name=name, rich_help_panel=LIVING)
    return app


def _of(module: str, name: str) -> Any:
    return getattr(import_module(f"scheduler.cli.{module}"), name)


def _empty() -> typer.Typer:
    app = typer.Typer(
        cls=OneLineErrors,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # its frames would show local variables, secrets among them
        rich_markup_mode="rich",
    )
    app.callback()(_start)
    return app


def _name_no_type_of_flags(command: Any) -> None:
    """Show `--json`, not `--json <bool>`, which reads as if a value had to be typed."""
    for option in (*command.params, command.get_help_option(typer.Context(command))):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _name_no_type_of_flags(inner)


def _version(wanted: bool) -> None:
    if wanted:
        console().print(f"routet2i {__version__}")
        raise typer.Exit


def _start(
    home: Annotated[
        Path | None,
        typer.Option(
            help="Where database, pictures and logs lie; beats ROUTET2I_HOME. Default: .routet2i here.",
            metavar="FOLDER",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Batch text-to-image with prompt-aware routing between a light and a large model under a budget.

    Example: routet2i demo
    """
    log_to_stderr()


def main() -> None:
    """Run the command line; the console script."""
    make_app(_command(sys.argv[1:]))()


def _command(arguments: Sequence[str]) -> str | None:
    """Return the first word that is neither an option nor the value of --home."""
    words = iter(arguments)
    for word in words:
        if word == "--home":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None
