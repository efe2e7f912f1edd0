"""Every route and every role: who gets what, what nobody sees of others, what a foreign page cannot do.

The table names each route of the application; a new route fails here until somebody has said who may.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from db import files, models
from db.files import Purpose
from db.gallery import Wish, gallery
from db.keys import Role
from db.repository import Repository
from db.session import reading, transaction
from routet2i.contracts import BatchEvent, JobState
from routet2i.settings import Settings
from scheduler.api import images
from scheduler.api.application import make_application
from scheduler.api.callers import COOKIE
from scheduler.api.ours.previews import Oracle
from scheduler.file_store import FileStore
from tests.integration.served import Guess
from tests.pages import seeding
from tests.pages.seeding import Drawing, Wanted
from tests.protocol.world import order as an_order

SITE = "http://pages.test"
MARK = "annssecret"  # stands in everything that is ann's
CALLERS: dict[str, tuple[str, Role] | None] = {
    "stranger": None,
    "other": ("bob", Role.SUBMITTER),
    "auditor": ("eve", Role.AUDITOR),
    "owner": ("ann", Role.SUBMITTER),
    "admin": ("root", Role.ADMIN),
}
IMAGE = {"prompt": "a red circle"}
ORDER = {"endpoint": "/v1/images/generations", "completion_window": "24h"}
PAUSE = {"reason": "x"}

# What each route answers to: stranger, another client, auditor, owner, admin. Things in braces are ann's;
# beside it what is sent: json, form, multipart.
OPEN = (200, 200, 200, 200, 200)
OWN = (401, 404, 200, 200, 200)  # read by its client and by those who see all
CHANGED = (401, 404, 403, 200, 200)
LISTED = (401, 200, 200, 200, 200)
PAGE = (303, 404, 200, 200, 200)
ASKED = (303, 404, 403, 200, 200)
ACT = (303, 404, 403, 303, 303)
TABLE: dict[tuple[str, str], tuple[tuple[int, ...], dict[str, Any]]] = {
    ("GET", "/healthz"): (OPEN, {}),
    ("GET", "/readyz"): (OPEN, {}),
    ("GET", "/login"): (OPEN, {}),
    ("GET", "/static/x/pages.css"): (OPEN, {}),
    ("GET", "/routet2i/v1/openapi.json"): (OPEN, {}),
    ("POST", "/login"): ((401,) * 5, {"form": {"key": "wrong"}}),
    ("POST", "/logout"): ((303,) * 5, {}),
    ("GET", "/metrics"): ((401, 403, 200, 403, 200), {}),
    # OpenAI's
    ("GET", "/v1/models"): (LISTED, {}),
    ("GET", "/v1/models/edge"): (LISTED, {}),
    ("GET", "/v1/files"): (LISTED, {}),
    ("POST", "/v1/files"): ((401, 200, 403, 200, 200), {"multipart": b"{}"}),
    ("GET", "/v1/files/{file}"): (OWN, {}),
    ("GET", "/v1/files/{file}/content"): (OWN, {}),
    ("GET", "/v1/files/{output}/content"): (OWN, {}),
    ("DELETE", "/v1/files/{file}"): (CHANGED, {}),
    ("GET", "/v1/batches"): (LISTED, {}),
    ("POST", "/v1/batches"): ((401, 404, 403, 200, 200), {"json": {"input_file_id": "{file}", **ORDER}}),
    ("GET", "/v1/batches/{order}"): (OWN, {}),
    ("POST", "/v1/batches/{order}/cancel"): ((401, 404, 403, 409, 409), {}),
    ("POST", "/v1/images/generations"): ((401, 504, 403, 504, 504), {"json": IMAGE}),
    # our own
    ("GET", "/routet2i/v1/batches"): (LISTED, {}),
    ("GET", "/routet2i/v1/batches?client=ann"): (LISTED, {}),
    ("GET", "/routet2i/v1/batches/{batch}"): (OWN, {}),
    ("GET", "/routet2i/v1/batches/{batch}/jobs"): (OWN, {}),
    ("GET", "/routet2i/v1/batches/{batch}/events"): (OWN, {}),
    ("POST", "/routet2i/v1/batches/{batch}/cancel"): (CHANGED, {}),
    ("POST", "/routet2i/v1/batches/{batch}/retry"): (CHANGED, {"json": {}}),
    ("POST", "/routet2i/v1/batches/{batch}/reroute"): (CHANGED, {"json": {}}),
    ("GET", "/routet2i/v1/jobs/{job}"): (OWN, {}),
    ("POST", "/routet2i/v1/jobs/{job}/cancel"): (CHANGED, {}),
    ("GET", "/routet2i/v1/pictures/{picture}"): (OWN, {}),
    ("POST", "/routet2i/v1/previews"): ((401, 201, 403, 201, 201), {"json": {"lines": [IMAGE]}}),
    ("GET", "/routet2i/v1/clients"): (LISTED, {}),
    ("PUT", "/routet2i/v1/clients/ann"): ((401, 403, 403, 403, 200), {"json": {"weight": 2}}),
    ("GET", "/routet2i/v1/budgets"): (LISTED, {}),
    ("GET", "/routet2i/v1/budgets?scope=client&name=ann"): (OWN, {}),
    ("GET", "/routet2i/v1/budgets?scope=batch&name={batch}"): (OWN, {}),
    ("GET", "/routet2i/v1/budgets?scope=deployment&name=default"): ((401, 404, 200, 404, 200), {}),
    ("PUT", "/routet2i/v1/budgets"): (
        (401, 403, 403, 403, 200),
        {"json": {"scope": "client", "name": "ann", "limit_usd": 1}},
    ),
    ("GET", "/routet2i/v1/pauses"): (LISTED, {}),
    ("PUT", "/routet2i/v1/pauses/client/ann"): ((401, 403, 403, 200, 200), {"json": PAUSE}),
    ("DELETE", "/routet2i/v1/pauses/client/ann"): ((401, 403, 403, 200, 200), {}),
    ("PUT", "/routet2i/v1/pauses/batch/{batch}"): (CHANGED, {"json": PAUSE}),
    ("DELETE", "/routet2i/v1/pauses/batch/{batch}"): (CHANGED, {}),
    ("PUT", "/routet2i/v1/pauses/tier/edge"): ((401, 403, 403, 403, 200), {"json": PAUSE}),
    ("DELETE", "/routet2i/v1/pauses/tier/edge"): ((401, 403, 403, 403, 200), {}),
    ("GET", "/routet2i/v1/workers"): ((401, 403, 200, 403, 200), {}),
    ("GET", "/routet2i/v1/windows"): ((401, 403, 200, 403, 200), {}),
    ("GET", "/routet2i/v1/tiers"): (LISTED, {}),
    ("GET", "/routet2i/v1/predictor/drift"): ((401, 403, 200, 403, 200), {}),
    ("GET", "/routet2i/v1/webhooks"): (LISTED, {}),
    ("POST", "/routet2i/v1/webhooks"): (
        (401, 403, 403, 201, 201),
        {"json": {"url": "https://hooks.example/x", "client": "ann"}},
    ),
    ("GET", "/routet2i/v1/webhooks/{webhook}"): (OWN, {}),
    ("GET", "/routet2i/v1/webhooks/{webhook}/deliveries"): (OWN, {}),
    ("POST", "/routet2i/v1/webhooks/{webhook}/test"): ((401, 404, 403, 202, 202), {}),
    ("DELETE", "/routet2i/v1/webhooks/{webhook}"): (CHANGED, {}),
    # pages
    ("GET", "/"): ((303, 200, 200, 200, 200), {}),
    ("GET", "/live"): ((303, 200, 200, 200, 200), {}),
    ("GET", "/batches/{batch}"): (PAGE, {}),
    ("GET", "/batches/{batch}/live"): (PAGE, {}),
    ("GET", "/batches/{batch}/ask/cancel"): (ASKED, {}),
    ("GET", "/batches/{batch}/ask/reroute"): (ASKED, {}),
    ("POST", "/batches/{batch}/pause"): (ACT, {}),
    ("POST", "/batches/{batch}/resume"): (ACT, {}),
    ("POST", "/batches/{batch}/cancel"): (ACT, {}),
    ("POST", "/batches/{batch}/retry"): (ACT, {}),
    ("POST", "/batches/{batch}/reroute"): (ACT, {"form": {"which": "edge"}}),
    ("GET", "/jobs/{job}"): (PAGE, {}),
    ("GET", "/jobs/{job}/pictures/0/whole"): (PAGE, {}),
    ("GET", "/jobs/{job}/pictures/0/small"): (PAGE, {}),
    ("GET", "/jobs/{job}/ask/reroute"): (ASKED, {}),
    ("POST", "/jobs/{job}/cancel"): (ACT, {}),
    ("POST", "/jobs/{job}/retry"): (ACT, {}),
    ("POST", "/jobs/{job}/reroute"): (ACT, {}),
    ("GET", "/tiers/edge/ask/pause"): ((303, 403, 403, 403, 200), {}),
    ("POST", "/tiers/edge/pause"): ((303, 403, 403, 403, 303), {}),
    ("POST", "/tiers/edge/resume"): ((303, 403, 403, 403, 303), {}),
    ("GET", "/budgets"): ((303, 200, 200, 200, 200), {}),
    ("POST", "/budgets/resume"): ((303, 404, 403, 404, 303), {"form": {"tier": "cloud", "reason": "paid"}}),
    ("GET", "/drift"): ((303, 404, 200, 404, 200), {}),
}


class Office:
    """A deployment in which ann has one of everything, and everybody else nothing."""

    def __init__(self, engine: Engine, home: Path) -> None:
        self.settings = Settings(home=home)
        self.repository = Repository(engine)
        self.engine = engine
        known = [
            Drawing(prompt=f"{MARK} {one.prompt}", files=one.files, difficulty=one.difficulty)
            for one in seeding.drawings(seeding.store_of(home), count=2, size=64)
        ]
        wanted = Wanted(name=f"{MARK} batch", jobs=20, client="ann", failed=0.3)
        (self.batch,) = seeding.seed(engine, [wanted], tiers=self.settings.read_tiers(), known=known)
        card = gallery(engine, Wish(batch_id=self.batch, state=JobState.SUCCEEDED)).cards[0]
        assert card.picture is not None
        self.job, self.picture = card.job_id, self._sha256(card.job_id)
        self.order, self.output = self._order()
        self.file, self.webhook = self.add_file(), self.add_webhook()
        self.doomed = {  # for those who may delete: the owner, and the administrator
            "file": [self.add_file() for _ in range(2)],
            "webhook": [self.add_webhook() for _ in range(2)],
        }
        self.application: FastAPI = make_application(self.settings, self.repository)
        self.application.state.oracle = Oracle(lambda: Guess)
        for name, who in CALLERS.items():
            if who is not None:
                self.repository.add_key(name, client=who[0], role=who[1], name="")

    def _sha256(self, job_id: str) -> str:
        with reading(self.engine) as connection:
            found: str = connection.execute(
                text("SELECT sha256 FROM picture WHERE job_id = :id"), {"id": job_id}
            ).scalar_one()
        return found

    def add_file(self) -> str:
        """Upload lines of ann's."""
        content = f'{{"custom_id": "{MARK}"}}'.encode()
        name, size = FileStore(root=self.settings.files).put(io.BytesIO(content))
        return self.repository.add_file(
            client="ann", filename=f"{MARK}.jsonl", size=size, sha256=name, seconds=None
        ).id

    def add_webhook(self) -> str:
        """Add a webhook of ann's."""
        return self.repository.add_webhook(
            client="ann", url=f"https://hooks.example/{MARK}", secret="whsec_eA==", events=list(BatchEvent),
            batch_id=None, name=MARK,
        )  # fmt: skip

    def _order(self) -> tuple[str, str]:
        order, _ = self.repository.order_batch(
            replace(an_order(self.add_file(), key="same"), name=MARK, window_ms=1)
        )
        with transaction(self.engine) as connection:
            output = files.add(
                connection, client="ann", purpose=Purpose.OUTPUT, filename=f"{MARK}.jsonl", size=1,
                sha256=None, seconds=None,
            )  # fmt: skip
            connection.execute(
                text("""UPDATE api_batch SET state = 'completed', ending = 'completed', batch_id = :batch,
                        output_file_id = :output WHERE id = :id"""),
                {"batch": self.batch, "output": output.id, "id": order.id},
            )
        return order.id, output.id

    def filled(self, template: Any, method: str) -> Any:
        """Return a path or a body with ann's things."""
        if isinstance(template, dict):
            return {name: self.filled(value, method) for name, value in template.items()}
        if not isinstance(template, str):
            return template
        names = {
            name: getattr(self, name)
            for name in ("batch", "job", "picture", "order", "output", "file", "webhook")
        }
        if method == "DELETE":
            names |= {name: (waiting or [names[name]])[-1] for name, waiting in self.doomed.items()}
        return template.format(**names)

    def browser(self, caller: str, **headers: str) -> TestClient:
        """Return a caller whose requests come from our page of another machine."""
        key = {} if caller == "stranger" else {"Authorization": f"Bearer {caller}"}
        return TestClient(
            self.application,
            base_url=SITE,
            follow_redirects=False,
            client=("203.0.113.7", 1),
            headers={"Origin": SITE, **key, **headers},
        )

    def ask(self, browser: TestClient, method: str, path: str, asked: dict[str, Any]) -> Any:
        """Send one request of the table."""
        given: dict[str, Any] = {}
        if "json" in asked:
            given["json"] = self.filled(asked["json"], method)
        if "form" in asked:
            given["data"] = asked["form"]
        if "multipart" in asked:
            given |= {"files": {"file": ("x.jsonl", asked["multipart"])}, "data": {"purpose": "batch"}}
        answer = browser.request(method, self.filled(path, method), **given)
        if method == "DELETE" and answer.status_code == 200:
            for name, waiting in self.doomed.items():
                if f"{{{name}}}" in path:
                    waiting.pop()
        return answer

    def rows(self) -> str:
        """Return a digest of all rows but of keys, which remember when they were used."""
        told = hashlib.sha256()
        with reading(self.engine) as connection:
            for name in sorted(models.metadata.tables):
                if name != "api_key":
                    found = connection.execute(text(f"SELECT * FROM {name}")).all()
                    told.update(repr((name, sorted(map(repr, found)))).encode())
        return told.hexdigest()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, sqlite_template: bytes) -> Iterator[Office]:
    from db.session import make_engine

    home = tmp_path_factory.mktemp("office")
    (home / "routet2i.db").write_bytes(sqlite_template)
    engine = make_engine(f"sqlite+pysqlite:///{home}/routet2i.db")
    yield Office(engine, home)
    engine.dispose()


@pytest.fixture(autouse=True)
def _nobody_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "WAIT_SECONDS", 0.01)


def routes_of(application: FastAPI) -> Iterator[tuple[str, Callable[[str], bool]]]:
    def walk(routes: Any) -> Iterator[Any]:
        for route in routes:
            if hasattr(route, "methods"):
                yield route
            else:
                yield from walk(route.original_router.routes)

    for route in walk(application.routes):
        for method in route.methods - {"HEAD"}:
            yield f"{method} {route.path}", lambda path, known=route: bool(known.path_regex.fullmatch(path))


def test_the_table_knows_every_route_of_the_document_and_of_the_pages(office: Office) -> None:
    # Given all routes of the application, those of the OpenAPI document among them
    routes = dict(routes_of(office.application))
    documented = {
        f"{method.upper()} {path}"
        for path, operations in office.application.openapi()["paths"].items()
        for method in operations
    }
    assert documented <= routes.keys()
    assert len(routes) > 55
    # When each is looked for in the table
    asked = [(method, office.filled(path, method).partition("?")[0]) for method, path in TABLE]
    missing = [
        name
        for name, fits in routes.items()
        if not any(method == name.split()[0] and fits(path) for method, path in asked)
    ]
    # Then somebody has said who may
    assert not missing


@pytest.mark.parametrize("caller", CALLERS)
def test_each_route_answers_each_role_as_the_table_says(office: Office, caller: str) -> None:
    # Given one caller
    browser, place, before = office.browser(caller), list(CALLERS).index(caller), office.rows()
    wrong = []
    for (method, path), (statuses, asked) in TABLE.items():
        # When every route is asked for what is ann's
        answer = office.ask(browser, method, path, asked)
        if answer.status_code != statuses[place]:
            wrong.append(f"{method} {path}: {answer.status_code}, not {statuses[place]}: {answer.text[:200]}")
        # Then who may not see it learns nothing of it
        if caller in ("stranger", "other") and (MARK in answer.text or MARK in str(answer.headers)):
            wrong.append(f"{method} {path} tells {caller} of ann's")
    assert not wrong, "\n".join(wrong)
    # And who may change nothing has changed nothing
    if caller in ("stranger", "auditor"):
        assert office.rows() == before


def test_a_thing_of_somebody_else_is_told_as_one_that_is_not_there(office: Office) -> None:
    # Given another client, and every route about a thing of ann's
    browser, wrong = office.browser("other"), []
    for (method, path), (statuses, asked) in TABLE.items():
        if statuses[1] != 404 or "{" not in path or path.startswith("/budgets"):
            continue
        real = office.filled(path, method)
        answer = office.ask(browser, method, real, asked)
        # When the same is asked of a thing that nobody has
        none = real
        for thing in vars(office).values():
            if isinstance(thing, str) and thing in none:
                none = none.replace(thing, thing[:-6] + "000000")
        no_such = office.ask(browser, method, none, asked)
        # Then both answers say the same, but for the name
        if (answer.status_code, len(answer.text)) != (no_such.status_code, len(no_such.text)):
            wrong.append(f"{method} {path}: {answer.text[:150]} / {no_such.text[:150]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "origin", ["null", "http://elsewhere.example", "http://pages.test:81", "", "file://"]
)
def test_no_page_of_another_site_can_write_with_our_cookie(office: Office, origin: str) -> None:
    # Given an administrator's browser on a foreign page, whose forms and scripts post to us
    browser = office.browser("stranger", Origin=origin)
    browser.cookies.set(COOKIE, "admin")
    before = office.rows()
    for (method, path), (_, asked) in TABLE.items():
        if method != "GET":
            # When it tries, then it is refused, and nothing has changed
            assert office.ask(browser, method, path, asked).status_code == 403, f"{method} {path}"
    assert office.rows() == before
    # And what it may fetch, it may not read: nothing is shared with other origins
    for answer in (browser.get("/"), browser.options("/v1/batches")):
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_an_idempotency_key_of_another_client_is_nobodys(office: Office) -> None:
    # Given ann's order under a key
    for path, asked in (("/v1/images/generations", IMAGE), ("/v1/batches", None)):
        made = []
        for caller in ("owner", "other"):
            browser = office.browser(caller, **{"Idempotency-Key": "mine"})
            if asked is None:
                sent = browser.post(
                    "/v1/files", files={"file": ("x.jsonl", b"{}")}, data={"purpose": "batch"}
                )
                answer = browser.post("/v1/batches", json={"input_file_id": sent.json()["id"], **ORDER})
                made.append(answer.json()["id"])
            else:
                assert browser.post(path, json=asked).status_code == 504
        # When bob uses the same, then he has his own
        assert len(set(made)) == len(made)
    with reading(office.engine) as connection:
        kept = connection.execute(text("SELECT client FROM batch WHERE idem_key = 'single:mine'")).scalars()
        assert sorted(kept) == ["ann", "bob"]
