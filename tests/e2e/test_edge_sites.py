"""Edge sites with queues of their own, over TLS: processes told by the files in docker/; fakes draw."""

import base64
import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from db.audit import batch_status
from db.session import check_schema, make_engine
from routet2i.errors import ServiceUnavailable
from scheduler.broker import free_port
from tests.deployment.sites import Sites
from tests.e2e.conftest import wait_for

READY_SECONDS = 120  # cold interpreters on busy cores
LIGHT = {"ROUTET2I_FAKE_MODELS": "1", "ROUTET2I_PREDICTOR": "prompt_length"}
TIERS = ("edge-berlin", "edge-oslo", "cloud")
LINES = [{"prompt": f"{n} red circles", "tier": TIERS[n % 3]} for n in range(1, 31)]
LINES += [{"prompt": f"{n} blue squares"} for n in range(1, 11)]  # the window chooses
FLOWER = {"FLOWER_BASIC_AUTH": "us:geheim", "FLOWER_COOKIE_SECRET": "s" * 32}

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes certificates, is not here"
)


@pytest.fixture(scope="module")
def database(postgresql_server: str) -> str:
    """A PostgreSQL database without tables, for the whole file."""
    engine = make_engine(postgresql_server)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE DATABASE sites")
    url = engine.url.set(database="sites").render_as_string(hide_password=False)
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[Sites]:
    """A centre with a scheduler, cloud and Flower, and two sites with a worker each."""
    made = Sites(tmp_path_factory.mktemp("sites"), database=database, changes=LIGHT)
    try:
        migrated = made.run("centre", *made.arguments_of_centre("Job", "migrate"))
        assert migrated.returncode == 0, migrated.stderr
        yield made
    finally:
        made.close()


def workers_of(url: str) -> dict[str, set[str]]:
    """Return tier -> tiers in the names of the workers that claimed its microbatches."""
    engine = make_engine(url)
    found: dict[str, set[str]] = {}
    with engine.connect() as connection:
        rows: Any = connection.exec_driver_sql(
            "SELECT m.tier, a.worker_id FROM attempt a JOIN microbatch m ON m.id = a.microbatch_id"
        )
        for tier, worker in rows:
            found.setdefault(tier, set()).add(worker.rpartition("@")[0].rpartition("-")[0])
    engine.dispose()
    return found


def test_a_worker_with_the_wrong_certificates_is_refused_and_told_why(sites: Sites) -> None:
    worker = sites.arguments("edge-oslo")
    told = sites.environment("edge-oslo")
    broker, database = told["ROUTET2I_BROKER_URL"], told["ROUTET2I_DATABASE_URL"]
    ours, strange = str(sites.certificates), str(sites.stranger)

    def refusal(**changes: str) -> str:
        ended = sites.run("edge-oslo", *worker, **changes)
        assert ended.returncode == 5, ended.stderr
        said = ended.stderr
        assert "Traceback" not in said
        assert "b" * 48 not in said  # the password
        return " ".join(said.split())

    # When it trusts another authority than the broker's, or shows no certificate
    said = refusal(ROUTET2I_BROKER_URL=broker.replace(f"ssl_ca_certs={ours}", f"ssl_ca_certs={strange}"))
    assert "certificate is not vouched for" in said
    assert "ssl_ca_certs" in said
    said = refusal(ROUTET2I_BROKER_URL=broker.partition("&ssl_certfile")[0])
    assert "refuses our certificate, or wants one" in said
    assert "ssl_certfile" in said
    # Then so does the database
    said = refusal(ROUTET2I_DATABASE_URL=database.partition("&sslcert")[0])
    assert "certificate required" in said
    for url, why in (
        (database.replace(f"rootcert={ours}", f"rootcert={strange}"), "certificate verify failed"),
        (database.replace(f"{ours}/oslo", f"{strange}/stranger"), "unknown ca"),
    ):
        engine = make_engine(url)
        with pytest.raises(ServiceUnavailable, match=why):
            check_schema(engine)
        engine.dispose()


def test_two_sites_and_the_cloud_draw_from_their_own_queues_over_tls(sites: Sites, database: str) -> None:
    # Given a centre and two sites, and a file that has work for each
    sites.start("centre", *sites.arguments_of_centre("Deployment", "scheduler"))
    sites.start("centre", *sites.arguments_of_centre("Deployment", "worker-cloud"))
    for site in ("edge-berlin", "edge-oslo"):
        assert sites.arguments(site) == ["worker", site]
        sites.start(site, *sites.arguments(site))
    flower = free_port()
    sites.start_flower(flower, **FLOWER)
    # And each is ready by the probes that its pod has
    for name in ("scheduler", "worker-cloud", "worker-edge"):
        for probe in sites.probes(name):
            wait_for(
                lambda probe=probe: sites.run("centre", *probe).returncode == 0,
                seconds=READY_SECONDS,
                what=f"{name}: {probe}",
            )
    file = sites.home / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    # When it is submitted
    submitted = sites.run("centre", "submit", str(file), "--budget", "1.20", "--json")
    assert submitted.returncode == 0, submitted.stderr
    engine = make_engine(database)
    batch = json.loads(submitted.stdout)["batch_id"]
    wait_for(
        lambda: batch_status(engine, batch).complete, seconds=READY_SECONDS, what="the batch is complete"
    )
    engine.dispose()
    # Then every tier drew its own, and each picture was drawn by a worker of its tier
    listed = sites.run("centre", "results", "--format", "jsonl").stdout.splitlines()
    rows = [json.loads(line) for line in listed]
    assert [row["state"] for row in rows] == ["succeeded"] * 40
    assert [row["tier"] for row in rows[:30]] == [line["tier"] for line in LINES[:30]]
    assert workers_of(database) == {tier: {tier} for tier in TIERS}
    # And each came with its own certificate
    assert sites.database.callers == {"centre", "berlin", "oslo"}
    assert sites.broker is None or sites.broker.callers == {"centre", "berlin", "oslo"}
    # And Flower, too, sees the queues over TLS
    asked = urllib.request.Request(
        f"http://127.0.0.1:{flower}/broker",
        headers={"Authorization": "Basic " + base64.b64encode(b"us:geheim").decode()},
    )

    def queues() -> set[str]:
        with suppress(OSError), urllib.request.urlopen(asked, timeout=30) as page:
            return set(re.findall(r"[a-z]+\.[a-z]+|cloud", page.read().decode()))
        return set()

    wait_for(
        lambda: {"edge.berlin", "edge.oslo", "cloud"} <= queues(),
        seconds=READY_SECONDS,
        what="Flower has heard of all queues",
    )
