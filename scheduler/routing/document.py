"""The page `docs/routing.md`: blocks that are made from the reports, between words that people write.

A block stands between `<!-- routing: NAME -->` and `<!-- end of routing -->`; everything else stays as it is.
It knows the page's blocks; it measures nothing and draws nothing.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from scheduler.routing import drawn, pocket, rated, speed, unseen
from scheduler.routing.judging import LEARNING
from scheduler.routing.published import HEADING, PUBLISHED
from scheduler.routing.results import Results
from scheduler.routing.tables import cell, curve, details, differences, headline, sizes, tiers

MARKED = re.compile(r"(<!-- routing: (\w+) -->\n).*?(<!-- end of routing -->)", re.DOTALL)
TARGETS = "<!-- figures: reports/routing.json -->\n<!-- end of figures -->"  # made by `routet2i.figures`
NOT_MEASURED = "Not measured here."
COMMANDS = {
    pocket.PART: "make routing",
    rated.PART: "make routing DATA=FOLDER",
    unseen.PART: "make routing DATA=FOLDER",
    drawn.PART: "make routing",
    speed.PART: "make routing",
}


def refreshed(text: str, *, results: Results) -> str:
    """Return a page with its marked blocks made anew.

    Raises:
        KeyError: the page names a block that is not known.
    """
    return MARKED.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](results)}\n{match[3]}", text)


def started() -> str:
    """Return a page with every block, for a root that has none."""
    blocks = [f"<!-- routing: {name} -->\n<!-- end of routing -->" for name in BLOCKS]
    return "\n\n".join(["# Routing", TARGETS, *blocks]) + "\n"


def slug(text: str) -> str:
    """Return a text as part of a file's name: lower case, words joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9.]+", text.lower()))


def picture(name: str) -> Path:
    """Return where a picture of the page lies, from the root."""
    return Path("docs") / f"routing-{slug(name)}.png"


def _section(results: Results, *, part: str) -> str:
    """Return all tables of a part: per experiment and judge."""
    pieces: list[str] = []
    shown: set[str] = set()
    for data in results.of(part=part).names("data"):
        own = results.of(part=part, data=data)
        name = data.rpartition(", ")[0]
        if name not in shown:
            shown.add(name)
            pieces.append(_image(name))
        for judge in [name for name in own.names("judge") if name != LEARNING]:
            one = own.of(judge=judge)
            pieces.append(f"### {data}, judged by {judge}\n\n{sizes(one)} {tiers(one)}\n\n{headline(one)}")
            if one.one(figure="brier") is not None:  # an experiment that is shown in full
                pieces.append(
                    f"<details><summary>More figures</summary>\n\n{details(one)}\n\n"
                    f"Paired differences\n\n{differences(one)}\n\n</details>"
                )
    if any(row.figure == "brier" for row in results.of(part=part).rows):
        pieces.append(_image(f"reliability {part}"))
    return "\n\n".join([*pieces, f"Printed by `{COMMANDS[part]}`."]) if pieces else NOT_MEASURED


def _image(name: str) -> str:
    return f"![{name}]({picture(name).name})"


def _without_variants(results: Results) -> Results:
    return Results([row for row in results.rows if pocket.FEWER not in row.data])


def _ablations(results: Results) -> str:
    own = Results([row for row in results.rows if pocket.FEWER in row.data])
    if not own.rows:
        return NOT_MEASURED
    pieces = (
        f"{own.rows[0].data}: {sizes(own)}",
        headline(own),
        differences(own),
        f"Printed by `{COMMANDS[pocket.PART]}`.",
    )
    return "\n\n".join(pieces)


def _learning(results: Results) -> str:
    own = results.of(judge=LEARNING)
    pieces = [f"{data}\n\n{curve(own.of(data=data))}" for data in own.names("data")]
    pieces = [_image(LEARNING), *pieces] if pieces else []
    return "\n\n".join([*pieces, f"Printed by `{COMMANDS[rated.PART]}`."]) if pieces else NOT_MEASURED


def _speed(results: Results) -> str:
    own = results.of(part=speed.PART)
    lines = ["| predictor | what | form | value |", "|---|---|---|---|"]
    lines += [f"| {row.data}, {row.judge} | {row.figure} | {row.router} | {cell(row)} |" for row in own.rows]
    return "\n".join([*lines, "", f"Printed by `{COMMANDS[speed.PART]}`."]) if own.rows else NOT_MEASURED


BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "pocket": lambda results: _section(_without_variants(results), part=pocket.PART),
    "ablations": _ablations,
    "rated": lambda results: _section(results, part=rated.PART),
    "unseen": lambda results: _section(results, part=unseen.PART),
    "learning": _learning,
    "drawn": lambda results: _section(results, part=drawn.PART),
    "speed": _speed,
    "paper": lambda _: f"**{HEADING}**\n\n{PUBLISHED}",
}
