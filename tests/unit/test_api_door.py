"""Who may call the HTTP interface, and how it refuses; no server, no database."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from db.keys import KeyRow, Role, digest
from routet2i import errors
from scheduler.api import answers
from scheduler.api.callers import COOKIE, Admin, AnyCaller, Auditor, Caller, Doorkeeper, Submitter
from scheduler.api.headers import HEADERS, SafeHeaders
from scheduler.api.limits import Limits


class Keys:
    """As much of a repository as a doorkeeper needs."""

    def __init__(self) -> None:
        self.asked = 0
        self.roles = {digest(role.value): role for role in Role}

    def find_key(self, sha256: str) -> KeyRow | None:
        self.asked += 1
        role = self.roles.get(sha256)
        if role is None:
            return None
        return KeyRow(
            id="k", client="ann", role=role, name="", shown="", created_ms=0, expires_ms=None,
            revoked_ms=None, used_ms=None,
        )  # fmt: skip


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> list[float]:
    """Seconds; it stands, however long a busy machine takes for what a test does."""
    return [100.0]


@pytest.fixture
def client(keys: Keys, clock: list[float]) -> Iterator[TestClient]:
    application = FastAPI()
    application.state.doorkeeper = Doorkeeper(keys, clock=lambda: clock[0])
    application.state.limits = Limits(None)
    application.add_middleware(SafeHeaders)
    answers.install(application)

    @application.api_route("/any", methods=["GET", "POST"])
    def any_(found: AnyCaller) -> str:
        return f"{found.client} {found.role.value}"

    @application.get("/submit")
    def submit(found: Submitter) -> str:
        return found.client

    @application.get("/audit")
    def audit(found: Auditor) -> str:
        return found.client

    @application.get("/admin")
    def admin(found: Admin) -> str:
        return found.client

    @application.get("/raise/{name}")
    def raised(name: str) -> str:
        kind = getattr(errors, name)
        raise kind("why; what to type", **({"waiting": 1, "limit": 1} if name == "QueueFull" else {}))

    with TestClient(application, raise_server_exceptions=False) as found:
        yield found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "send a key"),
        (bearer("wrong"), "unknown"),
        ({"Authorization": "Basic abc"}, "send a key"),
        ({"Authorization": "Bearer "}, "send a key"),
    ],
)
def test_nobody_comes_in_without_a_good_key(client, headers, says):
    answer = client.get("/any", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("submitter", {"/submit"}), ("auditor", {"/audit"}), ("admin", {"/submit", "/audit", "/admin"})],
)
def test_a_role_opens_its_own_routes(client, role, allowed):
    opened = {
        path for path in ("/submit", "/audit", "/admin") if client.get(path, headers=bearer(role)).is_success
    }
    assert opened == allowed
    assert client.get("/any", headers=bearer(role)).json() == f"ann {role}"


def test_a_role_that_may_not_is_told_so(client):
    answer = client.get("/admin", headers=bearer("auditor"))
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


def test_a_caller_sees_and_changes_what_its_role_says():
    made = {role: Caller(key_id="k", client="ann", role=role) for role in Role}
    assert {role for role, one in made.items() if one.may_see("bob")} == {Role.AUDITOR, Role.ADMIN}
    assert all(one.may_see("ann") for one in made.values())
    assert {role for role, one in made.items() if one.may_change("ann")} == {Role.SUBMITTER, Role.ADMIN}
    assert {role for role, one in made.items() if one.may_change("bob")} == {Role.ADMIN}


def test_a_key_that_was_revoked_is_refused_at_once(client, keys):
    # Given a key that was good a moment ago
    assert client.get("/any", headers=bearer("admin")).is_success
    # When it is revoked, then the next request is refused
    keys.roles.clear()
    assert client.get("/any", headers=bearer("admin")).status_code == 401


def test_a_wrong_key_is_asked_of_the_database_once_in_a_while(client, keys, clock):
    # When a page of yesterday comes with its old cookie again and again
    for _ in range(300):
        assert client.get("/any", headers=bearer("old")).status_code == 401
    # Then the database hears of it once, and once more after some seconds
    assert keys.asked == 1
    clock[0] += 6
    client.get("/any", headers=bearer("old"))
    assert keys.asked == 2


def test_an_address_that_tries_many_keys_is_slowed_down_and_good_keys_are_not(client, keys, clock):
    # Given somebody who is in
    assert client.get("/any", headers=bearer("admin")).is_success
    # When his neighbour behind the same address guesses
    answers_ = [client.get("/any", headers=bearer(f"guess{n}")) for n in range(150)]
    # Then most guesses are not even looked at
    assert {one.status_code for one in answers_} == {401, 429}
    assert keys.asked == 101  # his, and ten seconds' worth of guesses
    assert answers_[-1].json()["error"]["code"] == "too_many_keys"
    assert int(answers_[-1].headers["retry-after"]) >= 1
    # And who is in stays in
    assert client.get("/any", headers=bearer("admin")).is_success
    # And ten guesses a second go on
    clock[0] += 1
    answers_ = [client.get("/any", headers=bearer(f"later{n}")) for n in range(20)]
    assert [one.status_code for one in answers_] == [401] * 10 + [429] * 10


def test_many_good_keys_behind_one_address_do_not_slow_each_other_down(keys):
    door = Doorkeeper(keys)
    keys.roles = {digest(f"key{n}"): Role.SUBMITTER for n in range(500)}
    for n in range(500):
        assert door.admit(f"key{n}", address="10.0.0.1").role is Role.SUBMITTER


def test_a_pages_cookie_counts_but_not_for_what_another_site_posts(client):
    client.cookies.set(COOKIE, "admin")
    assert client.get("/any").is_success
    assert client.post("/any", headers={"Origin": "http://testserver"}).is_success
    for headers in ({}, {"Origin": "http://elsewhere.example"}, {"Origin": "null"}):
        answer = client.post("/any", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("NotFound", 404),
        ("UsageError", 400),
        ("IntakeError", 400),
        ("Conflict", 409),
        ("BudgetTooSmall", 402),
        ("QueueFull", 429),
        ("ServiceUnavailable", 503),
        ("SchemaMismatch", 503),
        ("ModelError", 500),
    ],
)
def test_our_errors_have_a_status_and_keep_their_sentence(client, name, status):
    answer = client.get(f"/raise/{name}")
    assert answer.status_code == status
    told = answer.json()["error"]["message"]
    # where the database is, and what to type there, is nothing for callers
    assert told == (answers.UNAVAILABLE if status == 503 else "why; what to type")
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_an_unknown_path_is_answered_in_the_same_form(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_answer_keeps_a_browser_from_what_it_need_not_do(client):
    for path in ("/any", "/nothing"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
