"""`/routet2i/v1/webhooks` on both databases: who may, what is shown, page by page."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from db.keys import Role
from routet2i.settings import Settings
from scheduler.api.application import make_application

PATH = "/routet2i/v1/webhooks"
URL = "https://hooks.example/x"


@pytest.fixture
def browser(repository, tmp_path) -> Iterator[TestClient]:
    for client, role in (("ann", Role.SUBMITTER), ("bob", Role.SUBMITTER), ("eve", Role.AUDITOR)):
        repository.add_key(client, client=client, role=role, name="")
    repository.add_key("root", client="default", role=Role.ADMIN, name="")
    with TestClient(make_application(Settings(home=tmp_path), repository)) as found:
        yield found


def as_(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def add(browser: TestClient, key: str = "ann", **asked: object) -> dict[str, str]:
    answer = browser.post(PATH, headers=as_(key), json={"url": URL, **asked})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_client_adds_sees_tries_and_removes_its_own(browser, repository):
    # Given a webhook, whose secret is in this answer alone
    made = add(browser, events=["batch.failed"], name="mine")
    assert made["secret"].startswith("whsec_")
    assert (made["client"], made["events"]) == ("ann", ["batch.failed"])
    shown = browser.get(f"{PATH}/{made['id']}", headers=as_("ann")).json()
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    # When it is tried
    sent = browser.post(f"{PATH}/{made['id']}/test", headers=as_("ann"))
    assert sent.status_code == 202
    delivery = repository.claim_delivery()
    assert delivery.id == sent.json()["delivery_id"]
    repository.conclude_delivery(
        delivery, status=503, error="the receiver answered 503", milliseconds=4, chance=0
    )
    # Then its log says how that went
    (told,) = browser.get(f"{PATH}/{made['id']}/deliveries", headers=as_("ann")).json()["data"]
    assert (told["state"], told["event"]) == ("pending", "webhook.test")
    assert (told["tries"][0]["status"], told["tries"][0]["milliseconds"]) == (503, 4)
    assert told["next_at"] > told["created_at"]
    # And removed it is gone, but for its log
    gone = browser.delete(f"{PATH}/{made['id']}", headers=as_("ann"))
    assert gone.json() == {"object": "webhook", "id": made["id"], "deleted": True}
    assert browser.get(f"{PATH}/{made['id']}", headers=as_("ann")).status_code == 404
    assert browser.get(f"{PATH}/{made['id']}/deliveries", headers=as_("ann")).status_code == 200


def test_anothers_webhook_is_not_there(browser):
    made = add(browser)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries")):
        answer = browser.request(method, f"{PATH}/{made['id']}{path}", headers=as_("bob"))
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == (
            browser.request(method, f"{PATH}/none{path}", headers=as_("bob"))
            .json()["error"]["message"]
            .replace("none", made["id"])
        )
    assert browser.get(PATH, headers=as_("bob")).json()["data"] == []


def test_roles_may_what_they_may(browser):
    made = add(browser)
    assert browser.post(PATH, headers=as_("eve"), json={"url": URL}).status_code == 403
    assert browser.get(f"{PATH}/{made['id']}", headers=as_("eve")).status_code == 200
    assert browser.delete(f"{PATH}/{made['id']}", headers=as_("eve")).status_code == 403
    assert browser.post(PATH, headers=as_("ann"), json={"url": URL, "client": "bob"}).status_code == 403
    assert add(browser, "root", client="bob")["client"] == "bob"
    assert browser.post(PATH, headers=as_("root"), json={"url": URL, "client": "shadow"}).status_code == 403
    assert browser.get(PATH).status_code == 401


def test_a_list_is_read_page_by_page(browser):
    made = [add(browser, name=str(number))["id"] for number in range(5)]
    found, after, more = [], {}, True
    while more:
        page = browser.get(PATH, headers=as_("ann"), params={"limit": 2, **after}).json()
        found += [one["id"] for one in page["data"]]
        after, more = {"after": found[-1]}, page["has_more"]
    assert found == made[::-1]


@pytest.mark.parametrize(
    "asked",
    [
        *({}, {"url": ""}, {"url": "http://hooks.example/"}, {"url": "https://127.0.0.1/"}, {"url": 7}),
        *({"url": URL, "events": []}, {"url": URL, "events": ["batch.eaten"]}, {"url": URL, "more": 1}),
        *({"url": URL, "name": "x" * 129}, {"url": URL, "client": "a/b"}),
    ],
)
def test_what_is_wrong_is_refused(browser, asked):
    answer = browser.post(PATH, headers=as_("root"), json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_webhook_for_a_batch_of_somebody_else_finds_none(browser, shop):
    batch = shop.submit(1, client="bob")
    answer = browser.post(PATH, headers=as_("ann"), json={"url": URL, "batch_id": batch})
    assert answer.status_code == 404
    assert add(browser, "bob", batch_id=batch)["batch_id"] == batch


def test_a_batch_may_be_named_as_it_was_ordered_once_its_file_is_read(browser, repository, shop):
    # Given an order whose file nobody has read, and one whose batch is there; the clerk looks at neither
    browser.app.state.clerk.stop()
    file = repository.add_file(client="ann", filename="a", size=1, sha256="0" * 64, seconds=None)
    body = {"input_file_id": file.id, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    unread, read = (browser.post("/v1/batches", headers=as_("ann"), json=body).json()["id"] for _ in range(2))
    batch = shop.submit(1, client="ann")
    shop.change("UPDATE api_batch SET batch_id = :batch WHERE id = :id", batch=batch, id=read)
    # Then the latter is found by the id that its client knows
    assert add(browser, batch_id=read)["batch_id"] == batch
    for key, name, status in (("ann", unread, 409), ("bob", read, 404), ("ann", "batch_x", 404)):
        answer = browser.post(PATH, headers=as_(key), json={"url": URL, "batch_id": name})
        assert answer.status_code == status, answer.text
