"""Files and batches over HTTP, beside what OpenAI's client asks: odd forms, foreign keys, limits."""

import asyncio
import io
import json
import os

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from db.keys import Role
from routet2i.settings import Settings
from scheduler.api.application import make_application
from scheduler.clerk import Clerk

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
LINE = json.dumps(
    {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a star"}}
).encode()


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", max_file_bytes=2_000)


@pytest.fixture
def client(repository, settings):
    """A client of an application whose clerk does not work: an order stays as it was asked."""
    repository.add_key("ann-key", client="ann", role=Role.SUBMITTER, name="")
    repository.add_key("bob-key", client="bob", role=Role.SUBMITTER, name="")
    repository.add_key("eve-key", client="eve", role=Role.AUDITOR, name="")
    repository.add_key("root-key", client="root", role=Role.ADMIN, name="")
    found = TestClient(make_application(settings, repository), raise_server_exceptions=False)
    found.headers["Authorization"] = "Bearer ann-key"
    return found


def as_(name):
    return {"Authorization": f"Bearer {name}-key"}


def upload(client, raw=LINE, *, name="lines.jsonl", headers=None, **parts):
    return client.post(
        "/v1/files",
        files={"file": (name, io.BytesIO(raw))},
        data={"purpose": "batch", **parts},
        headers=headers,
    )


def order(client, *, headers=None, file=None, **more):
    file = file or upload(client).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/images/generations", "completion_window": "24h", **more}
    return client.post("/v1/batches", json=body, headers=headers)


def error(answer):
    return answer.status_code, answer.json()["error"]["code"]


def raw_upload(client, *, key, pieces):
    """Post pieces of a form without its length; return the status, and how many pieces were taken."""
    taken, statuses = [], []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "headers": [
            (b"authorization", f"Bearer {key}".encode()),
            (b"content-type", b"multipart/form-data; boundary=x"),
        ],
        "client": ("test", 1),
        "server": ("test", 80),
    }

    async def receive():
        taken.append(1)
        return {"type": "http.request", "body": pieces[len(taken) - 1], "more_body": True}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(client.app(scope, receive, send))
    return statuses[0], len(taken)


def test_an_upload_is_refused_before_it_is_read_if_the_key_is_not_good(client):
    assert raw_upload(client, key="wrong", pieces=[]) == (401, 0)
    assert raw_upload(client, key="eve-key", pieces=[]) == (403, 0)


def test_a_file_that_is_too_long_is_refused_by_what_it_says_and_by_what_comes(client):
    assert error(upload(client, b"x" * 2_001)) == (413, "file_too_long")
    assert upload(client, b"x" * 2_000).is_success
    assert error(upload(client, b"x" * 200_000)) == (413, "file_too_long")
    # Given a form that does not say how long it is
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    pieces = [head] + [b"x" * 10_000] * 100
    # Then it is not read to its end
    status, taken = raw_upload(client, key="ann-key", pieces=pieces)
    assert status == 413
    assert taken < 12


def test_files_of_a_client_that_has_too_many_bytes_are_refused_until_some_are_deleted(repository, tmp_path):
    # Given clients whose uploads may have 1,000 bytes in all
    settings = Settings(home=tmp_path / "home", max_file_bytes=800, client_file_bytes=1_000)
    repository.add_key("ann-key", client="ann", role=Role.SUBMITTER, name="")
    repository.add_key("bob-key", client="bob", role=Role.SUBMITTER, name="")
    client = TestClient(make_application(settings, repository), headers=as_("ann"))
    first = upload(client, b"x" * 600).json()
    # When one more does not fit, then it is refused, and nothing of it stays on the disk
    kept = sorted(settings.files.rglob("*"))
    answer = upload(client, b"y" * 401)
    assert error(answer) == (413, "file_quota")
    assert "1000 bytes in all, 400 are left" in answer.json()["error"]["message"]
    assert error(upload(client, b"y" * 300_000)) == (413, "file_quota")
    assert sorted(settings.files.rglob("*")) == kept
    # And one that fits is taken, as are those of others; the longest file is another limit
    assert upload(client, b"z" * 400).is_success
    assert error(upload(client, b"z")) == (413, "file_quota")
    assert upload(client, b"x" * 800, headers=as_("bob")).is_success
    # And what was deleted leaves room when its bytes are gone, not before: else the disk could be filled
    assert client.delete(f"/v1/files/{first['id']}").is_success
    assert error(upload(client, b"y" * 600)) == (413, "file_quota")
    for path in settings.files.rglob("*"):
        os.utime(path, (0, 0))
    assert Clerk(repository, settings).tidy() == 1
    assert upload(client, b"y" * 600).is_success


def test_an_order_that_is_too_long_is_refused_without_a_look_at_the_key(client):
    body = b'{"input_file_id": "' + b"x" * (1 << 20)
    assert error(client.post("/v1/batches", content=body)) == (413, "body_too_long")
    assert error(client.post("/v1/images/generations", content=body)) == (413, "body_too_long")
    # and also if it does not say how long it is
    answer = client.post("/v1/batches", content=iter([body[: 1 << 19]] * 3), headers=as_("wrong"))
    assert error(answer) == (413, "body_too_long")


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"nothing of that kind"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--',
        ),
        ("multipart/form-data; boundary=\xff", b""),
    ],
)
def test_a_form_that_is_none_is_refused(client, content_type, raw):
    headers = {b"Content-Type": content_type.encode("latin-1")}
    assert error(client.post("/v1/files", content=raw, headers=headers)) == (400, "form")


def test_parts_that_make_no_sense_are_refused(client):
    assert error(upload(client, purpose="vision")) == (400, "purpose")
    assert error(upload(client, b"")) == (400, "empty")
    for wrong in ("1", "9" * 30, "-3600", "x", "²"):
        parts = {"expires_after[anchor]": "created_at", "expires_after[seconds]": wrong}
        assert error(upload(client, **parts)) == (400, "expires_after")
    good = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    found = upload(client, **good).json()
    assert found["expires_at"] - found["created_at"] == 3_600


def test_a_files_name_is_data(client):
    for name, kept in (("../../evil\x07.jsonl", "../../evil"), ("ü" * 400, "ü" * 255)):
        found = upload(client, name=name).json()["filename"]
        assert found.startswith(kept[:5])
        assert found.isprintable()
        assert len(found) <= 255


def test_an_order_is_shown_as_it_was_asked(client):
    found = order(
        client,
        metadata={"a": "b"},
        budget_usd=2.5,
        name="mine",
        priority=3,
        deadline="2h",
        completion_window="90m",
    ).json()
    assert found["status"] == "validating"
    assert found["expires_at"] - found["created_at"] == 5_400
    assert found["metadata"] == {"a": "b"}
    assert found["routet2i"] == {
        "batch_id": None,
        "client": "ann",
        "name": "mine",
        "budget_usd": 2.5,
        "spent_usd": 0.0,
        "priority": 3,
        "deadline": "2h",
        "preview": None,
    }
    assert client.get(f"/v1/batches/{found['id']}").json() == found


def test_metadata_may_be_as_long_as_openais(client):
    longest = {f"{n:064}": "ü" * 512 for n in range(16)}
    found = order(client, metadata=longest).json()
    assert client.get(f"/v1/batches/{found['id']}").json()["metadata"] == longest
    assert order(client, metadata={}).json()["metadata"] == {}
    assert order(client).json()["metadata"] is None


def test_a_list_of_batches_is_turned_over_as_openais(client):
    ids = [order(client).json()["id"] for _ in range(5)][::-1]
    pages, after = [], {}
    while True:
        page = client.get("/v1/batches", params={"limit": 2} | after).json()
        assert (page["object"], page["first_id"], page["last_id"]) == (
            "list",
            page["data"][0]["id"],
            page["data"][-1]["id"],
        )
        pages.append([one["id"] for one in page["data"]])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    # a page behind the last one is empty, and one without a limit has twenty
    end = client.get("/v1/batches", params={"after": ids[-1]}).json()
    assert (end["data"], end["first_id"], end["last_id"], end["has_more"]) == ([], None, None, False)
    for _ in range(16):
        order(client)
    whole = client.get("/v1/batches").json()
    assert (len(whole["data"]), whole["has_more"]) == (20, True)


def test_a_public_address_stands_before_that_of_the_request(settings, repository, client):
    file = upload(client).json()["id"]
    public = settings.with_changes(public_url="https://pictures.example/")
    theirs = TestClient(make_application(public, repository), headers=as_("ann"))
    for asked, base in ((client, "http://testserver"), (theirs, "https://pictures.example")):
        found = order(asked, file=file).json()["id"]
        assert repository.find_order(found).base_url == base
    for wrong in ("pictures.example", "ftp://a", "https://a/?b", "https://a b", "https://u:p@a"):
        with pytest.raises(ValidationError):
            Settings(public_url=wrong)


WRONG = (
    ({"endpoint": "/v1/responses"}, "endpoint"),
    ({"completion_window": "2026-11-22T18:00:00Z"}, "completion_window"),
    ({"completion_window": "400d"}, "completion_window"),
    ({"metadata": {"k" * 65: "v"}}, "metadata.k" + "k" * 64 + ".[key]"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"name": "a\x00b"}, "name"),
    ({"name": "\ud800"}, "name"),
    ({"deadline": "never"}, "deadline"),
    ({"budget_usd": "NaN"}, "budget_usd"),
    ({"budget_usd": 1e300}, "budget_usd"),
    ({"priority": 101}, "priority"),
    ({"preview": "last"}, "preview"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ({"more": 1}, "more"),
)


def test_an_order_that_makes_no_sense_names_the_field(client):
    file = upload(client).json()["id"]
    whole = {"input_file_id": file, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    for wrong, param in WRONG:
        answer = client.post(
            "/v1/batches",
            content=json.dumps({**whole, **wrong}),
            headers={"Content-Type": "application/json"},
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_same_order_in_other_words_is_the_same_batch(client):
    key = {"Idempotency-Key": "k", **as_("ann")}
    first = order(client, headers=key, budget_usd=2.5, metadata={"a": "1", "b": "2"}).json()
    again = order(client, headers=key, budget_usd="2.50", metadata={"b": "2", "a": "1"}).json()
    assert again["id"] == first["id"]
    answer = order(client, headers=key, budget_usd=2.51, metadata={"a": "1", "b": "2"})
    assert error(answer) == (409, "idempotency_conflict")
    # another client's key is another key
    assert (
        order(
            client, headers={**key, **as_("bob")}, file=upload(client, headers=as_("bob")).json()["id"]
        ).json()["id"]
        != first["id"]
    )
    for wrong in ("", "a b", "x" * 256):
        assert error(order(client, headers={**as_("ann"), "Idempotency-Key": wrong})) == (
            400,
            "idempotency_key",
        )


def test_a_key_finds_its_batch_when_the_file_is_gone(client, repository):
    # Given an order with a key, whose file was deleted since
    key = {"Idempotency-Key": "k", **as_("ann")}
    file = upload(client).json()["id"]
    first = order(client, headers=key, file=file, priority=1).json()
    assert client.delete(f"/v1/files/{file}").is_success
    # When the same is sent again, Then it is the same batch
    assert order(client, headers=key, file=file, priority=1).json() == first
    # And another order of that key is refused, whatever is there
    assert error(order(client, headers=key, file=file, priority=2)) == (409, "idempotency_conflict")
    other = upload(client, LINE + b"\n" + LINE).json()["id"]
    assert error(order(client, headers=key, file=other, priority=1)) == (409, "idempotency_conflict")
    # And nobody can order of that file anew: not with another key, nor as another client
    for headers in ({**key, "Idempotency-Key": "l"}, as_("ann"), {**key, **as_("bob")}):
        assert error(order(client, headers=headers, file=file, priority=1)) == (404, "not_found")
    # And the file uploaded again is the same order too
    assert order(client, headers=key, priority=1).json()["id"] == first["id"]


def test_what_is_no_id_of_ours_is_not_found_and_asks_no_database(client):
    for path in (
        *("/v1/files/x", "/v1/files/file-%00", "/v1/files/file-" + "G" * 32, "/v1/files/x/content"),
        *("/v1/batches/batch_1", "/v1/batches/%ff", "/v1/batches/batch_" + "0" * 32, "/v1/models/%00"),
    ):
        assert client.get(path).status_code == 404, path
    assert client.get("/v1/files", params={"after": "x"}).status_code == 400
    assert client.get("/v1/batches", params={"after": "batch_\x00"}).status_code == 400
    assert client.get("/v1/batches", params={"limit": 101}).status_code == 400
    assert order(client, file="file-" + "0" * 32).status_code == 404


def test_an_auditor_sees_and_an_administrator_changes_what_others_ordered(client):
    found = order(client).json()
    assert client.get(f"/v1/batches/{found['id']}", headers=as_("bob")).status_code == 404
    assert client.get(f"/v1/batches/{found['id']}", headers=as_("eve")).json() == found
    assert client.get("/v1/batches", headers=as_("bob")).json()["data"] == []
    assert client.get("/v1/batches", headers=as_("eve")).json()["data"] == [found]
    assert client.post(f"/v1/batches/{found['id']}/cancel", headers=as_("bob")).status_code == 404
    assert client.post(f"/v1/batches/{found['id']}/cancel", headers=as_("eve")).status_code == 403
    cancelled = client.post(f"/v1/batches/{found['id']}/cancel", headers=as_("root")).json()
    assert cancelled["status"] == "cancelling"
    assert cancelled["cancelling_at"] >= cancelled["created_at"]


def test_a_file_whose_bytes_are_gone_says_so(client, settings):
    found = upload(client).json()
    (stored,) = [path for path in settings.files.rglob("*") if path.is_file()]
    stored.unlink()
    assert error(client.get(f"/v1/files/{found['id']}/content")) == (410, "gone")


def test_a_file_whose_bytes_were_moved_aside_by_one_that_died_is_read(client, settings):
    found = upload(client).json()
    (stored,) = [path for path in settings.files.rglob("*") if path.is_file()]
    stored.rename(settings.files / f"{stored.name}.0.tmp")
    assert client.get(f"/v1/files/{found['id']}/content").content == LINE


def test_the_clerk_works_while_the_application_is_served(repository, settings):
    repository.add_key("ann-key", client="ann", role=Role.SUBMITTER, name="")
    with TestClient(make_application(settings, repository), headers=as_("ann")) as client:
        found = order(client).json()
        clerk = client.app.state.clerk
        for _ in range(200):
            if client.get(f"/v1/batches/{found['id']}").json()["status"] == "in_progress":
                break
            clerk._stop.wait(0.05)
        else:
            raise AssertionError("nobody read the file")
    assert not clerk._thread.is_alive()
