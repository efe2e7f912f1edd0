"""`doctor`: print what `scheduler.doctor` finds.

It knows the form of the answer only.
"""

from itertools import chain
from typing import Annotated

import typer

from scheduler.cli.batches import Json
from scheduler.cli.exits import Exit
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, console, print_finding, write_line
from scheduler.deep import examine_deeply
from scheduler.doctor import examine
from scheduler.findings import Level


def doctor(
    ctx: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every row and every picture, too; takes a while.")
    ] = False,
    json: Json = False,
) -> None:
    """Check every part and say what to type; the exit code is 0 only if nothing failed.

    With --deep also every promise of the database, and that each picture is there and unharmed.

    Example: routet2i doctor
    """
    settings = read_settings(ctx)
    findings = []
    out = console()
    for finding in chain(examine(settings), examine_deeply(settings) if deep else ()):
        findings.append(finding)
        if json:
            continue
        print_finding(finding, out=out)
    if json:
        write_line(as_json(findings))
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(Exit.UNEXPECTED)
