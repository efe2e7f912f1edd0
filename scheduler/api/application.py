"""The web application: which routers there are, how errors are answered, which headers each answer has.

It knows no route's content and no SQL; each noun has its own router.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from db.repository import Repository
from routet2i import __version__
from routet2i.settings import Settings
from scheduler.api import answers, batches, files, health, images, metrics, models, webhooks
from scheduler.api.bodies import SmallBodies
from scheduler.api.callers import Doorkeeper
from scheduler.api.headers import SafeHeaders
from scheduler.api.limits import Limits, RateHeaders
from scheduler.api.lookout import Lookout
from scheduler.api.ours import ROUTERS
from scheduler.api.ours.events import Feed
from scheduler.api.ours.previews import oracle_of
from scheduler.api.pages import warmth
from scheduler.api.pages.routes import add_pages
from scheduler.api.pages.standing import Standing
from scheduler.clerk import Clerk
from scheduler.picture_links import PURPOSE, PictureLinks

TITLE = "RouteT2I"
WARM_SECONDS = 10.0  # longest wait at the end for what was begun at the start
SUMMARY = "Batch text-to-image with prompt-aware routing between a light and a large model under a budget."


def make_application(settings: Settings, repository: Repository, *, behind_proxy: bool = False) -> FastAPI:
    """Return the application of one deployment; nothing is opened or started yet.

    Args:
        settings: of the deployment; routes find them as `request.app.state.settings`.
        repository: of a database whose schema is ours; `request.app.state.repository`. The clerk
            (`request.app.state.clerk`) works from the server's start to its end.
        behind_proxy: whoever seems to be of this machine is the proxy, and has no right of his own.
    """
    clerk = Clerk(repository, settings)

    @asynccontextmanager
    async def served(application: FastAPI) -> AsyncIterator[None]:
        clerk.start()
        warming = warmth.begin(application)
        yield
        await run_in_threadpool(clerk.stop)
        await run_in_threadpool(warming.join, WARM_SECONDS)

    application = FastAPI(
        title=TITLE,
        summary=SUMMARY,
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/routet2i/v1/openapi.json",
        lifespan=served,
    )
    application.state.settings = settings
    application.state.repository = repository
    application.state.clerk = clerk
    application.state.links = PictureLinks(lambda: repository.link_secret(PURPOSE))
    application.state.behind_proxy = behind_proxy
    application.state.doorkeeper = Doorkeeper(repository)
    application.state.limits = Limits(settings.api_requests_per_minute)
    application.state.lookout = Lookout(repository)
    application.state.standing = Standing(repository=repository)
    application.state.feed = Feed(application.state.standing.of)
    application.state.oracle = oracle_of(settings, repository)
    application.state.crowd = {}  # key -> its requests that wait for pictures
    application.state.uploads = {}  # key -> its uploads that are under way
    application.state.exposition = metrics.Exposition(repository, settings)
    application.add_middleware(SmallBodies)
    application.add_middleware(RateHeaders)
    application.add_middleware(SafeHeaders)
    answers.install(application)
    for router in (health.router, metrics.router):
        application.include_router(router)
    for router in (files.router, batches.router, models.router, images.router, webhooks.router, *ROUTERS):
        application.include_router(router, responses=answers.REFUSALS)
    add_pages(application, settings, repository)
    answers.describe(application)
    return application
