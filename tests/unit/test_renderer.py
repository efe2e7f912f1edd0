"""What a worker process does around one microbatch: messages, faults that people can see, and room."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from routet2i import worker as worker_module
from routet2i.contracts import ClaimedJob, MicrobatchState
from routet2i.errors import ModelError
from routet2i.execution import Outcome
from routet2i.fakes import FakeGenerator, FakeScorer, FakeStore
from routet2i.images import LOW_WATER_BYTES
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from routet2i.worker import Renderer

TIERS = read_tiers(packaged("pocket"))
EDGE = TIERS[TIERS.edge]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    monkeypatch.setattr(worker_module, "MAX_PAUSE_SECONDS", 0.0)
    return FakeStore()


@pytest.fixture
def renderer(store: FakeStore, tmp_path: Path) -> Callable[..., Renderer]:
    def make(load: Any = None, **settings: Any) -> Renderer:
        models = (FakeGenerator(), FakeScorer(["detail"]))
        return Renderer(
            Settings(home=tmp_path, **settings),
            profile=EDGE,
            open_store=lambda _: store,
            load=load or (lambda *_: models),
        )

    return make


def message(store: FakeStore) -> dict[str, Any]:
    job = ClaimedJob(job_id="j", prompt="p", negative_prompt=None, seed=1, n=1, micro_usd=9000)
    return {"v": 1, "microbatch_id": store.add([job], tier=EDGE.name)}


def test_a_fault_stands_in_the_workers_row_until_it_is_well(
    store: FakeStore, renderer: Callable[..., Renderer]
) -> None:
    # Given a model that cannot be loaded at first
    wrong = [ModelError("weights are missing")]

    def load(*_: Any) -> Any:
        if wrong:
            raise wrong.pop()
        return FakeGenerator(), FakeScorer(["detail"])

    process = renderer(load)
    asked = message(store)
    # When a message comes
    assert process.render(asked, worker="w1") is None
    # Then people see why, and the work was given back
    assert store.faults == {"w1": "ModelError: weights are missing"}
    assert store.state(asked["microbatch_id"]) is MicrobatchState.READY
    # And no longer once it has worked
    assert process.render(asked, worker="w1") is Outcome.DONE
    assert store.faults == {"w1": None}


def test_a_new_process_of_a_worker_takes_back_the_fault_of_the_one_before(
    store: FakeStore, renderer: Callable[..., Renderer]
) -> None:
    store.faults["w1"] = "DeviceFault: gone"
    renderer().render(message(store), worker="w1")
    assert store.faults == {"w1": None}


def test_nothing_is_claimed_without_room_for_two_microbatches_and_a_gibibyte(
    store: FakeStore,
    renderer: Callable[..., Renderer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a little more than a gibibyte, and microbatches of a thousand pictures
    usage = shutil.disk_usage(tmp_path)._replace(free=LOW_WATER_BYTES + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    asked = message(store)
    # When a message comes
    assert renderer(microbatch_jobs=1000).render(asked, worker="w1") is None
    # Then it is left where it was, and people see why
    assert store.state(asked["microbatch_id"]) is MicrobatchState.READY
    assert store.releases == []
    assert str(store.faults["w1"]).startswith("StoreFull: ")


def test_log_lines_name_the_work_and_the_next_message_begins_anew(
    store: FakeStore, renderer: Callable[..., Renderer]
) -> None:
    bound: list[dict[str, Any]] = []

    def load(*_: Any) -> Any:
        bound.append(dict(structlog.contextvars.get_contextvars()))
        return FakeGenerator(), FakeScorer(["detail"])

    asked = message(store)
    with capture_logs() as lines:
        renderer(load).render(asked, worker="w1")
    assert bound[0] | {"batch": None} == {
        "microbatch": asked["microbatch_id"],
        "worker": "w1",
        "batch": None,
        "fence": 1,
        "tier": EDGE.name,
    }
    assert [line["event"] for line in lines] == ["microbatch"]
    assert structlog.contextvars.get_contextvars() == {}
