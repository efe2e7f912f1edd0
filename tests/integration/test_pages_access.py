"""Who sees which page and may press which button; errors as pages; words on request. No browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text
from starlette.testclient import TestClient

from db import gallery
from db.audit import batch_status
from db.gallery import Card, Wish
from db.keys import Role
from db.repository import Repository
from db.session import make_engine, transaction
from routet2i.contracts import BudgetPolicy, JobState, Scope
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.api.application import make_application
from scheduler.api.callers import COOKIE
from scheduler.api.pages import warmth
from scheduler.api.pages.rendering import money
from scheduler.api.pages.standing import Standing
from tests.pages import seeding
from tests.pages.seeding import Wanted, seed

SITE = "http://pages.test"
Visit = Callable[..., TestClient]


@pytest.fixture
def batches(make_database: Callable[[str], Engine], tmp_path: Path) -> Iterator[tuple[Repository, list[str]]]:
    engine = make_database("sqlite")
    known = seeding.drawings(seeding.store_of(tmp_path), count=3, size=64)
    wanted = [
        Wanted(name="ann's", jobs=30, client="ann", failed=0.2, shadows=0.5),
        Wanted(name="bob's", jobs=30, client="bob", done=0.5, hours_ago=0.5),
    ]
    made = seed(engine, wanted, tiers=Settings(home=tmp_path).read_tiers(), known=known)
    yield Repository(engine), made
    engine.dispose()


@pytest.fixture
def visit(batches: tuple[Repository, list[str]], tmp_path: Path) -> Visit:
    """Make a browser of somebody, as much as HTTP knows of it."""
    repository, _ = batches
    application = make_application(Settings(home=tmp_path), repository)

    def made(role: Role | None, client: str = "ann", *, origin: str = SITE) -> TestClient:
        found = TestClient(application, base_url=SITE, follow_redirects=False, headers={"Origin": origin})
        if role is not None:
            secret = f"{client}-{role.value}"
            repository.add_key(secret, client=client, role=role, name="")
            found.cookies.set(COOKIE, secret)
        return found

    return made


def a_card(repository: Repository, batch_id: str, **wish: object) -> Card:
    return gallery.gallery(repository.engine, Wish(batch_id=batch_id, **wish)).cards[0]  # type: ignore[arg-type]


def test_another_clients_things_do_not_exist(batches: tuple[Repository, list[str]], visit: Visit) -> None:
    # Given ann's key and bob's batch
    repository, (anns, bobs) = batches
    ann = visit(Role.SUBMITTER)
    bobs_job = a_card(repository, bobs, state=JobState.SUCCEEDED).job_id
    # When she asks for what is his, in any way
    paths = [
        f"/batches/{bobs}",
        f"/batches/{bobs}/live",
        f"/jobs/{bobs_job}",
        f"/jobs/{bobs_job}/pictures/0/whole",
        f"/jobs/{bobs_job}/pictures/0/small",
        "/drift",
        *(f"/batches/{bobs}/ask/{act}" for act in ("pause", "cancel", "retry", "reroute")),
        *(f"/jobs/{bobs_job}/ask/{act}" for act in ("cancel", "retry", "reroute")),
    ]
    # Then nothing is there
    assert {path: ann.get(path).status_code for path in paths} == dict.fromkeys(paths, 404)
    acts = [f"/batches/{bobs}/{act}" for act in ("pause", "resume", "cancel", "retry", "reroute")]
    acts += [f"/jobs/{bobs_job}/{act}" for act in ("cancel", "retry", "reroute")]
    for path in acts:
        assert ann.post(path, data={"which": "failed"}).status_code == 404, path
    # And a tier is not hers to pause
    assert ann.get("/tiers/cloud/ask/pause").status_code == 403
    for act in ("pause", "resume"):
        assert ann.post(f"/tiers/cloud/{act}").status_code == 403
    assert repository.pauses() == []
    assert "bob" not in ann.get("/").text + ann.get("/budgets").text
    # But her own, and her jobs' shadows, are
    own = a_card(repository, anns, shadowed=True)
    assert own.shadow is not None
    for job_id in (own.job_id, own.shadow.job_id):
        answer = ann.get(f"/jobs/{job_id}/pictures/0/small")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_looking_is_not_acting(batches: tuple[Repository, list[str]], visit: Visit) -> None:
    repository, (anns, _) = batches
    auditor = visit(Role.AUDITOR, "eve")
    assert auditor.get(f"/batches/{anns}").status_code == 200
    for act in ("pause", "resume", "cancel", "retry", "reroute"):
        assert auditor.post(f"/batches/{anns}/{act}", data={"which": "edge"}).status_code == 403
        assert auditor.get(f"/batches/{anns}/ask/{act}").status_code == (400 if act == "resume" else 403)
    assert auditor.post("/tiers/cloud/pause").status_code == 403
    assert repository.pauses() == []
    assert auditor.post("/budgets/resume", data={"tier": "cloud", "reason": "x"}).status_code == 403
    assert batch_status(repository.engine, anns).state == "open"


@pytest.mark.parametrize("origin", ["http://evil.test", "null"])
def test_another_sites_page_can_press_no_button(
    batches: tuple[Repository, list[str]], visit: Visit, origin: str
) -> None:
    repository, (_anns, bobs) = batches
    admin = visit(Role.ADMIN, origin=origin)
    acts = [f"/batches/{bobs}/{act}" for act in ("pause", "resume", "cancel", "retry", "reroute")]
    for path in (*acts, "/tiers/cloud/pause", "/tiers/cloud/resume", "/logout"):
        assert admin.post(path, data={"which": "failed"}).status_code == 403
    assert repository.pauses() == []
    assert admin.post("/login", data={"key": "x"}).status_code == 403
    assert batch_status(repository.engine, bobs).state == "open"


def test_cancelling_and_retrying_do_what_the_commands_do(
    batches: tuple[Repository, list[str]], visit: Visit
) -> None:
    repository, (anns, bobs) = batches
    admin = visit(Role.ADMIN)
    # When a running batch is cancelled
    answer = admin.post(f"/batches/{bobs}/cancel")
    assert (answer.status_code, answer.headers["location"].split("&")[0]) == (
        303,
        f"/batches/{bobs}?did=cancelled",
    )
    assert batch_status(repository.engine, bobs).by_state[JobState.QUEUED] == 0
    # And what failed of another is tried again, twice
    failed = batch_status(repository.engine, anns).by_state[JobState.FAILED]
    first, again = (admin.post(f"/batches/{anns}/retry", data={"budget": "2"}) for _ in range(2))
    # Then one batch has all of it, with its budget
    made = first.headers["location"].split("?")[0].rsplit("/", 1)[1]
    assert again.headers["location"].startswith(f"/batches/{made}?did=nothing")
    status = batch_status(repository.engine, made)
    assert (status.n_accepted, status.limit_micro_usd, status.client) == (failed, 2_000_000, "ann")
    # And an amount that is none is told on a page
    wrong = admin.post(f"/batches/{anns}/retry", data={"budget": "two"})
    assert wrong.status_code == 400
    assert "write e.g. 2.50" in wrong.text


def test_a_question_says_what_the_answer_will_cost(
    batches: tuple[Repository, list[str]], visit: Visit
) -> None:
    # Given a batch of which jobs failed
    repository, (anns, bobs) = batches
    admin, tiers = visit(Role.ADMIN), read_tiers(packaged("pocket"))
    failed = batch_status(repository.engine, anns).by_state[JobState.FAILED]
    # When it is asked what trying again would cost, then the least and the most are told
    least, most = (money(failed * tiers[name].price(1)) for name in (tiers.edge, tiers.cloud))
    asked = admin.get(f"/batches/{anns}/ask/retry").text
    assert f"{failed} pictures, from {least} to {most}" in asked
    # And once it was done, that nothing is left
    assert admin.post(f"/batches/{anns}/retry").status_code == 303
    again = admin.get(f"/batches/{anns}/ask/retry").text
    assert "Nothing failed that was not tried again" in again
    assert '<button class="button primary">' not in again
    # And a tier that is none, or a question that is none, is no page
    assert admin.get("/tiers/nope/ask/pause").status_code == 404
    assert admin.get(f"/batches/{bobs}/ask/explode").status_code == 400
    assert admin.post(f"/batches/{bobs}/reroute", data={"which": "all"}).status_code == 400


def test_pages_are_warm_before_the_first_visitor_comes(
    batches: tuple[Repository, list[str]], tmp_path: Path
) -> None:
    # Given a server that has just started
    repository, (anns, _) = batches
    application = make_application(Settings(home=tmp_path), repository)
    warmth.begin(application).join()
    # When a complete batch's figures are wanted, then the database is not asked
    asked: list[str] = []
    event.listen(repository.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    assert application.state.standing.of(anns).complete
    assert asked == []
    # And one that cannot be asked at all keeps nobody from starting
    nowhere = Repository(make_engine(f"sqlite+pysqlite:///{tmp_path / 'no' / 'database'}"))
    warmth.begin(make_application(Settings(home=tmp_path), nowhere)).join()


def test_errors_are_pages_and_strangers_are_asked_to_sign_in(
    batches: tuple[Repository, list[str]], visit: Visit
) -> None:
    _, (anns, _) = batches
    stranger, admin = visit(None), visit(Role.ADMIN)
    answer = stranger.get(f"/batches/{anns}?sort=detail")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/login?next=%2Fbatches%2F{anns}%3Fsort%3Ddetail",
    )
    wrong = stranger.post("/login", data={"key": "nobody's"})
    assert wrong.status_code == 401
    assert COOKIE not in wrong.cookies
    for path, status in (("/batches/x", 400), (f"/batches/{'0' * 36}", 404), ("/static/1/x.css", 404)):
        assert admin.get(path).status_code == status
    assert "<h1>Not found</h1>" in admin.get(f"/jobs/{'0' * 36}").text


def test_nonsense_in_a_gallerys_address_is_left_out(
    batches: tuple[Repository, list[str]], visit: Visit
) -> None:
    _, (anns, _) = batches
    admin = visit(Role.ADMIN)
    for query in (
        "tier=nope&state=nope&metric=nope&low=x&high=7",
        "after=nan_1",
        "after=1e999_1",
        "after=1_99999999999999999999",
        "text=%00%01&sort='",
        "low=nan&metric=detail",
        "did=%3Cb%3E&n=x",
    ):
        assert admin.get(f"/batches/{anns}?{query}").status_code == 200, query


def test_a_picture_is_kept_by_the_browser_and_gone_when_it_is_deleted(
    batches: tuple[Repository, list[str]], visit: Visit
) -> None:
    repository, (anns, _) = batches
    card = a_card(repository, anns, state=JobState.SUCCEEDED)
    admin, path = visit(Role.ADMIN), f"/jobs/{card.job_id}/pictures/0/whole"
    first = admin.get(path)
    assert "immutable" in first.headers["cache-control"]
    assert admin.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert card.picture is not None
    repository.delete_pictures([card.picture.sha256], before_ms=2**60, batch_id=None, who="ann")
    assert admin.get(path).status_code == 404
    assert "deleted" in admin.get(f"/jobs/{card.job_id}").text.lower()


def test_a_complete_batch_is_counted_once_and_a_changed_one_anew(
    batches: tuple[Repository, list[str]],
) -> None:
    # Given where two batches stand
    repository, (anns, bobs) = batches
    standing = Standing(repository=repository)
    complete, running = standing.of(anns), standing.of(bobs)
    # When the running one is cancelled and forgotten
    repository.cancel_batch(bobs)
    standing.forget(bobs)
    # Then it is counted anew, and the complete one is the very same
    assert standing.of(anns) is complete
    assert (running.state, standing.of(bobs).state) == ("open", "cancelled")


def test_a_complete_batchs_money_is_read_again_and_its_jobs_are_not_counted(
    batches: tuple[Repository, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given where a complete batch stands, and a limit and a charge that came later
    repository, (anns, _) = batches
    standing = Standing(repository=repository)
    before = standing.of(anns)
    policy = BudgetPolicy(scope=Scope.BATCH, name=anns, span="total", limit_micro_usd=9_000_000)
    repository.set_budget(policy, who="ann", reason="more posters")
    changed = "UPDATE budget SET spent = spent + 7 WHERE id = :id"
    with transaction(repository.engine) as connection:
        connection.execute(text(changed), {"id": f"batch:{anns}"})
    assert standing.of(anns) is before
    # When it is asked for later
    monkeypatch.setattr("scheduler.api.pages.standing.MONEY_SECONDS", 0.0)
    asked: list[str] = []
    event.listen(repository.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    after = standing.of(anns)
    statements = list(asked)
    # Then its money is that of now, the rest is as it was, and no job was counted
    assert after == batch_status(repository.engine, anns)
    assert (after.limit_micro_usd, after.spent_micro_usd) == (9_000_000, before.spent_micro_usd + 7)
    assert after.by_state == before.by_state
    assert statements
    assert not any("outcome" in statement for statement in statements)
    # And a batch that others have cancelled is counted anew
    repository.cancel_batch(anns)
    assert standing.of(anns).state == "cancelled"


def test_a_prompts_words_are_explained_on_request(
    batches: tuple[Repository, list[str]], visit: Visit
) -> None:
    pytest.importorskip("torch")
    repository, (anns, _) = batches
    job_id = a_card(repository, anns).job_id
    admin = visit(Role.ADMIN)
    assert "Explain the prompt" in admin.get(f"/jobs/{job_id}").text
    told = admin.get(f"/jobs/{job_id}?words=1").text
    assert "pulls towards the edge" in told
    assert 'class="w t-' in told


def test_the_pages_lead_to_flower_where_the_setting_says_it_is(
    batches: tuple[Repository, list[str]], tmp_path: Path
) -> None:
    # Given a deployment whose Flower runs elsewhere
    repository, _ = batches
    settings = Settings(home=tmp_path, flower_url="https://flower.example/x?a=1&b=<2>")
    application = make_application(settings, repository)
    for role, leads in ((Role.AUDITOR, True), (Role.SUBMITTER, False)):
        repository.add_key(role.value, client="ann", role=role, name="")
        # When somebody opens a page
        page = TestClient(application, base_url=SITE, cookies={COOKIE: role.value}).get("/").text
        # Then those who see everything have the link, escaped, and others have none
        assert ('href="https://flower.example/x?a=1&amp;b=&lt;2&gt;"' in page) is leads, role


@pytest.mark.parametrize("url", ["javascript:alert(1)", "//flower", "http://ana:secret@flower", "http://a b"])
def test_an_address_of_flower_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="flower_url"):
        Settings(flower_url=url)
