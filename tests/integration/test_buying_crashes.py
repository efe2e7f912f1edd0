"""A worker that dies between two steps of a purchase: nothing is bought that nobody knows of."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from db.repository import Repository
from routet2i import buying
from routet2i.execution import Outcome
from routet2i.failpoints import DIED
from routet2i.images import ImageStore
from tests.integration.test_buying import World

WORKER = """
import sys
from pathlib import Path
from pydantic import SecretStr
from db.repository import Repository
from db.session import make_engine
from routet2i import failpoints
from routet2i.buying import Buyer
from routet2i.execution import run_microbatch
from routet2i.fakes import FakeScorer
from routet2i.images import ImageStore
from routet2i.provider import Provider
from routet2i.tiers import read_tiers

url, folder, failpoint, microbatch = sys.argv[1:]
failpoints.arm(failpoint)
profile = read_tiers(Path(folder) / "tiers.toml")["cloud"]
buyer = Buyer(profile, provider=Provider(profile, key=SecretStr("sk-fake")))
run_microbatch(
    microbatch, store=Repository(make_engine(url)), profile=profile, worker="w1",
    load=lambda: (buyer, FakeScorer(["detail"])), lease_seconds=30,
    pictures=ImageStore(root=Path(folder) / "images", low_water_bytes=0),
)
"""


@pytest.fixture
def world(make_database: Any, shop_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(buying, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(buying, "PAUSES", (0.02, 0.02))
    engine = make_database("sqlite")
    with ExitStack() as running:
        made = World(shop_of(Repository(engine)), tmp_path, running)
        made.pictures = ImageStore(root=tmp_path / "images", low_water_bytes=0)
        yield made
    engine.dispose()


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize(
    ("failpoint", "billed", "left"),
    [
        ("after_intent:2", (0, 2), {"intent"}),
        ("after_http:1", (1, 2), {"intent"}),
        ("after_settle:1", (1, 2), {"charged", "intent"}),
    ],
)
def test_a_death_between_two_steps_loses_no_bill_and_the_next_worker_finishes(
    world: World, failpoint: str, billed: tuple[int, int], left: set[str], idempotent: bool
) -> None:
    # Given a worker that dies at a step of one of two purchases
    server = world.open(jobs=2, idempotent=idempotent)
    ready = world.shop.read("SELECT min(id) FROM microbatch WHERE state = 'ready'")
    url = world.shop.engine.url.render_as_string(hide_password=False)
    died = subprocess.run(
        [sys.executable, "-c", WORKER, url, str(world.folder), failpoint, ready], timeout=60, check=False
    )
    assert died.returncode == DIED
    assert billed[0] <= len(server.lines()) <= billed[1]
    assert set(world.calls()) <= left
    assert world.is_sound()
    # When its lease ends and another worker comes
    world.shop.change("UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
    world.shop.sweep()
    assert world.is_sound()
    assert world.run(worker="w2") is Outcome.DONE
    # Then both pictures are there, every bill is on record, and an honoured key is paid once
    assert world.outcomes() == {"succeeded": 2}
    assert "intent" not in world.calls()
    if idempotent:
        assert len(server.lines()) == 2
        assert world.calls() == {"charged": 2}
    assert world.is_sound()
