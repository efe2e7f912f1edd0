"""The card of a trained predictor: what it was made from, what it is worth, what it must not be used for.

It writes Markdown from values; it measures nothing.
"""

from collections.abc import Mapping
from pathlib import Path

from scheduler.datasets import RatedSet
from scheduler.intervals import Figure
from scheduler.predictor.artefact import NAME
from scheduler.predictor.lesson import Lesson
from scheduler.predictor.loss_plot import draw_losses
from scheduler.predictor.trial import FIGURES, FOLDS, Trial

LOSSES, CARD = "loss.png", "README.md"
HEADINGS: Mapping[str, str] = {
    "oracle_share": "share of oracle gain at 50 %",
    "delta_p": "delta-P at 50 %",
    "aiq_minus_zero": "AIQ - zero",
    "spearman": "Spearman",
    "calibration_error": "calibration error",
}


def write_folder(lesson: Lesson, folder: Path, *, rated: RatedSet, started_from: str | None) -> None:
    """Write the artefact's two files, the picture of its losses and its card."""
    lesson.trained.write(folder)
    draw_losses(lesson.trained.history, folder / LOSSES)
    (folder / CARD).write_text(card(lesson, rated=rated, started_from=started_from), encoding="utf-8")


def card(lesson: Lesson, *, rated: RatedSet, started_from: str | None) -> str:
    """Return the card as Markdown."""
    trained = lesson.trained
    weights = ", ".join(
        f"{_plain(metric)} {weight:.3g}"
        for metric, weight in zip(trained.metrics, trained.weights, strict=True)
    )
    tiers = ", ".join(
        f"{_plain(tier)} ({_plain(trained.models[tier])})" if tier in trained.models else _plain(tier)
        for tier in trained.tiers
    )
    started = f"\n* **Started from:** {started_from}; where that has seen these prompts, the figures flatter."
    return f"""# Predictor {trained.version}
A `{NAME}` predictor: prompts in, predicted superiority of the light tier's picture (PRS) and scores out.

* **Data:** {_plain(rated.name)}, {trained.prompts} prompts in {len(set(rated.groups.tolist()))} groups of \
near-duplicates ({rated.dropped} more lacked a score); hash `{trained.data_sha256[:16]}`.
* **Tiers:** {tiers}; the pair is the first and the last.
* **Metrics and weights:** {weights}.
* **Encoder:** {_plain(trained.encoder)}, frozen; {trained.parameters} trained numbers; seed {trained.seed}.\
{started if started_from else ""}

## What it is worth
On prompts it did not see: {FOLDS} folds of whole groups, everything fitted anew for each; 95 % intervals.

{as_markdown(lesson.trial)}

{control_line(lesson.trial)}

![Losses]({LOSSES})

## What it is not for
Prompts of another kind than the data, and other models than these tiers: the ranking may still hold, the
scores will not. It predicts what the metrics above say, and nothing that they do not see.
"""


def control_line(trial: Trial) -> str:
    """Return in a sentence whether the predictor beats its own choices dealt to other prompts."""
    verdict = "beats" if trial.beats_chance else "DOES NOT BEAT"
    return (
        f"It {verdict} the cost-matched shuffle of its own decisions: gain {trial.control.observed:.4f} "
        f"against {trial.control.shuffled:.4f}, p = {trial.control.p_value:.3f}."
    )


def as_markdown(trial: Trial) -> str:
    """Return the table of figures."""
    lines = [f"| router | {' | '.join(HEADINGS.values())} |", "|---" * (len(HEADINGS) + 1) + "|"]
    for router in trial.routers:
        cells = [cell(trial.figure(router, name)) for name in FIGURES]
        lines.append(f"| {router} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(figure: Figure) -> str:
    """Return a figure with its interval, or why there is none."""
    if figure.value is None:
        return figure.note
    digits = 1 if abs(figure.value) >= 10 else 3
    bounds = [figure.value, figure.low, figure.high]
    value, *interval = (f"{round(one, digits) + 0.0:.{digits}f}" for one in bounds if one is not None)
    return f"{value} [{', '.join(interval)}]" if len(interval) == 2 else value


def _plain(text: str) -> str:
    """Return a stranger's text as one line of Markdown that is nothing but text."""
    return "".join("\\" + one if one in "\\`*_[]<>|#!" else one for one in " ".join(text.split()))
