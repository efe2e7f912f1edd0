"""A picture of what more money buys: predicted quality against budget, with the knee and the chosen plan.

It knows the curve and matplotlib, which is imported when a picture is drawn.
"""

from pathlib import Path

from scheduler.quality_curve import QualityCurve

USD = 1e-6  # dollars per micro-dollar


def draw_curve(curve: QualityCurve, path: Path, *, budget: int, all_cloud: float) -> None:
    """Write a PNG.

    Args:
        budget: micro-dollars of the chosen plan.
        all_cloud: gain of all jobs on the cloud tier; quality is a share of it, where it is above 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unit = all_cloud if all_cloud > 0 else 1.0
    figure = Figure(figsize=(7, 4), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(curve.micro_usd * USD, curve.gain / unit, color="C0")
    knee = curve.knee()
    for label, money, colour in (("knee", int(curve.micro_usd[knee]), "C1"), ("this plan", budget, "C2")):
        axes.plot([money * USD], [curve.gain_at(money) / unit], "o", color=colour, label=label)
    axes.set(
        title="What more money buys",
        xlabel="budget, US$",
        ylabel="share of all-cloud's gain" if all_cloud > 0 else "predicted gain",
    )
    axes.legend()
    figure.savefig(path, dpi=110)
