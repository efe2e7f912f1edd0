"""`doctor`: print what `scheduler.doctor` finds.

It knows the form of the answer only.
"""

import typer
from rich.text import Text

from scheduler.cli.batches import Json
from scheduler.cli.exits import Exit
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, console, write_line
from scheduler.doctor import Level, examine

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check every part and say what to type; the exit code is 0 only if nothing failed.

    Example: routet2i doctor
    """
    findings = []
    out = console()
    for finding in examine(read_settings(ctx)):
        findings.append(finding)
        if json:
            continue
        line = Text(f"{finding.level.value:<5}", style=STYLES[finding.level])
        line.append(f"{finding.name:<10} {finding.detail}", style="default")
        if finding.remedy:
            line.append(f"\n{'':<15} type: {finding.remedy}", style="bold default")
        out.print(line, soft_wrap=True)
    if json:
        write_line(as_json(findings))
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(Exit.UNEXPECTED)
