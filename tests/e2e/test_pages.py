"""The pages in a real browser: signing in, two screens and two themes, by keyboard, without scripts."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.keys import Role
from tests.pages import seeding
from tests.pages.seeding import Drawing, Wanted
from tests.pages.site import NO_BROWSER, Site, browser_path, site

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(browser_path() is None, reason=NO_BROWSER)

HOSTILE = '<img src=x onerror="document.title=1"> <script>document.title=1</script> {{ 7 * 7 }} a red circle'
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
        page.set_default_timeout(20_000)
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

    engine, (done, running, _) = shown.repository.engine, shown.batches
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
        for summary in page.locator("details:not(.action) > summary").all():
            summary.click()
        # When axe-core looks at it, then it has nothing to say
        found = Axe().run(page)
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        # And nothing sticks out to the right
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
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


def test_progress_moves_without_a_click_and_cancelling_ends_it(open_page: Open, shown: Site) -> None:
    # Given somebody who watches a running batch
    running = shown.batches[1]
    watching = open_page(f"/batches/{running}")
    progress = watching.get_by_role("region", name="Progress")
    assert progress.get_by_text("running", exact=True).is_visible()
    # When somebody else cancels it
    acting = open_page(f"/batches/{running}")
    acting.get_by_text("Cancel", exact=True).first.click()
    acting.get_by_role("button", name="Cancel").click()
    acting.wait_for_url("**did=cancelled*")
    assert re.search(r"\d+ jobs cancelled", acting.get_by_role("status").first.inner_text())
    # Then the first one sees it, without having touched anything
    progress.get_by_text("stopping", exact=True).wait_for()


def test_pages_work_without_scripts(open_page: Open, shown: Site) -> None:
    # Given a browser that runs none
    page = open_page(f"/batches/{shown.batches[0]}", java_script_enabled=False)
    # When a filter is sent, a menu opened and what failed is tried again
    page.get_by_role("combobox", name="Tier").select_option("edge")
    page.get_by_role("button", name="Show").click()
    assert set(page.locator(".shot .chip.t-edge").all_inner_texts()) == {"edge"}
    page.get_by_text("Retry failed").first.click()
    page.get_by_label("Budget in dollars").fill("1.50")
    page.get_by_role("button", name="Retry failed").click()
    # Then the new batch says so
    assert "to be tried again" in page.get_by_role("status").first.inner_text()
    assert page.get_by_role("heading", level=1).inner_text() != "done"


def test_who_may_only_look_sees_no_buttons(open_page: Open, shown: Site) -> None:
    page = open_page(f"/batches/{shown.batches[0]}", role=Role.AUDITOR, client="audit")
    assert page.get_by_text("Retry failed").count() == 0


def test_static_files_are_kept_for_ever(open_page: Open, shown: Site, tmp_path: Path) -> None:
    page = open_page("/")
    with page.expect_response(re.compile(r"/static/[0-9a-f]{12}/pages\.css")) as answer:
        page.reload()
    assert "immutable" in answer.value.headers["cache-control"]
