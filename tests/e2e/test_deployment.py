"""The compose file's services as processes against real servers; fakes draw."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import make_url

from db.keys import Role, digest
from db.repository import Repository
from db.session import make_engine
from tests.deployment.compose import FOLDER
from tests.deployment.processes import Services
from tests.e2e.conftest import wait_for

READY_SECONDS = 120  # cold interpreters on busy cores
LIGHT = {"ROUTET2I_FAKE_MODELS": "1", "ROUTET2I_PREDICTOR": "prompt_length"}
STAY = ("scheduler", "worker-edge", "worker-cloud", "api", "flower")
PROMPTS = "".join(f"{n} red circles {'above a blue square ' * (n % 7)}\n" for n in range(1, 41))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, migrated_postgresql: str) -> Iterator[Services]:
    """Everything of the profile `cpu` that is ours, running, and Redis as the file starts it."""
    made = Services(tmp_path_factory.mktemp("compose"), database=_emptied(migrated_postgresql), changes=LIGHT)
    try:
        made.start("redis")
        migrated = wait_for(lambda: made.all["migrate"].run(), seconds=60, what="migrate ends")
        assert migrated.returncode == 0, migrated.stderr
        made.start(*STAY)
        yield made
    finally:
        made.close()


def _emptied(url: str) -> str:
    """Return a database without tables on the same server."""
    engine = make_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE DATABASE compose")
    engine.dispose()
    return make_url(url).set(database="compose").render_as_string(hide_password=False)


def answer(url: str, **headers: str) -> int:
    """Return the status of an HTTP answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_every_service_becomes_healthy_by_its_own_healthcheck(services: Services) -> None:
    for name in STAY:
        wait_for(services.all[name].is_healthy, seconds=READY_SECONDS, what=f"{name} is healthy")
    # And the broker's own check asks with the password, and fails with another
    redis = services.all["redis"]
    assert redis.is_healthy()
    password = redis.environment["REDISCLI_AUTH"]
    redis.environment["REDISCLI_AUTH"] = "falsch"
    assert not redis.is_healthy()
    redis.environment["REDISCLI_AUTH"] = password
    # And the database's own check knows the server
    postgres = services.all["postgres"]
    server = make_url(services.all["api"].environment["ROUTET2I_DATABASE_URL"])
    postgres.environment |= {"PGHOST": server.query["host"]} | (
        {"PGPORT": server.query["port"]} if "port" in server.query else {}
    )
    assert postgres.is_healthy()


def test_the_services_draw_a_batch_and_are_well_together(services: Services, tmp_path: Path) -> None:
    # Given a file that is submitted where the API runs, as `docker compose exec api` does
    file = tmp_path / "prompts.txt"
    file.write_text(PROMPTS)
    api = services.all["api"]
    submitted = api.run("routet2i", "submit", str(file), "--budget", "1.50", "--json")
    assert submitted.returncode == 0, submitted.stderr

    # When its workers have drawn
    def done() -> bool:
        status = json.loads(api.run("routet2i", "status", "last", "--json").stdout)
        return bool(status["complete"])

    wait_for(done, seconds=READY_SECONDS, what="the batch is complete")
    # Then both tiers drew, and the deployment is well
    rows = [
        json.loads(line)
        for line in api.run("routet2i", "results", "last", "--format", "jsonl").stdout.splitlines()
    ]
    assert [row["state"] for row in rows] == ["succeeded"] * 40
    assert {row["tier"] for row in rows} == {"edge", "cloud"}
    well = api.run("routet2i", "health", "--ready", "--json")
    assert well.returncode == 0, well.stdout
    # And the broker that Redis' command started keeps what it is given
    (broker,) = [one for one in json.loads(well.stdout)["findings"] if one["name"] == "broker"]
    assert "noeviction" in broker["detail"]


def test_the_http_interface_is_open_to_keys_only(services: Services) -> None:
    base = f"http://127.0.0.1:{services.ports[8765]}"
    wait_for(services.all["api"].is_healthy, seconds=READY_SECONDS, what="the API is healthy")
    assert [answer(f"{base}{path}") for path in ("/healthz", "/readyz")] == [200, 200]
    # Flower asks for its password
    wait_for(services.all["flower"].is_healthy, seconds=READY_SECONDS, what="Flower is healthy")
    assert answer(f"http://127.0.0.1:{services.ports[5555]}/workers") == 401


def test_the_key_of_prometheus_is_made_once_and_may_only_look(services: Services) -> None:
    # When its service runs twice, as after each `up`
    ended = [services.all["metrics-key"].run() for _ in range(2)]
    assert [one.returncode for one in ended] == [0, 0], ended
    # Then there is one key, in the file that Prometheus reads
    secret = (services.folder / "keys" / "metrics").read_text().strip()
    engine = make_engine(services.all["api"].environment["ROUTET2I_DATABASE_URL"])
    repository = Repository(engine)
    found = repository.find_key(digest(secret))
    assert found is not None
    assert found.role is Role.AUDITOR
    assert [one.client for one in repository.api_keys()] == ["metrics"]
    engine.dispose()
    # And Prometheus' configuration gets its metrics with it, which nobody else gets through a proxy
    (job,) = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["api:8765"]}]
    url = f"http://127.0.0.1:{services.ports[8765]}{job['metrics_path']}"
    wait_for(services.all["api"].is_healthy, seconds=READY_SECONDS, what="the API is healthy")
    assert answer(url, Host="api:8765") in (401, 403)
    with urllib.request.urlopen(
        urllib.request.Request(
            url, headers={"Host": "api:8765", "Authorization": f"{job['authorization']['type']} {secret}"}
        ),
        timeout=10,
    ) as page:
        families = {one.name for one in text_string_to_metric_families(page.read().decode())}
    assert "routet2i_tier_oldest_job_seconds" in families


def test_every_service_stops_in_the_time_it_is_given(services: Services) -> None:
    for name in STAY:
        wait_for(services.all[name].is_healthy, seconds=READY_SECONDS, what=f"{name} is healthy")
    # When all are stopped, one after the other
    began = time.monotonic()
    ended = {
        name: services.all[name].stop()
        for name in ("api", "flower", "worker-edge", "worker-cloud", "scheduler")
    }
    # Then nobody had to be killed; idle ones need no grace
    assert set(ended.values()) <= {0, -15}, ended
    assert ended["scheduler"] == ended["worker-edge"] == ended["worker-cloud"] == 0
    assert time.monotonic() - began < 60
