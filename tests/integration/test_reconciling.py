"""A provider's export finds out what unknown calls have cost; nothing is edited, a repeat does nothing."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from db.reconciling import MARGIN_MS, Period, reconcile
from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i.errors import UsageError
from scheduler.cli import make_app
from scheduler.usage_export import Billed, read_export
from tests.provider.bill import unmatched

SHA = "a" * 64


def bill(key: str | None, micro_usd: int, *, remote_id: str | None = None, line: int = 1) -> Billed:
    return Billed(line_no=line, idem_key=key, remote_id=remote_id, micro_usd=micro_usd)


@pytest.fixture
def permits(repository, shop):
    """Permits of four pictures, of which the first three are unknown and the fourth is charged."""
    shop.submit(4, budget=1_000)
    shop.window(price=65)
    claim = shop.poll()
    made = [
        repository.intend(claim, job_id=job.job_id, index=0, cost_max=65, repeatable=False)
        for job in claim.jobs
    ]
    for permit in made[:3]:
        repository.doubt_call(permit.call_id, error="timed out")
    repository.settle_call(made[3].call_id, cost=65, image_sha256=SHA)
    return made


def test_unknown_calls_are_charged_what_the_export_says(shop, permits):
    # Given an export with two of three unknown calls, and the charged one
    bills = [bill(permits[0].idem_key, 60), bill(permits[1].idem_key, 65), bill(permits[3].idem_key, 65)]
    # When it is only looked at, nothing changes
    before = shop.read("SELECT count(*) FROM ledger")
    assert reconcile(shop.engine, bills, dry_run=True).charged == 2
    assert shop.read("SELECT count(*) FROM ledger") == before
    # And then it is applied, what was too much is free again, and the third stays unknown
    found = reconcile(shop.engine, bills)
    assert (found.charged, found.charged_micro_usd, found.agreed, found.still_unknown) == (2, 125, 1, 1)
    assert shop.read("SELECT spent FROM budget") == 60 + 65 + 65 + 65
    assert shop.is_sound()
    # And a repeat finds nothing left to do
    again = reconcile(shop.engine, bills)
    assert (again.charged, again.agreed) == (0, 3)
    assert shop.is_sound()


def test_absence_proves_something_only_where_the_export_is_complete(shop, permits):
    # Given an empty export
    now = shop.read("SELECT max(settled_ms) FROM call")
    hour = 3_600_000
    assert reconcile(shop.engine, []).still_unknown == 3
    # When it covers the time barely, nothing is void; when it surely does, the unknown calls are
    near = Period(from_ms=now - hour, to_ms=now + MARGIN_MS // 2)
    assert reconcile(shop.engine, [], tier="cloud", complete=near).still_unknown == 3
    sure = Period(from_ms=now - hour, to_ms=now + hour)
    found = reconcile(shop.engine, [], tier="cloud", complete=sure)
    assert (found.voided, found.voided_micro_usd) == (3, 195)
    assert shop.read("SELECT spent FROM budget") == 65
    assert shop.is_sound()
    assert reconcile(shop.engine, [], tier="edge", complete=sure).voided == 0


def test_a_bill_for_a_void_call_and_a_bill_above_the_price_are_overruns(repository, shop, permits):
    now = shop.read("SELECT max(settled_ms) FROM call")
    reconcile(shop.engine, [], tier="cloud", complete=Period(from_ms=0, to_ms=2 * now))
    found = reconcile(shop.engine, [bill(permits[0].idem_key, 65)])
    assert (found.charged, found.overrun_micro_usd) == (1, 65)
    assert repository.paused_tiers() == {"cloud": 65}
    assert shop.is_sound()


def test_what_matches_no_call_or_another_price_is_told(repository, shop, permits):
    repository.accept_call(permits[0].call_id, remote_id="r-1")
    found = reconcile(
        shop.engine,
        [
            bill("nobody", 5),
            bill(None, 5, remote_id="r-9", line=2),
            bill(None, 64, remote_id="r-1", line=3),
            bill(permits[3].idem_key, 66, line=4),
        ],
    )
    assert found.unmatched == ["line 1: nobody, 5 micro-USD", "line 2: r-9, 5 micro-USD"]
    assert len(found.differing) == 1
    assert (found.charged, found.charged_micro_usd) == (1, 64)
    assert shop.is_sound()


def test_a_call_that_is_out_is_left_to_its_worker(repository, shop):
    shop.submit(1)
    shop.window(price=65)
    claim = shop.poll()
    permit = repository.intend(claim, job_id=claim.jobs[0].job_id, index=0, cost_max=65, repeatable=False)
    assert reconcile(shop.engine, [bill(permit.idem_key, 65)]).open == 1
    assert shop.read("SELECT state FROM call") == "intent"


def test_the_checker_finds_bills_without_calls_and_calls_without_bills(shop, permits):
    lines = [{"idempotency_key": permits[3].idem_key, "cost_usd": 0.000065}]
    assert unmatched(lines, shop.engine) == []
    assert "never permitted" in unmatched([*lines, {"idempotency_key": "x", "cost_usd": 1}], shop.engine)[0]
    assert "charged 65, billed None" in unmatched([], shop.engine)[0]
    assert "billed 130" in unmatched(lines * 2, shop.engine)[0]
    too_much = {"idempotency_key": permits[0].idem_key, "cost_usd": 1}
    assert "counted as 65" in unmatched([*lines, too_much], shop.engine)[0]


def written(folder: Path, text: str, *, name: str = "usage.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    lines = written(
        tmp_path,
        '{"idempotency_key": "k", "id": "r", "cost_usd": 0.0400001}\n\n{"id": "s", "cost": "$1"}\n',
    )
    table = written(
        tmp_path, "id,idempotency_key,cost_usd,other\nr,k,0.0400001,x\ns,,1,y\n", name="usage.csv"
    )
    wanted = [("k", "r", 40_001), (None, "s", 1_000_000)]
    for path in (lines, table):
        assert [(one.idem_key, one.remote_id, one.micro_usd) for one in read_export(path)] == wanted


def test_lines_of_one_call_are_added_up_and_a_repeated_id_counts_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"idempotency_key": "k", "cost_usd": 1}\n{"idempotency_key": "k", "cost_usd": 2}\n'
        '{"id": "r", "cost_usd": 1}\n{"id": "r", "cost_usd": 1}\n',
    )
    assert [one.micro_usd for one in read_export(path)] == [3_000_000, 1_000_000]


def test_a_key_that_was_billed_under_two_ids_costs_both(tmp_path: Path) -> None:
    # Given a client that sent one request twice: two pictures, one key; and a line that stands twice
    lines = [json.dumps({"idempotency_key": "k", "id": name, "cost_usd": 1}) for name in ("r", "s", "r")]
    path = written(tmp_path, "\n".join(lines))
    # Then the call has cost what both did
    assert [(one.idem_key, one.line_no, one.micro_usd) for one in read_export(path)] == [("k", 1, 2_000_000)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]\n", "line 1 is no JSON object"),
        ('{"id": "r"}\n', "no cost"),
        ('{"id": "r", "cost_usd": NaN}\n', "no cost"),
        ('{"id": "r", "cost_usd": -1}\n', "no cost"),
        ('{"id": "r", "cost_usd": 1e99}\n', "no cost"),
        ('{"id": "r", "cost_usd": true}\n', "no cost"),
        ('{"cost_usd": 1}\n', "names no call"),
        ('{"id": 7, "cost_usd": 1}\n', "a name that is none"),
        ('{"id": "r", "cost_usd": 1}\n{"id": "r", "cost_usd": 2}\n', "line 2 has another cost"),
        ("x" * 70_000, "longer than"),
        ("[" * 60_000 + "\n", "no JSON object"),
    ],
)
def test_a_line_that_says_nothing_is_refused_with_its_number(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_export(written(tmp_path, text))


@given(content=st.binary(max_size=300), name=st.sampled_from(["usage.csv", "usage.jsonl"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("export") / name
    path.write_bytes(content)
    with suppress(UsageError):
        read_export(path)


@pytest.fixture
def home(tmp_path: Path):
    upgrade(f"sqlite+pysqlite:///{tmp_path / 'routet2i.db'}")
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'routet2i.db'}")
    yield tmp_path, Repository(engine)
    engine.dispose()


def test_the_command_tells_what_it_did_and_what_is_not_ours(home, shop_of) -> None:
    # Given a home with an unknown call
    folder, repository = home
    shop = shop_of(repository)
    shop.submit(1)
    shop.window(price=65)
    claim = shop.poll()
    permit = repository.intend(claim, job_id=claim.jobs[0].job_id, index=0, cost_max=65, repeatable=False)
    repository.doubt_call(permit.call_id, error="timed out")
    usage = written(
        folder,
        json.dumps({"idempotency_key": permit.idem_key, "cost_usd": "0.00008"})
        + '\n{"idempotency_key": "\\u202ex", "cost_usd": 1}\n',
    )

    def run(*arguments: str):
        return CliRunner().invoke(make_app(), ["--home", str(folder), "budget", *map(str, arguments)])

    # When the export is read
    refused = run("reconcile", usage)
    assert refused.exit_code == 2  # a name that is none
    usage.write_text(usage.read_text().replace("\\u202e", ""))
    looked = run("reconcile", usage, "--dry-run")
    done = run("reconcile", usage, "--json")
    # Then it says so, ends with 7 for the stranger, and the tier is paused until it is resumed
    assert looked.exit_code == done.exit_code == 7, done.output
    assert "nothing was written" in looked.output
    assert "not ours: line 2: x" in looked.output
    assert json.loads(done.stdout)["overrun_micro_usd"] == 15
    assert "tier cloud is paused: it billed $0.000015 more" in run("show").output
    assert "buys again" in run("resume", "cloud", "--reason", "seen").output
    assert "was not paused" in run("resume", "cloud").output
    assert "is paused" not in run("show").output
    # And a span needs its tier
    assert run("reconcile", usage, "--complete", "2026-01-01", "2026-02-01").exit_code == 2
    assert run("reconcile", usage, "--tier", "fog").exit_code == 2
    whole = run("reconcile", usage, "--tier", "cloud", "--complete", "2020-01-01", "2099-01-01")
    assert whole.exit_code == 7
    assert shop.is_sound()
