"""`predictor score`: what a predictor says of a file of prompts; nothing is drawn, nothing is written to SQL.

It reads, asks for a few hundred prompts at a time, and prints; what is said is the predictor's.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Literal

import typer

from scheduler.cli.networks import as_network, open_named
from scheduler.cli.prompt_lines import PromptLines
from scheduler.cli.results import output_stream
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, write_csv
from scheduler.predictor.interface import Predictor

BATCH = 256  # prompts asked about at once: the encoder sorts them by length, and little of it is padding

Form = Literal["csv", "json", "jsonl"]
Row = dict[str, str | float]
Ask = Callable[[Sequence[str]], list[Row]]


def score(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or text file; - reads standard input.")],
    predictor: Annotated[
        str | None,
        typer.Option(help="Packaged name, rule, folder, or version of `list`; default: ROUTET2I_PREDICTOR."),
    ] = None,
    fmt: Annotated[
        Form, typer.Option("--format", help="csv, one JSON array, or a JSON object a line.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="Write to this file instead of standard output.")
    ] = None,
) -> None:
    """Print what is predicted for each prompt: PRS, then D of each metric, then scores of each tier.

    PRS and D are 1 where the edge tier's picture is expected to be better, 0 where the cloud's is. Rules know
    the PRS only. Bad lines go to standard error, and the exit code is then 7.

    Example: routet2i predictor score prompts.jsonl --predictor cold_start --format csv
    """
    settings = read_settings(ctx)
    columns, ask = forecaster(open_named(predictor, settings=settings))
    lines = PromptLines(file, settings=settings)
    prompts = (one.prompt for one in lines)
    with output_stream(output) as stream:
        WRITERS[fmt](_rows(prompts, ask=ask), columns, stream)
    lines.exit_if_rejected()


def forecaster(predictor: Predictor) -> tuple[list[str], Ask]:
    """Return the names of a predictor's columns, and what makes rows of prompts."""
    network = as_network(predictor)
    if network is None:

        def ask_rule(prompts: Sequence[str]) -> list[Row]:
            predicted = predictor.predict(prompts)
            return [
                {"prompt": prompt, "prs": one.prs} for prompt, one in zip(prompts, predicted, strict=True)
            ]

        return ["prompt", "prs"], ask_rule

    def ask(prompts: Sequence[str]) -> list[Row]:
        forecast = network.forecast(prompts)
        parts = [("d", forecast.d), *forecast.scores.items()]
        return [
            {
                "prompt": prompt,
                "prs": float(forecast.prs[row]),
                **{
                    f"{part}_{metric}": float(values[row, column])
                    for part, values in parts
                    for column, metric in enumerate(forecast.metrics)
                },
            }
            for row, prompt in enumerate(prompts)
        ]

    names = [f"{part}_{metric}" for part in ("d", *network.tiers) for metric in network.trained.metrics]
    return ["prompt", "prs", *names], ask


def _rows(prompts: Iterator[str], *, ask: Ask) -> Iterator[Row]:
    while batch := list(islice(prompts, BATCH)):
        yield from ask(batch)


def _write_csv(rows: Iterator[Row], columns: Sequence[str], stream: IO[str]) -> None:
    write_csv(rows, columns=columns, stream=stream)


def _write_json(rows: Iterator[Row], _: Sequence[str], stream: IO[str]) -> None:
    before = "[\n"
    for row in rows:
        stream.write(before + as_json(row, lines=True))
        before = ",\n"
    stream.write("\n]\n" if before == ",\n" else "[]\n")


def _write_jsonl(rows: Iterator[Row], _: Sequence[str], stream: IO[str]) -> None:
    for row in rows:
        stream.write(as_json(row, lines=True) + "\n")


WRITERS: dict[Form, Callable[[Iterator[Row], Sequence[str], IO[str]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_jsonl,
}
