"""`python -m tests.pages`: how long a page takes with 100,000 jobs; writes `reports/pages.json`.

Each page is asked for over HTTP as a browser would, by a new process' first visitor and again, on both
databases; the figure is the time until its last byte. `--screens FOLDER` draws some of them instead, on
a phone and a wide screen, light and dark.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2

from db import gallery
from db.gallery import Wish
from db.keys import Role
from routet2i.contracts import JobState
from routet2i.figures import Figure, as_table, write_report
from scheduler.api.callers import COOKIE
from tests.pages.screens import draw, draw_flower
from tests.pages.seeding import Wanted, blank
from tests.pages.site import Site, site
from tests.postgresql import PostgresqlServer

COMMAND = "make pages"
TARGET_MS = 200
TIMES = 15
LARGE = 0.5  # of all jobs: the largest batch


def main() -> None:
    """Read the command line, measure or draw."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs in the database")
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), nargs="+", default=["sqlite", "postgresql"]
    )
    parser.add_argument("--report", type=Path, default=Path("reports/pages.json"))
    parser.add_argument(
        "--screens", type=Path, metavar="FOLDER", help="draw the pages into this folder instead"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routet2i-pages-") as folder:
        if args.screens is not None:
            draw(Path(folder) / "home", into=args.screens)
            draw_flower(Path(folder) / "stack", into=args.screens)
            return
        figures = [
            figure
            for database in args.database
            for figure in measured(Path(folder) / database, database=database, jobs=args.jobs)
        ]
    write_report(args.report, figures)
    print(as_table(figures))


def measured(folder: Path, *, database: str, jobs: int) -> list[Figure]:
    """Return a figure per page."""
    if database == "sqlite":
        with site(folder, wanted(jobs), blank(count=2_000)) as shown:
            return list(figures(shown, database=database, jobs=jobs))
    folder.mkdir(parents=True)
    server = PostgresqlServer(folder / "data", fsync="off")
    try:
        with site(folder / "home", wanted(jobs), blank(count=2_000), url=server.url) as shown:
            return list(figures(shown, database=database, jobs=jobs))
    finally:
        server.close()


def wanted(jobs: int) -> list[Wanted]:
    """Return a large batch, a running one and many of a usual size."""
    large, running = round(jobs * LARGE), round(jobs * 0.05)
    usual = (jobs - large - running) // 20
    batches = [
        Wanted(name="large", jobs=large, shadows=0.03, budget_micro_usd=None, hours_ago=6),
        Wanted(name="running", jobs=running, done=0.6, hours_ago=0.5),
    ]
    return batches + [
        Wanted(
            name=f"usual {number}",
            jobs=usual,
            client=f"client-{number % 4}",
            hours_ago=7 + number,
            shadows=0.03,
        )
        for number in range(20)
    ]


def addresses(shown: Site) -> Mapping[str, str]:
    """Return what is asked for."""
    large, running = shown.batches[:2]
    job = (
        gallery.gallery(shown.repository.engine, Wish(batch_id=large, state=JobState.SUCCEEDED))
        .cards[0]
        .job_id
    )
    return {
        "batches": "/",
        "batches, live part": "/live",
        "the largest batch": f"/batches/{large}",
        "a running batch": f"/batches/{running}",
        "a running batch, live part": f"/batches/{running}/live",
        "the largest batch sorted by a score": f"/batches/{large}?sort=alignment",
        "... by tier, range, text and score": (
            f"/batches/{large}?sort=detail&tier=edge&text=red&metric=color&low=0.4"
        ),
        "... sorted by predicted PRS": f"/batches/{large}?sort=prs",
        "... drawn by both tiers": f"/batches/{large}?both=1",
        "... drawn by both tiers, sorted by a score": f"/batches/{large}?both=1&sort=alignment",
        "... by a text that nothing has": f"/batches/{large}?text=zzzz",
        "... by a text of other letters": f"/batches/{large}?text=%C3%A4zz",
        "... and what the cloud would cost": f"/batches/{large}/ask/reroute",
        "a job": f"/jobs/{job}",
        "drift": "/drift",
        "budgets": "/budgets",
    }


def figures(shown: Site, *, database: str, jobs: int) -> Iterator[Figure]:
    """Visit every page, and yield a figure for each."""
    with httpx2.Client(base_url=shown.url, cookies={COOKIE: shown.key(Role.ADMIN)}, timeout=60) as client:
        shown.warm()
        client.get("/healthz")  # what the client itself needs
        for name, path in addresses(shown).items():
            first, *others = [_milliseconds(client, path) for _ in range(TIMES + 1)]
            middle = statistics.median(wall for wall, _ in others)
            busy = statistics.median(cpu for _, cpu in others)
            yield Figure(
                figure=f"page: {name} ({database}, {jobs} jobs)",
                value=round(middle, 1),
                unit=f"ms (slowest {max(others)[0]:.0f}; {busy:.0f} ms of this process' processor)",
                baseline=f"the process' first: {first[0]:.0f} ms",
                target=f"below {TARGET_MS} ms",
                holds=middle < TARGET_MS,
                command=COMMAND,
            )


def _milliseconds(client: httpx2.Client, path: str) -> tuple[float, float]:
    """Return the time until the last byte, and this process' processor time, which both sides spend."""
    started, busy = time.perf_counter(), time.process_time()
    answer = client.get(path)
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    if answer.status_code != 200:
        raise RuntimeError(f"{path} answers {answer.status_code}")
    return 1000 * seconds, 1000 * cpu


if __name__ == "__main__":
    main()
