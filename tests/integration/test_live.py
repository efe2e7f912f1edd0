"""Promotions reach a running scheduler on real databases; windows name exactly what decided them."""

import threading
import time

from sqlalchemy import text

from routet2i.contracts import Prediction
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.live import LivePredictor
from scheduler.service import Scheduler
from scheduler.submit import submit_file

TIERS = read_tiers(packaged("pocket"))
DEADLINE = 90.0  # seconds; far more than any of this takes


class Stamp:
    """A predictor that stamps what it predicts: its number is in every PRS, and in its version."""

    name = "stamp"

    def __init__(self, version):
        self.version = version

    def predict(self, prompts):
        time.sleep(0.002)  # long enough for a promotion to come between
        return [Prediction(prs=int(self.version, 16) / 16**12)] * len(prompts)


def test_every_window_names_the_version_that_made_its_predictions(repository, tmp_path, make_artefact):
    # Given eight versions, a scheduler that looks before every window, and a batch of many windows
    versions = []
    for seed in range(8):
        artefact = make_artefact(seed=seed)
        repository.add_predictor(
            name="stamp", manifest=artefact.manifest, weights=artefact.weights, figures={}
        )
        versions.append(artefact.version)
    repository.promote_predictor(versions[0], who="test", reason="")
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{number} red circles\n" for number in range(160)))
    submit_file(repository, file, tiers=TIERS, settings=Settings(), budget_micro_usd=None)
    ticks = iter(range(10**9))
    live = LivePredictor(
        live=repository.live_predictor, load=Stamp, clock=lambda: 10.0 * next(ticks)
    )  # every look at this clock is later than the pause
    scheduler = Scheduler(
        repository,
        live.current,
        tiers=TIERS,
        settings=Settings(window_jobs=4, window_seconds=0.01),
        publish=lambda *_: None,
        holder="one",
    )
    stop = threading.Event()
    thread = threading.Thread(target=scheduler.run_forever, args=(stop,))
    thread.start()
    # When one after the other is promoted while it decides
    deadline, pause = time.monotonic() + DEADLINE, threading.Event()
    for version in versions[1:]:
        decided = count(repository)
        while count(repository) < min(160, decided + 8) and time.monotonic() < deadline:
            pause.wait(0.002)
        repository.promote_predictor(version, who="test", reason="")
    while count(repository) < 160 and time.monotonic() < deadline:
        pause.wait(0.01)
    stop.set()
    thread.join(DEADLINE)
    # Then several decided, and no window holds a prediction of another version than it names
    with repository.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT w.predictor_name, w.predictor_version, a.prs FROM assignment a "
                "JOIN decision_window w ON w.id = a.window_id"
            )
        ).all()
    assert len(rows) == 160
    assert len({row.predictor_version for row in rows}) > 3
    assert {row.predictor_name for row in rows} == {"stamp"}
    assert all(row.prs == int(row.predictor_version, 16) / 16**12 for row in rows)


def count(repository):
    """Return how many jobs have their assignment."""
    with repository.engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM assignment")).scalar_one()
