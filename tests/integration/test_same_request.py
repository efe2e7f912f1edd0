"""An Idempotency-Key among processes: two that serve at once, and one that begins when both have ended."""

import json
import subprocess
import sys
from typing import Any

import pytest

from db.keys import Role
from routet2i.settings import Settings

TIMES = 6  # each process sends each request
SERVING = """
import io, json, sys
from starlette.testclient import TestClient
from db.repository import Repository
from db.session import make_engine
from routet2i.settings import Settings
from scheduler.api import images
from scheduler.api.application import make_application
url, home, times, wanted = sys.argv[1:]
images.WAIT_SECONDS = 0.01  # nobody draws; its job stays, for its key comes again
http = TestClient(make_application(Settings(home=home), Repository(make_engine(url))))
print("ready", flush=True)
sys.stdin.readline()
told = []
for _ in range(int(times)):
    for key, path, body in json.loads(wanted):
        sent = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k"}
        answer = http.post(path, json=body, headers=sent)
        told.append((answer.status_code, answer.json().get("id"), answer.json().get("error", {}).get("code")))
print(json.dumps(told))
"""
IMAGE = {"prompt": "a red circle"}


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return Settings(home=tmp_path / "home")


def serve(repository: Any, settings: Settings, wanted: Any, *, processes: int, times: int) -> list[Any]:
    """Send the same requests from processes that begin at once; return what each of all was told."""
    url = repository.engine.url.render_as_string(hide_password=False)
    arguments = [sys.executable, "-c", SERVING, url, str(settings.home), str(times), json.dumps(wanted)]
    running = [
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in running:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=120) for one in running]
    assert [one.returncode for one in running] == [0] * processes, said
    return [tuple(told) for text, _ in said for told in json.loads(text)]


def test_a_key_is_one_batch_of_one_client_whoever_serves_it_and_however_often(repository, shop, settings):
    # Given a file of each of two clients, which send the same key
    orders = {}
    for client in ("ann", "bob"):
        repository.add_key(client, client=client, role=Role.SUBMITTER, name="")
        file = repository.add_file(client=client, filename="a", size=1, sha256="0" * 64, seconds=None)
        orders[client] = {
            "input_file_id": file.id,
            "endpoint": "/v1/images/generations",
            "completion_window": "24h",
        }
    wanted = [(client, "/v1/batches", orders[client]) for client in orders]
    wanted += [(client, "/v1/images/generations", IMAGE) for client in orders]
    # When two processes get them at once, again and again
    told = serve(repository, settings, wanted, processes=2, times=TIMES)
    # Then each client has one order, and one picture's job
    assert {status for status, _, _ in told} == {200, 504}
    names = {name for status, name, _ in told if status == 200}
    assert len(names) == shop.read("SELECT count(*) FROM api_batch") == 2
    assert shop.read("SELECT count(DISTINCT client) FROM api_batch") == 2
    assert shop.read("SELECT count(*) FROM job") == shop.read("SELECT count(DISTINCT client) FROM job") == 2
    # When both have ended and another begins
    later = [("ann", "/v1/batches", orders["ann"]), ("ann", "/v1/batches", orders["ann"] | {"priority": 1})]
    later += [("ann", "/v1/images/generations", one) for one in (IMAGE, IMAGE | {"n": 2})]
    same, other, image, changed = serve(repository, settings, later, processes=1, times=1)
    # Then it knows them still: the same is the same, what was changed is refused
    assert same[0] == 200
    assert same[1] in names
    assert image[0] == 504
    assert other[0] == changed[0] == 409
    assert other[2] == changed[2] == "idempotency_conflict"
    assert shop.read("SELECT count(*) FROM api_batch") == shop.read("SELECT count(*) FROM job") == 2
    assert shop.is_sound()
