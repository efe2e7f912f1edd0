"""All pages together, and what they share for as long as the process lives."""

from fastapi import FastAPI

from db.repository import Repository
from routet2i.settings import Settings
from scheduler.api.pages import actions, batches, budgets, door, drift, jobs, pictures, static_files
from scheduler.api.pages.drift import Comparison
from scheduler.api.pages.thumbnails import Thumbnails
from scheduler.api.pages.words import Explainer


def add_pages(application: FastAPI, settings: Settings, repository: Repository) -> None:
    """Give an application its pages."""
    application.state.thumbnails = Thumbnails()
    application.state.comparison = Comparison(settings=settings, repository=repository)
    application.state.words = Explainer(settings=settings, repository=repository)
    for module in (static_files, door, batches, jobs, actions, pictures, drift, budgets):
        application.include_router(module.router)
