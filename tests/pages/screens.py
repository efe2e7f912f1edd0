"""Draw the pages and Flower into PNG files, on a phone and a wide screen, light and dark: `docs/screens`.

The pictures in them are the shape world's own drawings of a seeded home. It knows which pages are worth it.
"""

import io
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from db import gallery
from db.gallery import Wish
from db.keys import Role
from scheduler.api.callers import COOKIE
from tests.pages import workers_view
from tests.pages.seeding import Wanted, drawings, store_of
from tests.pages.site import Site, browser, site

SCREENS = {390: 844, 1440: 900}  # pixels, width and height
Theme = Literal["light", "dark"]
COLOURS = 256  # of a file: small enough for a repository
SETTLED_MS = 600
CHOICE = [
    Wanted(
        name="classroom set", jobs=60, client="school", hours_ago=30, failed=0, budget_micro_usd=4_000_000
    ),
    Wanted(
        name="nightly regression", jobs=900, client="studio", hours_ago=9, budget_micro_usd=None, failed=0
    ),
    Wanted(
        name="product shapes, autumn",
        jobs=320,
        hours_ago=3,
        failed=0.02,
        cancelled=0.005,
        shadows=0.2,
        budget_micro_usd=15_000_000,
    ),
    Wanted(
        name="catalogue draft", jobs=480, hours_ago=0.4, done=0.55, shadows=0.1, budget_micro_usd=25_000_000
    ),
]


def draw(home: Path, *, into: Path) -> None:
    """Seed a home, visit its pages with a browser, and write what is seen."""
    into.mkdir(parents=True, exist_ok=True)
    with site(home, CHOICE, drawings(store_of(home), count=80)) as shown, browser() as started:
        key = shown.key(Role.ADMIN)
        for (name, width, theme), path in looks(shown).items():
            context = started.new_context(
                base_url=shown.url, viewport={"width": width, "height": SCREENS[width]}, color_scheme=theme
            )
            context.add_cookies([{"name": COOKIE, "value": key, "url": shown.url}])
            page = context.new_page()
            page.goto(path)
            if name == "question":
                page.get_by_role("link", name="Draw on cloud").click()
                page.get_by_role("dialog").wait_for()
            page.wait_for_timeout(SETTLED_MS)  # a page that listens to events is never idle
            _write(page.screenshot(), into / f"{name}-{width}-{theme}.png")
            context.close()


def draw_flower(folder: Path, *, into: Path) -> None:
    """Start a stack, let both tiers work, and write what Flower shows meanwhile."""
    folder.mkdir()
    with (
        workers_view.stack(folder) as home,
        browser() as started,
        workers_view.visit(started, home.stack()["flower"]) as page,
    ):
        workers_view.draw_both(home)
        workers_view.begin_long(home)
        workers_view.progress(page)
        page.get_by_role("button", name="All").click()  # Flower keeps the last search
        page.get_by_role("link", name="cloud.draw").first.wait_for()
        _write(page.screenshot(), into / "flower-1440.png")
        page.goto("/workers")
        page.wait_for_load_state("networkidle")
        _write(page.screenshot(), into / "flower-workers-1440.png")


def looks(shown: Site) -> dict[tuple[str, int, Theme], str]:
    """Return the pages to be drawn, by name, width and theme: few, for they are kept with the sources."""
    _, _, shapes, draft = shown.batches
    both = gallery.gallery(
        shown.repository.engine, Wish(batch_id=shapes, shadowed=True, sort="alignment")
    ).cards[0]
    pairs = f"/batches/{shapes}?both=1&sort=alignment"
    everywhere = {
        "batches": "/",
        "running": f"/batches/{draft}",
        "gallery": pairs,
        "job": f"/jobs/{both.job_id}",
    }
    once: dict[tuple[str, int, Theme], str] = {
        ("gallery", 390, "light"): f"{pairs}#gallery",  # below the batch, which fills a phone
        ("gallery", 390, "dark"): f"{pairs}#gallery",
        ("question", 390, "light"): f"/batches/{shapes}",
        ("budgets", 1440, "light"): "/budgets",
        ("drift", 1440, "light"): "/drift",
    }
    four = {
        (name, width, theme): path
        for name, path in everywhere.items()
        for width in SCREENS
        for theme in get_args(Theme)
    }
    return four | once


def _write(png: bytes, path: Path) -> None:
    """Write a picture in few colours: the commonest as they are, for they are the page's own."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    counted = sorted(picture.getcolors(picture.width * picture.height) or (), reverse=True)
    own = [channel for _, colour in counted[: COLOURS // 2] for channel in colour]
    others = picture.quantize(COLOURS - len(own) // 3).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((own + others)[: 3 * COLOURS])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
