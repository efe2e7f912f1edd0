"""The web application: which routers there are, how errors are answered, which headers each answer has.

It knows no route's content and no SQL; each noun has its own router.
"""

from fastapi import FastAPI

from db.repository import Repository
from routet2i import __version__
from routet2i.settings import Settings
from scheduler.api import answers, health
from scheduler.api.callers import Doorkeeper
from scheduler.api.headers import SafeHeaders

TITLE = "RouteT2I"
SUMMARY = "Batch text-to-image with prompt-aware routing between a light and a large model under a budget."


def make_application(settings: Settings, repository: Repository) -> FastAPI:
    """Return the application of one deployment; nothing is opened or started yet.

    Args:
        settings: of the deployment; routes find them as `request.app.state.settings`.
        repository: of a database whose schema is ours; `request.app.state.repository`.
    """
    application = FastAPI(
        title=TITLE,
        summary=SUMMARY,
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/routet2i/v1/openapi.json",
    )
    application.state.settings = settings
    application.state.repository = repository
    application.state.doorkeeper = Doorkeeper(repository)
    application.add_middleware(SafeHeaders)
    answers.install(application)
    application.include_router(health.router)
    return application
