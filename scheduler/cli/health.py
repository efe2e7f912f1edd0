"""`health`: print what `scheduler.health` finds, as an exit code that Docker and Kubernetes understand.

It knows the form of the answer only, and imports little: a probe starts it every few seconds.
"""

from typing import Annotated

import typer

from scheduler.cli.exits import Exit
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, console, print_finding, write_line
from scheduler.findings import Level
from scheduler.health import Part, examine


def health(
    ctx: typer.Context,
    part: Annotated[
        Part, typer.Argument(help="The whole deployment, or this machine's scheduler or worker.")
    ] = "deployment",
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether it can work, not only live.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say whether the deployment is well, and what to type if not; exit code 0: nothing failed.

    `scheduler` and `worker` are probes for the machine or container that runs one: alive (its loop turns,
    whatever database and broker do) or, with --ready, able to work.

    Example: routet2i health
    Example: routet2i health worker --ready
    """
    findings = list(examine(read_settings(ctx), part=part, ready=ready))
    if json:
        well = all(finding.level is not Level.FAIL for finding in findings)
        write_line(as_json({"part": part, "ready": ready, "well": well, "findings": findings}))
    else:
        out = console()
        for finding in findings:
            print_finding(finding, out=out)
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(Exit.UNEXPECTED)
