import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from celery.exceptions import QueueNotFound
from pydantic import SecretStr

from routet2i.celery_app import HARD_LIMIT_SECONDS, VISIBILITY_SECONDS, make_celery
from routet2i.contracts import TierKind, new_id
from routet2i.errors import ServiceUnavailable, TierError
from routet2i.log import configure
from routet2i.settings import Settings
from routet2i.worker import microbatch_of, served_tier, worker_command

BROKER = SecretStr("redis://:hush-hush@127.0.0.1:1/0")


def settings(**changes: object) -> Settings:
    return Settings(_env_file=None).model_copy(update={"broker_url": BROKER, **changes})  # type: ignore[call-arg]


def test_a_worker_declares_its_own_queue_and_no_other() -> None:
    profile = settings().read_tiers()["edge"]
    app = make_celery(settings(), profile=profile)
    assert [queue.name for queue in app.conf.task_queues] == ["edge"]


def test_the_publisher_knows_every_queue_and_refuses_a_task_without_one() -> None:
    app = make_celery(settings(), profile=None)
    assert {queue.name for queue in app.conf.task_queues} == {"edge", "cloud"}
    with pytest.raises(QueueNotFound):
        app.send_task("routet2i.edge.generate", kwargs={})


def test_a_publisher_without_a_broker_says_what_to_type() -> None:
    with pytest.raises(ServiceUnavailable, match="routet2i up"):
        make_celery(settings(broker_url=None), profile=None)


def test_the_settings_are_those_of_the_reliability_specification() -> None:
    conf = make_celery(settings(deployment="lab"), profile=None).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.result_backend is None
    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert (conf.worker_prefetch_multiplier, conf.worker_concurrency) == (1, 1)
    assert (conf.worker_pool, conf.worker_pool_start_method) == ("prefork", "spawn")
    assert not conf.task_create_missing_queues
    assert conf.broker_transport_options["global_keyprefix"] == "routet2i:lab:"
    assert conf.broker_transport_options["visibility_timeout"] == VISIBILITY_SECONDS > HARD_LIMIT_SECONDS
    assert conf.task_routes is None


def test_a_worker_serves_the_tier_it_is_told_or_the_routed_one_of_its_kind() -> None:
    assert served_tier(settings(), kind=TierKind.CLOUD).name == "cloud"
    assert served_tier(settings(tier="edge"), kind=TierKind.EDGE).name == "edge"
    with pytest.raises(TierError, match="routet2i worker edge"):
        served_tier(settings(tier="edge"), kind=TierKind.CLOUD)


def test_the_worker_command_names_the_application_of_the_kind_and_no_secret() -> None:
    command = worker_command(settings().read_tiers()["cloud"], name="cloud-1@here")
    assert "worker_cloud.app" in command
    assert "cloud-1@here" in command
    assert "hush-hush" not in " ".join(command)


GOOD = new_id()


def test_a_message_names_one_microbatch() -> None:
    assert microbatch_of({"v": 1, "microbatch_id": GOOD}) == GOOD


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"v": 1},
        {"v": 2, "microbatch_id": GOOD},
        {"v": True, "microbatch_id": GOOD},
        {"v": 1.0, "microbatch_id": GOOD},
        {"v": "1", "microbatch_id": GOOD},
        {"v": 1, "microbatch_id": GOOD, "prompt": "x"},
        {"v": 1, "microbatch_id": GOOD.upper()},
        {"v": 1, "microbatch_id": GOOD.replace("-", "")},
        {"v": 1, "microbatch_id": "'; drop table job; --" + "x" * 15},
        {"v": 1, "microbatch_id": [GOOD]},
        {"v": 1, "microbatch_id": "x" * 10_000_000},
    ],
)
def test_whatever_else_arrives_names_nothing(message: object) -> None:
    assert microbatch_of(message) is None


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restored_logging")
@pytest.mark.parametrize("form", ["json", "text"])
def test_log_lines_carry_no_secret_and_no_control_character(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    # Given a broker with a password
    configure(settings(log_format=form, home=Path("x")), service="test")
    # When it is logged in every way a careless caller could
    structlog.get_logger("ours").warning(
        "event", url=BROKER.get_secret_value(), nested={"a": ["hush-hush"]}, text="\x1b[2Jcleared"
    )
    logging.getLogger("theirs").warning("connecting to %s", "postgresql+psycopg://me:other@host/db")
    try:
        raise ValueError(BROKER.get_secret_value())
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    # Then neither the passwords nor the escape get out
    lines = capsys.readouterr().err
    assert "hush-hush" not in lines
    assert "other@" not in lines
    assert "\x1b" not in lines
    assert "ValueError" in lines
    if form == "json":
        first, second = (json.loads(line) for line in lines.splitlines()[:2])
        assert (first["event"], first["service"], first["level"]) == ("event", "test", "warning")
        assert second["event"] == "connecting to postgresql+psycopg://***@host/db"
