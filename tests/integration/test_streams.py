"""A file that is made while it is read: if that breaks off, its reader learns it, and the log says why."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Engine

from db import lines
from db.repository import Repository
from routet2i.errors import ServiceUnavailable
from routet2i.images import ImageStore
from tests.integration.served import Served

PROMPT = "zebracanary"
JOBS = 6


@pytest.fixture
def output(make_database: Callable[[str], Engine], tmp_path: Path) -> Iterator[tuple[Served, str]]:
    """A deployment, and where the output file of a batch is read."""
    engine = make_database("sqlite")
    with Served(Repository(engine), tmp_path / "home") as served:
        http = served.http()
        asked = [
            {
                "custom_id": f"{n}",
                "method": "POST",
                "url": "/v1/images/generations",
                "body": {"prompt": f"{n} {PROMPT}"},
            }
            for n in range(JOBS)
        ]
        raw = "\n".join(map(json.dumps, asked)).encode()
        file = http.post("/v1/files", files={"file": ("f.jsonl", raw)}, data={"purpose": "batch"}).json()
        order = {
            "input_file_id": file["id"],
            "endpoint": "/v1/images/generations",
            "completion_window": "24h",
        }
        batch = http.post("/v1/batches", json=order).json()
        patience = time.monotonic() + 90
        while batch["status"] != "completed":
            assert time.monotonic() < patience, batch
            time.sleep(0.05)
            batch = http.get(f"/v1/batches/{batch['id']}").json()
        yield served, f"/v1/files/{batch['output_file_id']}/content"
    engine.dispose()


@pytest.fixture
def told(output: tuple[Served, str]) -> Iterator[list[str]]:
    """What the web server logs from now on, with its tracebacks."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    handler, logger = Kept(), logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def pictures(served: Served) -> list[Path]:
    """Return the files of all pictures."""
    return sorted(ImageStore(root=served.settings.pictures).root.rglob("*.png"))


@pytest.mark.parametrize("fault", ["disk", "database"])
def test_a_file_that_breaks_off_in_its_middle_does_not_look_whole(
    output: tuple[Served, str], told: list[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    # Given an output file, and a disk or a database that fails behind its second line
    served, path = output
    http = served.http()
    whole = http.get(path).content
    assert len(whole.splitlines()) == JOBS
    delivered = lines.delivered

    def failing(engine: Engine, batch_id: str) -> Iterator[lines.DeliveredJob]:
        for n, job in enumerate(delivered(engine, batch_id)):
            if n == 2 and fault == "database":
                raise ServiceUnavailable("the database does not answer")
            if n == 2:
                picture = ImageStore(root=served.settings.pictures).path_of(job.pictures[0].sha256)
                picture.unlink()
                picture.mkdir()
            yield job

    monkeypatch.setattr(lines, "delivered", failing)
    # When it is read
    read: list[bytes] = []
    with http.stream("GET", path) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        with pytest.raises(httpx2.RemoteProtocolError):
            read.extend(pieces)
    # Then its reader has seen two lines, and that the rest is missing
    assert b"".join(read) == b"".join(whole.splitlines(keepends=True)[:2])
    # And the log says why, without a prompt or a picture
    (line,) = told
    assert ("IsADirectoryError" if fault == "disk" else "the database does not answer") in line
    assert PROMPT not in line
    assert len(line) < 20_000


def test_pictures_that_are_pruned_while_a_file_is_read_are_missing_in_whole_lines(
    output: tuple[Served, str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an output file whose pictures are pruned behind its second line
    served, path = output
    http = served.http()
    delivered = lines.delivered

    def pruning(engine: Engine, batch_id: str) -> Iterator[lines.DeliveredJob]:
        for n, job in enumerate(delivered(engine, batch_id)):
            if n == 2:
                for picture in pictures(served):
                    picture.unlink()
            yield job

    monkeypatch.setattr(lines, "delivered", pruning)
    # When it is read, Then it is whole, and says which pictures are not there
    found = [json.loads(one)["response"]["body"] for one in http.get(path).content.splitlines()]
    assert [one["data"][0]["b64_json"] is None for one in found] == [False] * 2 + [True] * (JOBS - 2)
    assert told == []
