"""The pages in a real browser: signing in, two screens and two themes, by keyboard, without scripts."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from db.keys import Role
from db.session import transaction
from routet2i.tiers import packaged, read_tiers
from scheduler.api.pages.rendering import money
from tests.pages import seeding
from tests.pages.seeding import Drawing, Wanted
from tests.pages.site import NO_BROWSER, Site, browser_path, site

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(browser_path() is None, reason=NO_BROWSER)

HOSTILE = '<img src=x onerror="document.title=1"> <script>document.title=1</script> {{ 7 * 7 }} a red circle'
FINGER = 44  # pixels
SMALL = """least => [...document.querySelectorAll("a, button, input, select, summary")]
    .filter(one => one.checkVisibility() && !one.matches(".skip, .batch h3 a")) // the whole card is its link
    .map(one => [one, (one.matches("[type=checkbox], [type=radio]") ? one.closest("label") : one)
        .getBoundingClientRect()])
    .filter(([, box]) => box.width < least || box.height < least)
    .map(([one, box]) => `${one.outerHTML.slice(0, 80)} ${box.width} x ${box.height}`)"""
STILL = 0.001  # of a screen and its width; what is longer by a digit comes nowhere near
WATCH = """() => { window.shifts = []; // what moved by itself, as the browser sees it
    new PerformanceObserver(list => window.shifts.push(...list.getEntries().map(one => [one.value, one.sources
        .map(({node}) => (node?.outerHTML ?? node?.parentElement?.outerHTML ?? "").slice(0, 80))])))
        .observe({type: "layout-shift"}) }"""
WIDTHS = {"phone": (390, 844), "wide": (1440, 900)}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a complete batch, a running one and one of a hostile person."""
    home = tmp_path_factory.mktemp("site")
    known = seeding.drawings(seeding.store_of(home), count=12, size=64)
    hostile = Drawing(prompt=HOSTILE, files=known[0].files, difficulty=0.5)
    wanted = [
        Wanted(name="done", jobs=80, failed=0.1, shadows=0.3),
        Wanted(name="running", jobs=160, done=0.4, client="ann", hours_ago=0.3),
        Wanted(name="<b>bold</b>", jobs=40, client="mallory", hours_ago=2),
        Wanted(name="to be held", jobs=60, done=0.2, hours_ago=0.1),
        Wanted(name="to be mended", jobs=60, failed=0.2, hours_ago=0.8),
        *(Wanted(name=f"watched on a {screen}", jobs=400, done=0, hours_ago=0.005) for screen in WIDTHS),
    ]
    with site(home, wanted, [*known, hostile]) as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield started
        started.close()


Open = Callable[..., Any]


def packaged_price(tier: str) -> int:
    """Return what a picture costs, micro-dollars."""
    return read_tiers(packaged("pocket"))[tier].price(1)


@pytest.fixture
def open_page(chromium: Any, shown: Site) -> Iterator[Open]:
    """Open pages as somebody; whatever a page complains about fails the test at its end."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opened(
        path: str = "/", *, role: Role | None = Role.ADMIN, client: str = "default", **options: Any
    ) -> Any:
        width, height = WIDTHS[options.pop("screen", "wide")]
        context = chromium.new_context(
            base_url=shown.url,
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
            **options,
        )
        contexts.append(context)
        if role is not None:
            context.add_cookies(
                [{"name": "routet2i_key", "value": shown.key(role, client), "url": shown.url}]
            )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda one: wrong.append(one.text) if one.type in ("error", "warning") else None)
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def pages_of(shown: Site) -> dict[str, str]:
    """Return every page's address."""
    from db import gallery
    from db.gallery import Wish
    from routet2i.contracts import JobState

    engine, (done, running, *_) = shown.repository.engine, shown.batches
    both = gallery.gallery(engine, Wish(batch_id=done, shadowed=True)).cards[0]
    failed = gallery.gallery(engine, Wish(batch_id=done, state=JobState.FAILED)).cards[0]
    queued = gallery.gallery(engine, Wish(batch_id=running, state=JobState.QUEUED)).cards[0]
    return {
        "batches": "/",
        "batch": f"/batches/{done}",
        "compared": f"/batches/{done}?both=1&sort=alignment",
        "nothing found": f"/batches/{done}?text=nothing-has-this",
        "running": f"/batches/{running}",
        "job": f"/jobs/{both.job_id}",
        "failed job": f"/jobs/{failed.job_id}",
        "queued job": f"/jobs/{queued.job_id}",
        "drift": "/drift",
        "budgets": "/budgets",
        "a question": f"/batches/{done}/ask/reroute",
    }


@pytest.mark.parametrize("screen", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible_and_fits_its_screen(
    open_page: Open, shown: Site, screen: str, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # Given every page on this screen in this theme
    page = open_page("/", screen=screen, color_scheme=theme)
    for name, path in pages_of(shown).items():
        page.goto(path)
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
        # When axe-core looks at it, then it has nothing to say
        found = Axe().run(page)
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        # And nothing sticks out to the right
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
        # And on a phone, a finger hits whatever can be pressed
        if screen == "phone":
            assert page.evaluate(SMALL, FINGER) == [], name
        # And every picture that is in sight came
        broken = "images => images.filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert page.locator("img").evaluate_all(broken) == [], name


def test_the_sign_in_page_is_accessible(open_page: Open) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for theme in ("light", "dark"):
        assert Axe().run(open_page("/login", role=None, color_scheme=theme)).violations_count == 0


def test_a_stranger_signs_in_and_comes_to_where_he_wanted(open_page: Open, shown: Site) -> None:
    # Given a page that needs a key
    wanted = f"/batches/{shown.batches[0]}?sort=detail"
    page = open_page(wanted, role=None)
    assert page.url.startswith(f"{shown.url}/login?")
    # When the key is typed
    page.get_by_label("Key").fill(shown.key(Role.ADMIN))
    page.keyboard.press("Enter")
    # Then the page is there, and scripts cannot read the key
    page.wait_for_url(shown.url + wanted)
    (cookie,) = [one for one in page.context.cookies() if one["name"] == "routet2i_key"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    # And signing out forgets it
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    assert page.context.cookies() == []


def test_a_link_with_the_key_behind_the_hash_signs_in(open_page: Open, shown: Site) -> None:
    page = open_page(f"/login#key={shown.key(Role.ADMIN)}", role=None)
    page.wait_for_url(f"{shown.url}/")
    assert page.get_by_role("link", name="running").is_visible()


def test_texts_of_strangers_are_shown_as_they_are(open_page: Open, shown: Site) -> None:
    # Given a batch whose name and prompts are markup
    page = open_page("/")
    page.get_by_role("link", name="<b>bold</b>").click()
    # When its page, a search for its prompt and a job are shown
    assert page.get_by_role("heading", level=1).inner_text() == "<b>bold</b>"
    page.get_by_label("Search").fill("<script>")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=*")
    page.locator("a.frame").first.click()
    page.wait_for_url("**/jobs/*")
    # Then it is text, and nothing of it ran
    assert HOSTILE in page.locator(".quote").inner_text()
    assert page.title() != "1"


def test_choosing_a_filter_shows_its_jobs_at_once(open_page: Open, shown: Site) -> None:
    page = open_page(f"/batches/{shown.batches[0]}")
    # When a tier and an order are chosen
    page.get_by_role("combobox", name="Tier").select_option("cloud")
    page.wait_for_url("**tier=cloud*")
    page.get_by_role("combobox", name="Sort by").select_option("detail")
    page.wait_for_url("**sort=detail*")
    # Then only its jobs are shown, the best first, and empty fields stay out of the address
    assert set(page.locator(".shot .chip").all_inner_texts()) == {"cloud"}
    scores = [float(one) for one in page.locator(".shot .line > .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert "text=" not in page.url
    # And the next page goes on
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**after=*")
    further = [float(one) for one in page.locator(".shot .line > .score").all_inner_texts()]
    assert further[0] <= scores[-1]


def test_a_job_is_reached_and_walked_by_keyboard(open_page: Open, shown: Site) -> None:
    page = open_page(f"/batches/{shown.batches[0]}")
    # When the first key leads to the content, and a card is opened by Enter
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator("a.frame").nth(3).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*")
    first = page.url
    # Then arrows walk through the file
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: "/jobs/" in url and url != first)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(first)


def test_the_chosen_theme_stays(open_page: Open) -> None:
    page = open_page("/", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(background)
    assert dark != light
    page.goto("/budgets")
    assert page.evaluate(background) == dark
    assert page.get_by_role("button", name="Dark theme").get_attribute("aria-pressed") == "true"


def rows(shown: Site, statement: str, **given: Any) -> list[tuple[Any, ...]]:
    """Ask the database behind the pages."""
    with shown.repository.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement), given)]


def question(page: Any, link: str) -> Any:
    """Press what asks first, and return the dialog."""
    page.get_by_role("link", name=link, exact=True).first.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    return dialog


def said(page: Any, did: str) -> str:
    """Return what a page says after something was done, by the region that is read aloud."""
    notice = page.locator("[data-notice]")
    notice.wait_for()
    page.locator("#said:not(:empty)").wait_for(state="attached")
    assert page.locator("#said").get_attribute("role") == "status"
    assert page.locator("#said").inner_text() == notice.inner_text()
    # and neither the address nor the way back says it again
    assert f"did={did}" not in page.url
    return str(notice.inner_text())


def test_a_question_can_be_left_by_button_by_escape_and_beside_it(open_page: Open, shown: Site) -> None:
    from axe_playwright_python.sync_playwright import Axe

    held = shown.batches[3]
    page = open_page(f"/batches/{held}")
    for leave in ("button", "escape", "beside"):
        # Given the question whether to cancel
        dialog = question(page, "Cancel")
        assert "cannot be undone" in dialog.inner_text()
        assert dialog.get_by_role("heading").inner_text() == "Cancel to be held?"
        assert Axe().run(page).violations_count == 0
        # When it is left
        if leave == "button":
            dialog.get_by_role("link", name="Leave it").click()
        elif leave == "escape":
            page.keyboard.press("Escape")
        else:
            page.mouse.click(5, 5)
        dialog.wait_for(state="hidden")
        # Then the button that asked has the focus again, and nothing was done
        assert page.evaluate("document.activeElement.textContent") == "Cancel"
    assert rows(shown, "SELECT state FROM batch WHERE id = :id", id=held) == [("open",)]


def test_a_batch_is_paused_and_resumed(open_page: Open, shown: Site) -> None:
    held = shown.batches[3]
    page = open_page(f"/batches/{held}")
    # When it is paused with a reason
    dialog = question(page, "Pause")
    dialog.get_by_label("Why").fill("wrong prompts?")
    dialog.get_by_role("button", name="Pause").click()
    # Then the page and the database say so
    assert "queued jobs wait" in said(page, "paused_batch")
    assert "wrong prompts?" in page.locator(".held").inner_text()
    ((kind, name, who, reason),) = rows(shown, "SELECT kind, name, who, reason FROM pause")
    assert (kind, name, reason) == ("batch", held, "wrong prompts?")
    assert re.fullmatch(r"key \S+", who)
    # And it is resumed by one press
    page.get_by_role("button", name="Resume").click()
    assert "decide its jobs again" in said(page, "resumed_batch")
    assert rows(shown, "SELECT * FROM pause") == []
    assert page.locator(".held").count() == 0


def test_an_administrator_pauses_and_resumes_a_tier(open_page: Open, shown: Site) -> None:
    page = open_page("/")
    cloud = page.get_by_role("article").filter(has_text="cloud")
    cloud.get_by_role("link", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    assert "no job" in said(page, "paused_tier")
    assert rows(shown, "SELECT kind, name FROM pause") == [("tier", "cloud")]
    cloud.get_by_role("button", name="Resume").click()
    assert "jobs again" in said(page, "resumed_tier")
    assert rows(shown, "SELECT * FROM pause") == []
    # But who only submits has no such button
    other = open_page("/", role=Role.SUBMITTER)
    assert other.get_by_role("article").get_by_role("link", name="Pause").count() == 0


def test_what_failed_goes_to_the_cloud_for_the_price_that_was_shown(open_page: Open, shown: Site) -> None:
    # Given a batch of which jobs failed, and the question what the cloud would cost
    mended = shown.batches[4]
    failed = rows(
        shown,
        """SELECT count(*) FROM job j JOIN outcome o ON o.job_id = j.id
            WHERE j.batch_id = :id AND o.state = 'failed'""",
        id=mended,
    )[0][0]
    page = open_page(f"/batches/{mended}")
    dialog = question(page, "Draw on cloud")
    price = packaged_price("cloud") * failed
    assert f"{failed} pictures, {money(price)} in all" in dialog.inner_text()
    # When it is answered with a limit of just that
    dialog.get_by_label("that failed").check()
    dialog.get_by_label("Limit in dollars").fill(f"{price / 1_000_000:.6f}")
    dialog.get_by_role("button", name="Draw on cloud").click()
    # Then a new batch of these jobs asks for the cloud tier, with that limit
    assert f"{failed} jobs to be drawn" in said(page, "rerouted")
    made = page.url.rsplit("/", 1)[1]
    assert rows(shown, "SELECT retry_of, n_accepted FROM batch WHERE id = :id", id=made) == [(mended, failed)]
    assert rows(shown, "SELECT tier, count(*) FROM job WHERE batch_id = :id GROUP BY tier", id=made) == [
        ("cloud", failed)
    ]
    assert rows(shown, "SELECT lim FROM budget WHERE id = :id", id=f"batch:{made}") == [(price,)]
    # And asked again, only what the edge drew is left to be chosen
    page.goto(f"/batches/{mended}")
    dialog = question(page, "Draw on cloud")
    assert dialog.get_by_label("that failed").is_disabled()
    assert dialog.get_by_label("that edge drew").is_checked()


def test_one_job_of_the_edge_is_drawn_by_the_cloud_too(open_page: Open, shown: Site) -> None:
    from db import gallery
    from db.gallery import Wish
    from routet2i.contracts import JobState

    wish = Wish(batch_id=shown.batches[4], tier="edge", state=JobState.SUCCEEDED)
    job_id = gallery.gallery(shown.repository.engine, wish).cards[0].job_id
    page = open_page(f"/jobs/{job_id}")
    dialog = question(page, "Draw on cloud")
    assert f"1 picture, {money(packaged_price('cloud'))} in all" in dialog.inner_text()
    dialog.get_by_role("button", name="Draw on cloud").click()
    assert "1 job to be drawn" in said(page, "rerouted")
    assert rows(shown, "SELECT tier FROM job WHERE retry_of = :id", id=job_id) == [("cloud",)]
    # And its page says so, and offers it no more
    page.goto(f"/jobs/{job_id}")
    assert page.get_by_role("link", name="Draw on cloud").count() == 0


def test_what_failed_is_tried_again_without_scripts(open_page: Open, shown: Site) -> None:
    # Given a browser that runs none
    done = shown.batches[0]
    page = open_page(f"/batches/{done}", java_script_enabled=False)
    # When a filter is sent, and what failed is tried again
    page.get_by_role("combobox", name="Tier").select_option("edge")
    page.get_by_role("button", name="Show").click()
    assert set(page.locator(".shot .chip.t-edge").all_inner_texts()) == {"edge"}
    page.get_by_role("link", name="Retry failed").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Retry what failed?"
    page.get_by_label("Limit in dollars").fill("1.50")
    page.get_by_role("button", name="Retry").click()
    # Then the new batch says so, and the database has it
    assert "to be tried again" in page.get_by_role("status").first.inner_text()
    made = re.search(r"/batches/([0-9a-f-]{36})", page.url)
    assert made is not None
    assert rows(shown, "SELECT retry_of FROM batch WHERE id = :id", id=made[1]) == [(done,)]
    assert rows(shown, "SELECT lim FROM budget WHERE id = :id", id=f"batch:{made[1]}") == [(1_500_000,)]


def a_queued_job(shown: Site, batch_id: str) -> str:
    statement = "SELECT id FROM job WHERE batch_id = :id AND state = 'queued' ORDER BY seq DESC LIMIT 1"
    return str(rows(shown, statement, id=batch_id)[0][0])


@pytest.mark.parametrize("screen", WIDTHS)
def test_progress_comes_by_itself_and_nothing_moves_or_flickers(
    open_page: Open, shown: Site, screen: str
) -> None:
    # Given somebody who watches a running batch, told of changes by the server
    running = shown.batches[1]
    with_events: list[str] = []
    page = open_page("/budgets", screen=screen)
    page.on("request", lambda one: with_events.append(one.url) if one.url.endswith("/events") else None)
    with page.expect_request("**/events"):
        page.goto(f"/batches/{running}")
    page.wait_for_load_state()
    page.wait_for_timeout(500)  # for a second one, which there must not be
    assert len(with_events) == 1
    page.evaluate("() => { document.querySelector('.tile .big b').kept = true }")
    page.evaluate(WATCH)
    page.get_by_role("link", name="Cancel", exact=True).focus()
    # When a job is cancelled elsewhere
    before = rows(
        shown,
        """SELECT count(*) FROM job j JOIN outcome o ON o.job_id = j.id
            WHERE j.batch_id = :id AND o.state = 'cancelled'""",
        id=running,
    )[0][0]
    shown.repository.cancel_job(a_queued_job(shown, running))
    # Then the page says so; what stood there still does, in its place, and so does the focus
    progress = page.get_by_role("region", name="Progress")
    progress.get_by_text(f"{before + 1} cancelled").wait_for()
    assert page.evaluate("document.querySelector('.tile .big b').kept")
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.wait_for_timeout(200)
    assert shifted(page) < STILL, page.evaluate("window.shifts")


def shifted(page: Any) -> float:
    """Return how much a page has moved by itself since it is watched, as its browser counts it."""
    return float(sum(value for value, _ in page.evaluate("window.shifts")))


@pytest.mark.parametrize("screen", WIDTHS)
def test_a_batch_lasts_fails_and_ends_in_its_place(open_page: Open, shown: Site, screen: str) -> None:
    # Given a batch that has just begun, on its page and on the first one
    name = f"watched on a {screen}"
    (watched,) = [one for one, known in rows(shown, "SELECT id, name FROM batch") if known == name]
    own, first = open_page(f"/batches/{watched}", screen=screen), open_page(screen=screen)
    seen = {own: own.locator(".live"), first: first.locator(".batch").filter(has_text=name)}
    for page, place in seen.items():
        place.scroll_into_view_if_needed()
        page.evaluate(WATCH)
    own.get_by_role("link", name="Draw on cloud", exact=True).focus()
    ended = """INSERT INTO outcome (job_id, state, tier, microbatch_id, fence, micro_usd, seconds, at_ms)
        SELECT j.id, 'failed', m.tier, m.id, 1, 0, :seconds, b.created_ms + 1
        FROM job j JOIN batch b ON b.id = j.batch_id LEFT JOIN microbatch m ON m.id = j.microbatch_id
        WHERE b.id = :id AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.job_id = j.id) LIMIT :jobs"""
    spent = "UPDATE budget SET reserved = 0, spent = 399990 WHERE id = 'batch:' || :id"
    for changes, told in (
        # When it has lasted for hours, when its first jobs failed, when nothing is left of it and its money
        (["UPDATE batch SET created_ms = created_ms - 41400000 WHERE id = :id"], re.compile("1[12] h")),
        ([ended], "2 failed"),
        ([ended.replace(":jobs", "1000"), spent], "complete"),
    ):
        with transaction(shown.repository.engine) as connection:
            for statement in changes:
                connection.execute(text(statement), {"id": watched, "seconds": 1449.0, "jobs": 2})
        own.wait_for_timeout(1_050)  # the server counts a batch once a second
        for page, place in seen.items():
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            place.get_by_text(told).first.wait_for()
            page.wait_for_timeout(200)
            # Then all of it stays where it stood, and so does the focus
            assert shifted(page) < STILL, (told, page.evaluate("window.shifts"))
        assert own.evaluate("document.activeElement.textContent") == "Draw on cloud"
    # And what can be done no more is shown so, until the page is opened anew
    assert own.get_by_role("button", name="Cancel", exact=True).is_disabled()
    own.reload()
    assert own.get_by_role("button", name="Cancel", exact=True).count() == 0
    assert own.get_by_role("link", name="Retry failed", exact=True).is_visible()


def test_without_events_the_page_asks_now_and_then_but_not_while_nobody_looks(
    open_page: Open, shown: Site
) -> None:
    # Given a network on which no event arrives
    held = shown.batches[3]
    page = open_page("/budgets")
    page.add_init_script(
        "{ window.asked = []; const real = fetch;"
        " window.fetch = (...all) => { asked.push(String(all[0])); return real(...all) } }"
    )
    page.route("**/events", lambda route: route.fulfill(status=204, body=""))
    page.goto(f"/batches/{held}")
    # When a job is cancelled elsewhere, then the page says so all the same
    progress = page.get_by_role("region", name="Progress")
    was = rows(shown, "SELECT count(*) FROM job WHERE batch_id = :id AND state = 'queued'", id=held)[0][0]
    shown.repository.cancel_job(a_queued_job(shown, held))
    progress.get_by_text(f"{was - 1} queued").wait_for()
    # And while the tab is hidden it asks nothing, and once it is shown again at once
    hide = """hidden => { Object.defineProperty(document, "hidden", {get: () => hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange")) }"""
    page.evaluate(hide, True)
    assert page.evaluate("asked.splice(0)") != []
    page.wait_for_timeout(4_500)
    assert page.evaluate("asked") == []
    page.evaluate(hide, False)
    assert [one.rpartition("/")[2] for one in page.evaluate("asked")] == ["live"]


def test_cancelling_ends_a_batch_for_all_who_watch(open_page: Open, shown: Site) -> None:
    # Given somebody who watches a running batch
    held = shown.batches[3]
    watching = open_page(f"/batches/{held}")
    # When somebody else cancels it
    acting = open_page(f"/batches/{held}")
    question(acting, "Cancel").get_by_role("button", name="Cancel the batch").click()
    assert re.search(r"\d+ jobs cancelled", said(acting, "cancelled"))
    assert rows(shown, "SELECT state FROM batch WHERE id = :id", id=held) == [("cancelled",)]
    assert rows(shown, "SELECT count(*) FROM job WHERE batch_id = :id AND state = 'queued'", id=held) == [
        (0,)
    ]
    # Then the first one sees it, without having touched anything
    watching.get_by_text("stopping", exact=True).wait_for()
    assert watching.get_by_role("link", name="Pause", exact=True).count() == 0


def test_filters_stand_in_the_address_and_the_way_back_brings_them_again(
    open_page: Open, shown: Site
) -> None:
    # Given a gallery that was filtered twice, and sorted by what was predicted
    done = shown.batches[0]
    page = open_page(f"/batches/{done}")
    page.get_by_label("Search").fill("100%_red\\ Ä")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=*")
    assert page.get_by_text("No job fits.").is_visible()
    page.get_by_label("Search").fill("RED")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=RED")
    assert "red" in page.locator(".shot .prompt").first.inner_text().lower()
    page.get_by_role("combobox", name="Sort by").select_option("prs")
    page.wait_for_url("**sort=prs*")
    scores = [float(one) for one in page.locator(".shot .line > .score").all_inner_texts()]
    assert len(scores) > 3
    assert scores == sorted(scores, reverse=True)
    # When the browser goes back, then the form holds what the address does
    page.go_back()
    page.wait_for_url(lambda url: "sort=" not in url)
    assert page.get_by_role("combobox", name="Sort by").input_value() == "line"
    page.go_back()
    page.wait_for_url("**text=100*")
    assert page.get_by_label("Search").input_value() == "100%_red\\ Ä"
    page.go_forward()
    page.wait_for_url("**text=RED")
    assert page.get_by_label("Search").input_value() == "RED"


def test_who_may_only_look_sees_no_buttons(open_page: Open, shown: Site) -> None:
    page = open_page(f"/batches/{shown.batches[0]}", role=Role.AUDITOR, client="audit")
    assert page.locator("[data-ask]").count() == 0
    page.goto("/")
    assert page.locator("[data-ask]").count() == 0


def test_static_files_are_kept_for_ever(open_page: Open, shown: Site, tmp_path: Path) -> None:
    page = open_page("/")
    with page.expect_response(re.compile(r"/static/[0-9a-f]{12}/pages\.css")) as answer:
        page.reload()
    assert "immutable" in answer.value.headers["cache-control"]
