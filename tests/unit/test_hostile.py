"""Doors under fire: a short, repeatable slice of `make hostile`, and rules that have no file of their own."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from db.session import make_engine
from routet2i.celery_app import make_celery
from routet2i.contracts import new_id
from routet2i.errors import LONGEST, ModelError, RouteT2IError, ServiceUnavailable, UsageError
from routet2i.exposure import checked_broker, checked_database
from routet2i.model_folder import check_folder
from routet2i.models.hub import hub_folder
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from routet2i.toml_file import MAX_BYTES
from routet2i.transport import MAX_BODY, is_sound
from scheduler import broker, flower
from scheduler.cli import make_app
from scheduler.cli.batches import micro_usd
from scheduler.datasets import read_table
from scheduler.prompt_file import read_prompt_file
from scheduler.report import _data_uri
from scheduler.table_lines import MAX_LINE_CHARS
from tests.hostile.doors import DOORS
from tests.hostile.feeding import TORCH, feed
from tests.hostile.mutations import hostile_input
from tests.hostile.shares import SHARES

SLICE = 2000  # inputs of all doors together
SEED = 20


@pytest.mark.parametrize("door", [door for door in SHARES if door not in TORCH])
def test_a_door_answers_whatever_it_is_given(door: str, tmp_path: Path) -> None:
    # Given its share of the slice
    for number in range(max(30, SLICE * SHARES[door] // sum(SHARES.values()))):
        # When it is fed, then it accepts or refuses; anything it raises is a failure
        DOORS[door](hostile_input(door, seed=SEED, number=number), tmp_path)


def test_every_door_has_a_share() -> None:
    assert set(SHARES) == set(DOORS)


def test_children_with_a_limit_of_memory_give_the_same_answers() -> None:
    account = feed("prompts.jsonl", seed=SEED, inputs=60)
    assert (account.inputs, account.findings) == (60, [])


# --- what was found by it, once each ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": ' + "[" * 1000 + "]" * 1000 + "}",
        '{"prompt": "a", "metadata": {"k": ' + "9" * 5000 + "}}",
    ],
)
def test_what_a_parser_reads_and_python_cannot_show_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(line)
    (found,) = read_prompt_file(path, settings=Settings())
    assert found.remedy  # type: ignore[union-attr]


def test_a_number_among_signs_that_only_python_calls_blank_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,seed\na,7\x1c\x1c\n")
    (found,) = read_prompt_file(path, settings=Settings())
    assert found.seed == 7  # type: ignore[union-attr]


def test_a_file_without_an_end_ends(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MAX_FILE_BYTES"):
        list(_zeros(Settings(max_file_bytes=1_000_000)))
    path = tmp_path / "p.txt"
    path.write_text("a\n" * 11)
    with pytest.raises(UsageError, match="MAX_FILE_LINES"):
        list(read_prompt_file(path, settings=Settings(max_file_lines=10)))


def _zeros(settings: Settings) -> Any:
    link = Path("/dev/zero")
    from scheduler.intake import read_requests

    with link.open("rb") as stream:
        yield from read_requests(
            stream,
            fmt="text",
            max_line_bytes=settings.max_line_bytes,
            max_prompt_chars=settings.max_prompt_chars,
            seed_base=b"",
            max_file_bytes=settings.max_file_bytes,
            max_file_lines=settings.max_file_lines,
        )


@pytest.mark.parametrize(
    "magic", [b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"%PDF-1.7"]
)
def test_a_packed_file_is_refused_with_what_to_type(magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(magic + b"x" * 100)
    with pytest.raises(UsageError, match=";"):
        list(read_prompt_file(path, settings=Settings()))


@pytest.mark.parametrize(
    "change",
    [
        ("guidance = ", "guidance = 1" + "0" * 400 + " #"),
        ('model = "pocket:edge"', 'model = "./\\u0000"'),
        ('model = "pocket:edge"', 'model = "~nobody-at-all/x"'),
        ('model = "pocket:edge"', f'model = "./{"x" * 5000}"'),
        ("steps = ", f"steps = {'9' * 5000} #"),
        ("steps = ", f"steps = {'[' * 3000} #"),
        ("[tier.edge]", '[routing]\ntiers = [["edge"]]\n[tier.edge]'),
        ("[tier.edge]", "#" + "x" * MAX_BYTES + "\n[tier.edge]"),
    ],
)
def test_a_tier_file_that_once_crashed_the_reader_is_refused(change: tuple[str, str], tmp_path: Path) -> None:
    before, after = change
    text = (
        packaged("pocket").read_text().split("[routing]")[0]
        if "[routing]" in after
        else packaged("pocket").read_text()
    )
    path = tmp_path / "tiers.toml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(UsageError) as refused:
        read_tiers(path)
    assert len(str(refused.value)) < LONGEST + 10


def test_a_table_with_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt,group,tier,metric,value\n" + "x" * (MAX_LINE_CHARS + 5))
    with pytest.raises(UsageError, match="line 2 has more"):
        read_table(path)


@pytest.mark.parametrize("amount", ["1e999999999999999999", "nan", "-1", "1e400", "0.0000001", "२x", ""])
def test_no_amount_is_taken_for_money(amount: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        micro_usd(amount)


# --- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pw@127.0.0.1:6379/0",
        "redis://localhost/0",
        "rediss://:pw@broker.example:6380/0",
        "rediss://:pw@broker.example/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.pem",
        "redis://:pw@redis:6379/0",
    ],
)
def test_a_broker_that_is_safe_is_used(url: str) -> None:
    assert checked_broker(url, private_hosts=("redis",)) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:canary@broker.example:6379/0", "without TLS"),
        ("rediss://broker.example:6379/0", "without a password"),
        ("redis://redis:6379/0", "without a password"),
        ("rediss://:canary@broker.example/0?ssl_cert_reqs=none", "without TLS"),
        ("rediss://:canary@broker.example/0?ssl_cert_reqs=none&ssl_cert_reqs=required", "twice"),
        ("redis://:canary@127.0.0.1/0?password=x", "not allowed"),
        ("redis://:ca?nary@127.0.0.1/0", "not allowed|no address"),
        ("amqp://guest:canary@broker.example//", "no address of a broker"),
        ("memory://", "no address of a broker"),
        ("redis://:canary@127.0.0.1:99999/0", "no address"),
        ("redis://127.0.0.1/0\n", "printed"),
    ],
)
def test_a_broker_that_lies_open_is_refused_without_telling_the_secret(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        checked_broker(url, private_hosts=("redis",))
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://me:canary@db.example/d", "sslmode=verify-full"),
        ("postgresql+psycopg://me:canary@db.example/d?sslmode=require", "sslmode=verify-full"),
        ("postgresql+psycopg://me:canary@/d?host=127.0.0.1,db.example", "sslmode=verify-full"),
        ("postgresql+psycopg://me:canary@127.0.0.1/d?options=-c%20x", "not allowed"),
        ("postgresql+psycopg://me:canary@127.0.0.1/d?plugin=canary", "not allowed"),
        ("postgresql://me:canary@127.0.0.1/d", "no driver"),
        ("sqlite+pysqlite:///x.db?uri=true", "not allowed"),
        ("mysql+pymysql://me:canary@127.0.0.1/d", "no driver"),
    ],
)
def test_a_database_that_lies_open_is_refused_without_telling_the_secret(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        checked_database(url, private_hosts=())
    assert "canary" not in str(refused.value)


def test_a_host_of_a_private_network_and_a_socket_need_no_certificate() -> None:
    for url in ("postgresql+psycopg://me:pw@postgres/d", "postgresql+psycopg://me@/d?host=/run/postgresql"):
        assert checked_database(url, private_hosts=("postgres",)) == url


@pytest.mark.parametrize(
    "url", ["", "canary", "postgresql+nothing://h/d", "sqlite+pysqlite://u@h/x", "x://h:port/"]
)
def test_no_engine_is_made_of_what_is_no_address(url: str) -> None:
    with pytest.raises(ServiceUnavailable, match="DATABASE_URL") as refused:
        make_engine(url)
    assert "canary" not in str(refused.value)


def test_an_address_that_redis_cannot_read_is_refused_in_one_sentence() -> None:
    with pytest.raises(ServiceUnavailable) as refused:
        broker.check("amqp://:canary@h/0")
    assert "canary" not in str(refused.value)


def test_doctor_explains_an_open_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROUTET2I_BROKER_URL", "redis://:canary@broker.example:6379/0")
    monkeypatch.setenv("ROUTET2I_DATABASE_URL", "postgresql+psycopg://me:canary@db.example/d")
    found = CliRunner().invoke(make_app(), ["--home", str(tmp_path), "doctor"])
    assert found.exit_code == 1
    assert "reached without TLS" in found.output
    assert "sslmode=verify-full" in found.output
    assert "canary" not in found.output
    for command in ("scheduler", "up", "status"):
        started = CliRunner().invoke(make_app(), ["--home", str(tmp_path), command])
        assert started.exit_code in (2, 6), started.output
        assert "canary" not in started.output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WINDOW_SECONDS", "inf"), ("LEASE_SECONDS", "nan"), ("BUDGET_MICRO_USD", "9" * 40)),
        *(("MAX_LINE_BYTES", "9" * 12), ("PRIVATE_HOSTS", "a b"), ("MAX_DEATHS", "0")),
    ],
)
def test_a_setting_out_of_range_is_one_clean_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"ROUTET2I_{name}", value)
    with pytest.raises(ValidationError):
        Settings()
    found = CliRunner().invoke(make_app(), ["--home", str(tmp_path), "status"])
    assert found.exit_code == 2
    assert f"ROUTET2I_{name}" in found.output
    assert "Traceback" not in found.output


def test_an_argument_that_is_no_text_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(make_app(), ["--home", str(tmp_path), "audit", os.fsdecode(b"\xff")])
    assert found.exit_code == 2
    assert "UTF-8" in found.output


def test_a_home_that_no_address_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose another home"):
        assert Settings(home=tmp_path / "a?b").database


@pytest.mark.parametrize(
    ("login", "cookie"),
    [("", "x" * 20), ("user", "x" * 20), ("user:", "x" * 20), ("user:pw", ""), ("user:pw", "x")],
)
def test_flower_refuses_to_start_open(login: str, cookie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", login)
    monkeypatch.setenv("FLOWER_COOKIE_SECRET", cookie)
    with pytest.raises(SystemExit, match="set FLOWER_"):
        flower.main(1)


# --- messages --------------------------------------------------------------------------------------------


def envelope(body: Any = None, **changes: Any) -> dict[str, Any]:
    """Return a task's message as kombu writes it."""
    content = [[], {"v": 1, "microbatch_id": new_id()}, {"callbacks": None}] if body is None else body
    return {
        "body": base64.b64encode(json.dumps(content).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "routet2i.edge.generate", "id": new_id(), "eta": None, "expires": None},
        "properties": {
            "delivery_tag": new_id(),
            "delivery_info": {"exchange": "", "routing_key": "edge"},
            "body_encoding": "base64",
        },
    } | changes


def test_a_message_of_ours_is_handed_on() -> None:
    assert is_sound(envelope(), "edge")


@pytest.mark.parametrize(
    "message",
    [
        *(None, [], 1, "x", {}, {"body": "x"}),
        envelope("hello"),
        envelope([["a"], {}, {}]),
        envelope([[], {}, {"chain": [1]}]),
        envelope([[], {"x": "y" * MAX_BODY}, {}]),
        envelope(body=None) | {"body": "%%%"},
        envelope() | {"content-type": "application/x-python-serialize"},
        envelope() | {"headers": None},
        envelope() | {"headers": {"task": "t", "id": "i", "eta": "tomorrow"}},
        envelope() | {"properties": {"delivery_tag": "x", "delivery_info": {}}},
    ],
)
def test_whatever_would_end_a_worker_is_dropped(message: Any) -> None:
    assert not is_sound(message, "edge")


def test_every_application_of_ours_looks_at_its_messages() -> None:
    app = make_celery(Settings(broker_url="redis://127.0.0.1:1/0"), profile=None)  # type: ignore[arg-type]
    with app.connection_for_write() as connection:
        assert type(connection.transport).__module__ == "routet2i.transport"


# --- model folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        *((f"w{ending}", "", "delete it") for ending in (".bin", ".PT", ".ckpt", ".pkl", ".py", ".so")),
        ("config.json", '{"auto_map": {"AutoModel": "x.Y"}}', "remote code"),
        ("config.json", '{"a": [{"trust_remote_code": true}]}', "remote code"),
        ("config.json", "[" * 100_000, "no JSON"),
        ("model_index.json", '{"unet": ["os", "system"]}', "comes from 'os'"),
        ("model_index.json", "[]", "no JSON object"),
    ],
)
def test_a_folder_that_could_run_something_is_refused(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=said):
        check_folder(tmp_path)


def test_a_link_out_of_a_model_folder_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"")
    (folder / "b.safetensors").symlink_to("a.safetensors")
    check_folder(folder)
    (folder / "c.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="out of its folder"):
        check_folder(folder)


@pytest.mark.parametrize("model", ["owner/name", "owner/name@main", "../..", "owner/name@" + "g" * 40])
def test_a_hubs_model_needs_its_commit(model: str) -> None:
    with pytest.raises(ModelError, match="40 hex digits"):
        hub_folder(model)


def test_a_report_shows_pictures_of_its_own_home_only(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    assert _data_uri(tmp_path, "images/a.png")
    assert _data_uri(tmp_path, "/etc/passwd") is None
    assert _data_uri(tmp_path, "../../etc/passwd") is None


def test_every_refusal_is_short(tmp_path: Path) -> None:
    error = RouteT2IError("x" * 1_000_000 + "; do this")
    assert str(error).endswith("do this")
    assert len(str(error)) < LONGEST + 10
