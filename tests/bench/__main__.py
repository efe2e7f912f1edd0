"""`make bench`: measure speed in one run, as ratios to a named baseline, and write `reports/bench.json`.

The baselines are what a user would otherwise write: one Celery message per prompt, one pipeline call per
prompt. Both sides run on the same servers, in the same processes' number, one after the other.
"""

import argparse
import os
import tempfile
from pathlib import Path

COMMAND = "make bench"


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--jobs", type=int, default=30_000, help="jobs of the queue measurement")
    parser.add_argument("--waiting", type=int, default=100_000, help="jobs of the memory measurement")
    parser.add_argument("--pictures", type=int, default=64, help="pictures per tier and side")
    parser.add_argument("--report", type=Path, default=Path("reports/bench.json"))
    args = parser.parse_args()
    # as every worker does: OpenMP threads that wait must not spin (routet2i.settings.share_cores)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from routet2i.figures import as_table, write_report
    from tests.bench.pictures import picture_figures
    from tests.bench.queue import memory_figure, queue_figures

    figures = []
    with tempfile.TemporaryDirectory(prefix="routet2i-bench-") as folder:
        figures += queue_figures(Path(folder) / "queue", jobs=args.jobs, command=COMMAND)
        figures.append(memory_figure(Path(folder) / "memory", jobs=args.waiting, command=COMMAND))
        figures += picture_figures(Path(folder) / "pictures", count=args.pictures, command=COMMAND)
    write_report(args.report, figures)
    print(as_table(figures))


if __name__ == "__main__":
    main()
