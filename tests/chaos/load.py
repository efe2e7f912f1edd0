"""The work of a run: batches of prompts with budgets that bind, submitted all the while; poison among them.

It knows prompts, files and what must become of each; it submits through the product's own code and tries
again until it is told "accepted". It does not know what befalls the stack meanwhile.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from db.repository import Repository
from db.session import make_engine
from routet2i.errors import ServiceUnavailable
from routet2i.pocket.world import sample_prompts
from routet2i.settings import Settings
from scheduler.submit import submit_file

BATCH_JOBS = 12  # small ones come often: there is always work to strike at
BUDGET_SHARE = 0.35  # of the way from all-edge to all-cloud: fewer cloud pictures than are wished
RETRY_SECONDS = 0.3
POISONS = ("kill", "exit", "segfault")  # that end the process; recursion only fails


@dataclass(kw_only=True)
class Promised:
    """What the stack has accepted."""

    batches: dict[str, int] = field(default_factory=dict)  # id -> jobs
    errors: list[str] = field(default_factory=list)  # submissions that were refused and should not have been
    may_be_cancelled: set[str] = field(default_factory=set)  # batches
    poison: Counter[str] = field(default_factory=Counter)  # kind -> jobs
    retries: int = 0


class Load:
    """A source of batches."""

    def __init__(self, folder: Path, settings: Settings, *, seed: int) -> None:
        """Write files into a folder; `settings` reach the database as any client would."""
        self.promised = Promised()
        self._folder = folder
        self._settings = settings
        self._tiers = settings.read_tiers()
        self._draw = Random(f"load/{seed}")
        self._texts = [caption.text for caption in sample_prompts(seed=seed, count=2000)]
        self._lock = threading.Lock()
        self._files = 0
        self._stop = threading.Event()
        self.submitted = 0  # jobs

    def new_path(self) -> Path:
        """Return the path of a prompt file that nobody has written yet."""
        with self._lock:
            self._files += 1
            return self._folder / f"batch-{self._files}.jsonl"

    def write(self, *, jobs: int = BATCH_JOBS, poison: tuple[str, ...] = ()) -> tuple[Path, int]:
        """Write a prompt file and return it with the budget of its batch, micro-USD."""
        path = self.new_path()
        with self._lock:
            places = dict(zip(self._draw.sample(range(jobs), len(poison)), poison, strict=True))
            lines = [
                json.dumps(
                    {
                        "custom_id": f"{path.stem.removeprefix('batch-')}-{line}"
                        + (f"-poison-{places[line]}" if line in places else ""),
                        "prompt": self._draw.choice(self._texts)
                        + (f" poison:{places[line]}" if line in places else ""),
                        "n": 2 if self._draw.random() < 0.05 else 1,
                    }
                )
                for line in range(jobs)
            ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        pictures = sum(json.loads(line)["n"] for line in lines)
        edge, cloud = (self._tiers[name].price(pictures) for name in (self._tiers.edge, self._tiers.cloud))
        return path, edge + int((cloud - edge) * BUDGET_SHARE)

    def submit(
        self, *, jobs: int = BATCH_JOBS, poison: tuple[str, ...] = (), cancellable: bool = False
    ) -> str | None:
        """Submit a new batch, again and again until it is accepted; its id, None if it was refused."""
        path, budget = self.write(jobs=jobs, poison=poison)
        self.promised.poison.update(poison)
        return self.send(path, budget, jobs=jobs, cancellable=cancellable)

    def send(
        self, path: Path, budget: int | None, *, jobs: int | None, cancellable: bool = False
    ) -> str | None:
        """Submit a file until it is accepted; `jobs` are in it, None if that is not known."""
        while not self._stop.is_set():
            engine = make_engine(self._settings.database)
            try:
                submission = submit_file(
                    Repository(engine),
                    path,
                    tiers=self._tiers,
                    settings=self._settings,
                    budget_micro_usd=budget,
                )
            except ServiceUnavailable:
                self.promised.retries += 1
                self._stop.wait(RETRY_SECONDS)
                continue
            except Exception as error:
                self.promised.errors.append(f"submit: {type(error).__name__}: {error}"[:300])
                return None
            finally:
                engine.dispose()
            with self._lock:
                if submission.batch_id not in self.promised.batches:
                    accepted = submission.accepted if jobs is None else jobs
                    self.promised.batches[submission.batch_id] = accepted
                    self.submitted += accepted
                if cancellable:
                    self.promised.may_be_cancelled.add(submission.batch_id)
            return submission.batch_id
        return None

    def run(self, *, jobs: int, progress: Callable[[], float], poison: int) -> threading.Thread:
        """Start to submit so many jobs, so many of them poison, in step with `progress`, 0 to 1."""
        count = max(1, jobs // BATCH_JOBS)
        planted = self._draw.sample(range(max(1, count * 2 // 3)), min(poison, max(1, count * 2 // 3)))
        kinds = {batch: POISONS[number % len(POISONS)] for number, batch in enumerate(planted)}

        def body() -> None:
            for number in range(count):
                while progress() < number / count:
                    if self._stop.wait(0.1):
                        return
                self.submit(poison=(kinds[number],) if number in kinds else ())

        thread = threading.Thread(target=body, name="load", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Submit nothing more."""
        self._stop.set()
