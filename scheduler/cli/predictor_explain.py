"""`predictor explain`: which words of a prompt each metric's expert looks at, and where they pull.

Blue pulls towards the edge tier, orange towards the cloud. It draws with text and colours, or fills
`templates/explain.html.j2`; what a word does is `scheduler.predictor.words`.
"""

import io
import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routet2i.contracts import Rejection
from routet2i.errors import UsageError
from routet2i.settings import Settings
from scheduler.cli.batches import Json
from scheduler.cli.networks import as_network, open_named
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, clean, console, write_line
from scheduler.intake import read_requests
from scheduler.predictor.words import Words, by_words

if TYPE_CHECKING:
    from scheduler.predictor.routet2i import Explanation

EDGE, CLOUD = "rgb(58,130,214)", "rgb(217,108,38)"  # readable on black and on white
LEVELS = ("", "{}", "bold {}", "bold white on {}")  # of a word, from no effect to the strongest
WEAKEST = 0.004  # of PRS: the strongest word of a prompt gets full colour only if it moves PRS more than that
SHOWN = 3  # words per cell
HALF_BAR = 6  # characters on either side of "equal"


def explain(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The prompt, in quotes.")],
    predictor: Annotated[
        str | None,
        typer.Option(
            help="A fitted network: packaged name, folder, or version; default: ROUTET2I_PREDICTOR."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs nothing else.")] = None,
    json: Json = False,
) -> None:
    """Tell why a prompt is predicted as it is: what each metric's expert looks at, and where words pull.

    Blue words pull towards the edge tier, orange ones towards the cloud, and the stronger, the bolder. A
    word's pull is what changes when it is left out; an expert may not look at it and still hear of it from
    its neighbours.

    Example: routet2i predictor explain "five glass spheres behind a red cube" --html why.html
    """
    settings = read_settings(ctx)
    prompt = checked(prompt, settings=settings)
    named = open_named(predictor, settings=settings)
    network = as_network(named)
    if network is None:
        raise UsageError(
            f"predictor {named.name!r} looks at no words, so there is nothing to explain; add --predictor "
            "and a fitted network: pocket, cold_start, or a version of routet2i predictor list"
        )
    explanation = network.explain(prompt)
    told = telling(explanation, prompt=prompt) | {"predictor": network.name, "version": network.version}
    if html is not None:
        write_page(told, html)
    if json:
        write_line(as_json(told))
    else:
        show(told, out=console())
        if html is not None:
            console().print(f"page: {html}", soft_wrap=True)


def checked(prompt: str, *, settings: Settings) -> str:
    """Return the prompt as `submit` would take it; raises UsageError with reason and remedy."""
    line = io.BytesIO(json_text.dumps({"prompt": prompt}).encode())
    (found,) = read_requests(
        line,
        fmt="jsonl",
        max_line_bytes=max(settings.max_line_bytes, len(line.getvalue())),
        max_prompt_chars=settings.max_prompt_chars,
        seed_base=b"",
    )
    if isinstance(found, Rejection):
        raise UsageError(f"{found.reason}; {found.remedy}")
    return found.prompt


def telling(explanation: "Explanation", *, prompt: str) -> dict[str, Any]:
    """Return everything that is told, as JSON values."""
    words = by_words(explanation, prompt=prompt)
    strongest = max(WEAKEST, float(np.abs(words.effect).max(initial=0.0)))
    return {
        "prompt": prompt,
        "prs": explanation.prs,
        "words": [
            {"word": text, "start": span[0], "end": span[1], "effect": float(effect), "strength": strength}
            for text, span, effect in zip(words.texts, words.spans, words.effect, strict=True)
            for strength in [float(abs(effect)) / strongest]
        ],
        "metrics": [
            {
                "metric": metric,
                "weight": float(explanation.weights[row]),
                "d": float(explanation.d[row]),
                "looks_at": _ranked(words, words.kept[row], "share"),
                "pulls": _ranked(words, words.pull[row], "pull"),
            }
            for row, metric in enumerate(explanation.metrics)
        ],
    }


def _ranked(words: Words, values: Any, name: str) -> list[dict[str, Any]]:
    """Return the words that have a value, strongest first; the same word in two places is two words."""
    order = np.argsort(-np.abs(values), kind="stable")
    return [{"word": words.texts[place], name: float(values[place])} for place in order if values[place]]


def verdict(prs: float) -> str:
    """Return a PRS in words."""
    if abs(prs - 0.5) < 0.005:
        return "both tiers are expected to do equally well"
    tier = "edge" if prs > 0.5 else "cloud"
    return f"the {tier} tier's picture is expected to be the better one"


def show(told: dict[str, Any], *, out: Console) -> None:
    """Print the prompt with its words in colour, the verdict, and a table of metrics."""
    out.print(_coloured(told), soft_wrap=True)
    out.print()
    out.print(f"PRS {told['prs']:.3f}: {verdict(told['prs'])} ({told['predictor']} {told['version']})")
    for tier, style, sign in (("edge", EDGE, 1), ("cloud", CLOUD, -1)):
        pulling = sorted(
            (one for one in told["words"] if sign * one["effect"] > 0), key=lambda one: -one["strength"]
        )
        listed = ", ".join(f"{_shown(one['word'])} {one['effect']:+.3f}" for one in pulling[: 2 * SHOWN])
        out.print(Text(f"towards {tier:<5} ", style=style) + Text(listed or "nothing"), soft_wrap=True)
    out.print()
    out.print(_metrics(told))


def _coloured(told: dict[str, Any]) -> Text:
    text = Text(clean(told["prompt"]))  # one character stays one character, so the spans hold
    for one in told["words"]:
        style = LEVELS[min(len(LEVELS) - 1, round(one["strength"] * (len(LEVELS) - 1)))]
        text.stylize(style.format(EDGE if one["effect"] > 0 else CLOUD), one["start"], one["end"])
    return text


def _metrics(told: dict[str, Any]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("metric", no_wrap=True)
    table.add_column("weight", justify="right")
    table.add_column("D", justify="right")
    table.add_column("cloud │ edge".center(2 * HALF_BAR + 1), no_wrap=True)
    selects = any(one["looks_at"] for one in told["metrics"])  # an artefact of one expert selects no words
    if selects:
        table.add_column("its expert looks at", overflow="fold")
    table.add_column("strongest pulls", overflow="fold")
    for one in told["metrics"]:
        pulls = Text(", ").join(
            Text(f"{_shown(word['word'])} {word['pull']:+.2f}", style=EDGE if word["pull"] > 0 else CLOUD)
            for word in one["pulls"][:SHOWN]
        )
        looks = ", ".join(f"{_shown(word['word'])} {word['share']:.0%}" for word in one["looks_at"][:SHOWN])
        table.add_row(
            clean(one["metric"]),
            f"{one['weight']:.2f}",
            f"{one['d']:.3f}",
            bar(one["d"]),
            *([looks] if selects else []),
            pulls or Text("no word moves it", style="dim"),
            style="" if one["weight"] else "dim",
        )
    return table


def _shown(word: str) -> str:
    """Return a word for a list; a sign is put in quotes."""
    return clean(word) if word[0].isalnum() else f"“{clean(word)}”"


def bar(d: float) -> Text:
    """Return D as a bar that grows from the middle, to the left for the cloud, to the right for the edge."""
    length = round(abs(d - 0.5) * 2 * HALF_BAR)
    left, right = (length, 0) if d < 0.5 else (0, length)
    return Text.assemble(
        " " * (HALF_BAR - left), ("█" * left, CLOUD), "│", ("█" * right, EDGE), " " * (HALF_BAR - right)
    )


def write_page(told: dict[str, Any], path: Path) -> None:
    """Write the explanation as one HTML file; everything is escaped. Raises UsageError if it cannot."""
    environment = Environment(
        loader=PackageLoader("scheduler", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("explain.html.j2").render(
        **told, pieces=pieces(told), verdict=verdict(told["prs"]), shown=SHOWN, shown_word=_shown
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another --html") from error


def pieces(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the prompt cut into words and what stands between them, in order."""
    pieces, end = [], 0
    for one in told["words"]:
        pieces += [{"text": told["prompt"][end : one["start"]], "effect": 0.0, "strength": 0.0}]
        pieces += [{"text": one["word"], "effect": one["effect"], "strength": one["strength"]}]
        end = one["end"]
    return [*pieces, {"text": told["prompt"][end:], "effect": 0.0, "strength": 0.0}]
