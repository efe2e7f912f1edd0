"""Where jobs come from: small batches with budgets and clients, submitted at a rate by the product's code.

It knows prompts and rates. It holds a batch back while too much waits, and counts those: a load that had
to be held back does not last.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from db.repository import Repository
from routet2i.pocket.world import sample_prompts
from routet2i.settings import Settings
from scheduler.submit import submit_file

BATCHES_PER_SECOND = 4.0
CLIENTS = ("press", "shop", "school")
FULL_SECONDS = 30.0  # of work that may wait before batches are held back


class Source:
    """A thread that submits; `rate` may be changed at any time, 0 = nothing comes."""

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        *,
        folder: Path,
        seed: int,
        cloud_share: float,
        unfinished: Callable[[], int],
    ) -> None:
        """Start the thread.

        Args:
            folder: for prompt files, each deleted when it is submitted.
            cloud_share: of the jobs that a batch's budget pays the cloud for.
            unfinished: jobs without an outcome.
        """
        self.rate = 0.0  # jobs/s
        self.submitted = 0  # jobs
        self.due = self.held_back = 0  # batches
        self.error: Exception | None = None  # that ended it
        self._repository = repository
        self._settings = settings
        self._tiers = settings.read_tiers()
        self._folder = folder
        self._cloud_share = cloud_share
        self._unfinished = unfinished
        self._draw = Random(f"soak/{seed}")
        self._texts = [caption.text for caption in sample_prompts(seed=seed, count=2000)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Submit nothing more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        owed, last = 0.0, time.monotonic()
        while not self._stop.wait(1 / BATCHES_PER_SECOND):
            now = time.monotonic()
            owed, last = owed + self.rate * (now - last), now
            if owed < 1:
                continue
            self.due += 1
            try:
                if self._unfinished() > FULL_SECONDS * self.rate + 100:
                    self.held_back += 1
                else:
                    self._submit(int(owed))
            except Exception as error:
                self.error = error
                return
            owed -= int(owed)

    def _submit(self, jobs: int) -> None:
        path = self._folder / f"soak-{self.due}.jsonl"
        path.write_text(
            "".join(
                json.dumps({"custom_id": f"{line}", "prompt": f"{self._draw.choice(self._texts)} {self.due}"})
                + "\n"
                for line in range(jobs)
            ),
            encoding="utf-8",
        )
        edge, cloud = (self._tiers[name].price(jobs) for name in (self._tiers.edge, self._tiers.cloud))
        submit_file(
            self._repository,
            path,
            tiers=self._tiers,
            settings=self._settings,
            budget_micro_usd=edge + int((cloud - edge) * self._cloud_share),
            client=CLIENTS[self.due % len(CLIENTS)],
        )
        self.submitted += jobs
        path.unlink()
