"""What hostile callers put into texts, headers, forms and addresses, and what becomes of it. No server."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from db import files as db_files
from db.files import Purpose
from db.gallery import Wish, gallery
from db.keys import Role
from db.repository import Repository
from db.session import transaction, upgrade
from routet2i.contracts import BatchEvent, BudgetPolicy, JobState, Scope
from routet2i.settings import Settings
from scheduler.api import images
from scheduler.api.application import make_application
from scheduler.api.callers import COOKIE
from tests.integration.api import HERE, as_, repository_of
from tests.pages import seeding
from tests.pages.seeding import Drawing, Wanted

IMAGE = {"prompt": "a red circle"}


def test_the_cookie_of_a_sign_in_is_for_our_pages_alone(application: FastAPI) -> None:
    # Given browsers that reach us plainly on loopback, and through a proxy that speaks TLS
    for origin, secure in ((HERE, False), ("https://api.test", True)):
        client = TestClient(application, base_url=HERE, follow_redirects=False)
        # When somebody signs in with a planted cookie
        client.cookies.set(COOKIE, "planted", domain="api.test")
        answer = client.post("/login", data={"key": "root", "next": "/drift"}, headers={"Origin": origin})
        # Then the new one takes its place, no script reads it, no other site sends it, and it has an end
        assert (answer.status_code, answer.headers["location"]) == (303, "/drift")
        parts = [one.strip().lower() for one in answer.headers["set-cookie"].split(";")]
        assert parts[0] == f"{COOKIE}=root"
        assert {"httponly", "samesite=strict", "path=/"} <= set(parts)
        assert any(one.startswith("max-age=") for one in parts)
        assert ("secure" in parts) is secure
    # And nobody is signed in by a page of another site
    answer = client.post("/login", data={"key": "root"}, headers={"Origin": "null"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_key_stands_in_no_address_no_log_and_no_page(
    application: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    # Given a key that is known by its look
    secret = "rt2i_" + "S" * 43
    repository_of(application).add_key(secret, client="ann", role=Role.ADMIN, name="mine")
    client = TestClient(application, base_url=HERE, raise_server_exceptions=False)
    client.headers["Origin"] = HERE
    told = [client.post("/login", data={"key": secret, "next": "/"})]
    # When its owner looks at everything, and sends it where it does not belong
    for path in ("/", "/budgets", "/drift", "/login", f"/login?key={secret}", f"/v1/models?api_key={secret}"):
        told.append(client.get(path))
    told.append(client.post("/login", data={"key": secret + "x"}))
    # Then no answer shows it, no query is a key, and no log line has it
    assert all(secret not in one.text and secret not in str(one.url.fragment) for one in told)
    client.cookies.clear()
    assert client.get(f"/v1/models?api_key={secret}").status_code == 401
    out, err = capfd.readouterr()
    assert secret not in out + err


def test_metrics_are_told_to_this_machine_but_not_through_a_proxy(application: FastAPI) -> None:
    def ask(made: FastAPI) -> int:
        client = TestClient(made, base_url="http://127.0.0.1:8765", client=("127.0.0.1", 1))
        return client.get("/metrics").status_code

    assert ask(application) == 200
    # A proxy of this machine that adds no header looks like a program of it
    state = application.state
    assert ask(make_application(state.settings, state.repository, behind_proxy=True)) == 401


@pytest.mark.parametrize("host", ["[", "a b", '"><script>', "a:99999999", "@", "x" * 5_000, "a/%00"])
def test_an_odd_host_is_no_fault_of_ours(application: FastAPI, host: str) -> None:
    client = TestClient(application, base_url=HERE, raise_server_exceptions=False, follow_redirects=False)
    for path in ("/login", "/", "/v1/models", "/metrics", "/nowhere"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code < 500
        assert "<script>" not in answer.text
        assert host not in answer.headers.get("location", "")


def test_addresses_of_pictures_begin_as_their_reader_addresses_us(
    application: FastAPI, tmp_path: Path
) -> None:
    # Given an order whose client said that we are another host
    engine = repository_of(application).engine
    known = seeding.drawings(seeding.store_of(tmp_path), count=1, size=64)
    tiers = application.state.settings.read_tiers()
    wanted = Wanted(name="b", jobs=2, client="ann", failed=0)
    (batch,) = seeding.seed(engine, [wanted], tiers=tiers, known=known)
    client = TestClient(application, base_url="http://evil.example")
    form = {"files": {"file": ("x.jsonl", b"{}")}, "data": {"purpose": "batch"}}
    file = client.post("/v1/files", headers=as_("ann"), **form).json()["id"]
    order = {"input_file_id": file, "endpoint": "/v1/images/generations", "completion_window": "1h"}
    order_id = client.post("/v1/batches", headers=as_("ann"), json=order).json()["id"]
    with transaction(engine) as connection:
        left = db_files.add(
            connection, client="ann", purpose=Purpose.OUTPUT, filename="o", size=1, sha256=None, seconds=None
        )
        for statement in (
            "UPDATE api_batch SET state = 'completed', ending = 'completed', batch_id = :batch, "
            "output_file_id = :file WHERE id = :order",
            "UPDATE job SET response_format = 'url' WHERE batch_id = :batch",
        ):
            given = {"batch": batch, "file": left.id, "order": order_id}
            connection.execute(text(statement), {k: v for k, v in given.items() if f":{k}" in statement})
    # When an administrator reads what it left
    found = TestClient(application, base_url=HERE).get(f"/v1/files/{left.id}/content", headers=as_("root"))
    # Then he sends his key to nobody but us
    answers = [json.loads(line)["response"]["body"] for line in found.text.splitlines()]
    urls = [one["url"] for answer in answers for one in answer["data"]]
    assert len(urls) == 2
    assert all(one.startswith(f"{HERE}/routet2i/v1/pictures/") for one in urls)


def test_numbers_in_addresses_that_no_program_reads_are_no_fault_of_ours(application: FastAPI) -> None:
    client = TestClient(application, base_url=HERE, raise_server_exceptions=False)
    assert client.get(f"/login?did=cancelled&n={'9' * 5_000}").status_code == 200
    for number in ("9" * 5_000, "-1", "1e9", "0x10", "\u0663", "%00", "%ff"):
        for path in ("/v1/files", "/v1/batches", "/routet2i/v1/batches", "/routet2i/v1/webhooks"):
            for name in ("limit", "after"):
                answer = client.get(f"{path}?{name}={number}", headers=as_("root"))
                assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": "x", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "x", "budget_usd": NaN}',
        b'{"prompt": "x", "budget_usd": -Infinity}',
        b'{"prompt": "x", "budget_usd": 1e400}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\u0000"}',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "x"',
        b"\x00",
        b"\x1f\x8b\x08\x00" + b"\x00" * 50,
    ],
    ids=[
        "lists",
        "objects",
        "digits",
        "nan",
        "infinity",
        "great",
        "surrogate",
        "nul",
        "utf-8",
        "half",
        "zero",
        "gzip",
    ],
)
def test_odd_json_is_refused_in_words(application: FastAPI, body: bytes) -> None:
    client = TestClient(application, base_url=HERE, raise_server_exceptions=False)
    for path in ("/v1/images/generations", "/v1/batches", "/routet2i/v1/previews", "/routet2i/v1/webhooks"):
        for more in ({}, {"Content-Encoding": "gzip"}):
            headers = {**as_("ann"), "Content-Type": "application/json", **more}
            answer = client.post(path, content=body, headers=headers)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["message"]


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\n", "\u0085"])
def test_texts_that_a_database_or_a_terminal_would_not_take_are_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    # Given an application on either database
    monkeypatch.setattr(images, "WAIT_SECONDS", 0.01)
    repository = Repository(engine)
    repository.add_key("root", client="root", role=Role.ADMIN, name="")
    client = TestClient(
        make_application(Settings(home=tmp_path), repository), base_url=HERE, raise_server_exceptions=False
    )
    hook = {"url": "https://hooks.example/x"}
    order = {"input_file_id": "file-" + "0" * 32, "endpoint": "/v1/images/generations"}
    v1 = "/routet2i/v1"
    limit = {"scope": "client", "name": "ann", "limit_usd": 1}
    asked = [
        ("POST", f"{v1}/webhooks", {"json": {**hook, "name": f"a{sign}"}}),
        ("POST", f"{v1}/webhooks", {"json": {**hook, "batch_id": f"a{sign}"}}),
        ("POST", f"{v1}/webhooks", {"json": {"url": f"https://hooks.example/{sign}"}}),
        ("POST", "/v1/batches", {"json": {**order, "completion_window": "1h", "name": f"a{sign}"}}),
        (
            "POST",
            "/v1/batches",
            {"json": {**order, "completion_window": "1h", "metadata": {"a": f"a{sign}"}}},
        ),
        ("POST", "/v1/batches", {"json": {**order, "completion_window": f"1h{sign}"}}),
        ("POST", "/v1/images/generations", {"json": {"prompt": "x", "user": f"a{sign}"}}),
        ("POST", "/v1/images/generations", {"json": {"prompt": "x", "model": f"a{sign}"}}),
        ("PUT", f"{v1}/pauses/tier/edge", {"json": {"reason": f"a{sign}"}}),
        ("PUT", f"{v1}/budgets", {"json": {**limit, "reason": f"a{sign}"}}),
        ("POST", "/budgets/resume", {"data": {"tier": "cloud", "reason": f"a{sign}b"}}),
    ]
    for method, path, given in asked:
        # When a text has a sign that is none, then it is refused
        answer = client.request(method, path, headers={**as_("root"), "Origin": HERE}, **given)
        assert answer.status_code in (400, 404), (path, given, answer.text)
    quoted = "".join(f"%{one:02x}" for one in sign.encode())
    for path in (
        *("webhooks/{0}", "webhooks/{0}/deliveries", "webhooks?after={0}", "batches/{0}", "jobs/{0}"),
        *("pictures/{0}", "budgets?scope=batch&name={0}", "workers?after={0}", "batches?client={0}"),
    ):
        answer = client.get(f"{v1}/{path.format(quoted)}", headers=as_("root"))
        assert answer.status_code in (400, 404), (path, answer.text)


def test_forms_that_nobody_fills_in_are_refused(application: FastAPI) -> None:
    client = TestClient(application, base_url=HERE, raise_server_exceptions=False)

    def part(name: str, content: str = "x", more: str = "") -> str:
        return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'

    purpose, end = part("purpose", "batch"), "--x--\r\n"
    file = part("file", "{}", '; filename="a.jsonl"')
    for body in (
        "",
        "--x--",
        purpose + end,
        file + end,
        file + purpose,  # never ends
        file + file + purpose + end,
        part("file") + purpose + end,
        "--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + end,
        "--x\r\n\r\nx\r\n" + end,
        file + "".join(part(f"p{n}") for n in range(3_000)) + end,
        file + part("purpose", "b" * 100_000) + end,
        f"--x\r\nX-Long: {'y' * 100_000}\r\n" + file + end,
        "--x\r\n" + "X: y\r\n" * 1_000 + "\r\n" + end,
        part("file", "", '; filename="a.jsonl"') + purpose + end,
    ):
        headers = {**as_("ann"), "Content-Type": "multipart/form-data; boundary=x"}
        answer = client.post("/v1/files", content=body.encode(), headers=headers)
        assert answer.status_code == 400, (body[:80], answer.text)
    for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "x" * 5_000, "text/plain", ""):
        answer = client.post("/v1/files", content=b"x", headers={**as_("ann"), "Content-Type": kind})
        assert answer.status_code == 400, kind
    # And a file's name is a name, wherever it would like to lie
    for name in ("../../etc/passwd", "..\\\\x", "a\x1b[2Jb", "x" * 2_000, "\u202egpj.exe"):
        made = client.post(
            "/v1/files",
            headers={**as_("ann"), "Content-Type": "multipart/form-data; boundary=x"},
            content=(part("file", "{}", f'; filename="{name}"') + purpose + end).encode(),
        ).json()
        assert made["filename"].isprintable()
        assert len(made["filename"]) <= 255
        root = application.state.settings.files
        kept = [one for one in root.rglob("*") if one.is_file()]
        assert all(len(one.name) == 64 and one.parent.parent == root for one in kept)
        told = client.get(f"/v1/files/{made['id']}/content", headers=as_("ann"))
        assert "content-disposition" not in told.headers
        assert told.headers["cache-control"] == "private, no-cache"


EVIL = (
    "<evil onevil=1>",
    '"><evil onevil="1">',
    "' onevil='1",
    '" onevil="1',
    "</title><evil>",
    "</script><evil>",
    "</text></svg><evil>",
    "<!--<evil>",
    "{{ 7 * 777 }}{% evil %}",
    "javascript:evil()",
    "&lt;evil&gt;&#x3c;evil&#x3e;",
)


class Tags(HTMLParser):
    """Elements, attributes and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.addresses: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.names.add(name)
            if name in ("href", "src", "action", "formaction", "data-live"):
                self.addresses.add(value or "")


def test_no_text_of_a_stranger_becomes_a_part_of_a_page(application: FastAPI, tmp_path: Path) -> None:
    # Given hostile texts wherever a stranger's text may stand
    repository = repository_of(application)
    evil = " ".join(EVIL)
    known = [
        Drawing(prompt=f"{evil} circle", files=one.files, difficulty=one.difficulty)
        for one in seeding.drawings(seeding.store_of(tmp_path), count=1, size=64)
    ]
    tiers = application.state.settings.read_tiers()
    wanted = Wanted(name=evil, jobs=12, client="ann", failed=0.4, shadows=0.5)
    (batch,) = seeding.seed(repository.engine, [wanted], tiers=tiers, known=known)
    policy = BudgetPolicy(scope=Scope.CLIENT, name="ann", span="day", limit_micro_usd=10)
    repository.set_budget(policy, who=evil, reason=evil)
    repository.add_webhook(
        client="ann", url="https://a.example", secret="s", events=list(BatchEvent), batch_id=None, name=evil
    )
    cards = {
        state: gallery(repository.engine, Wish(batch_id=batch, state=state)).cards[0].job_id
        for state in (JobState.SUCCEEDED, JobState.FAILED)
    }
    with transaction(repository.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO rejected(batch_id, line_no, custom_id, raw_sha256, reason, remedy) "
                "VALUES(:id, 99, :evil, 'x', :evil, :evil)"
            ),
            {"id": batch, "evil": evil},
        )
        connection.execute(text("UPDATE batch SET n_rejected = 1 WHERE id = :id"), {"id": batch})
    client = TestClient(application, base_url=HERE, raise_server_exceptions=False)
    client.headers["Origin"] = HERE
    query = dict.fromkeys(("text", "tier", "state", "metric", "low", "sort", "after"), evil)
    # When every page is read, errors among them
    client.cookies.set(COOKIE, "root")
    pages = [
        client.get("/"), client.get("/live"), client.get(f"/batches/{batch}"),
        client.get(f"/batches/{batch}/live"),
        client.get(f"/batches/{batch}", params=query), client.get(f"/jobs/{cards[JobState.SUCCEEDED]}"),
        client.get(f"/jobs/{cards[JobState.FAILED]}"), client.get("/budgets"), client.get("/drift"),
        client.get("/login", params={"next": evil}), client.get("/login", params={"next": "/" + evil}),
        client.post("/login", data={"key": evil, "next": "/" + evil}),
        client.get("/jobs/" + evil), client.get("/", params={"after": evil, "did": evil, "n": evil}),
        client.post("/budgets/resume", data={"tier": evil, "reason": evil}),
        client.post(f"/batches/{batch}/retry", data={"budget": evil[:29]}),
    ]  # fmt: skip
    # Then no text is an element, an attribute, an address or a template
    seen = 0
    for answer in pages:
        assert answer.status_code < 500, answer.url
        if not answer.headers["content-type"].startswith("text/html"):
            assert answer.headers["x-content-type-options"] == "nosniff"
            continue
        found = Tags()
        found.feed(answer.text)
        assert "evil" not in found.tags, answer.url
        assert not {name for name in found.names if name.startswith("on") or name == "style"}, answer.url
        assert all(re.match(r"[/?#]|https?://127\.0\.0\.1", one) for one in found.addresses), found.addresses
        assert "5439" not in answer.text
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        seen += answer.text.count("&lt;evil")
    assert seen > 20


def test_a_new_database_file_is_its_owners_alone(tmp_path: Path) -> None:
    upgrade(f"sqlite+pysqlite:///{tmp_path}/home/routet2i.db")
    assert (tmp_path / "home" / "routet2i.db").stat().st_mode & 0o077 == 0
