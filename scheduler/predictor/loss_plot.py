"""A picture of how a predictor was fitted: losses of every member, epoch by epoch.

It knows the history that `trained` keeps, and matplotlib, which is imported when a picture is drawn.
"""

from collections.abc import Sequence
from pathlib import Path

from scheduler.predictor.trained import Epoch


def draw_losses(history: Sequence[Epoch], path: Path) -> None:
    """Write a PNG: training loss dashed, validation loss solid, the epoch that was kept as a dot.

    Losses are above the least possible one; a member that never improved keeps epoch 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for member in sorted({one.member for one in history}):
        own = [one for one in history if one.member == member]
        colour = f"C{member % 10}"
        axes.plot(
            [one.epoch for one in own],
            [one.validation for one in own],
            color=colour,
            label=f"member {member}, validation",
        )
        trained = [(one.epoch, one.train) for one in own if one.train is not None]
        axes.plot([epoch for epoch, _ in trained], [loss for _, loss in trained], "--", color=colour)
        best = min(own, key=lambda one: one.validation)
        axes.plot([best.epoch], [best.validation], "o", color=colour)
    axes.set(title="Loss (dashed: training; dot: kept)", xlabel="epoch", ylabel="loss above the least")
    if history:
        axes.legend()
    figure.savefig(path, dpi=110)
