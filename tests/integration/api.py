"""Requests to the application `application` of `conftest`: its address, its keys, its database."""

from fastapi import FastAPI

from db.repository import Repository

HERE = "http://api.test"


def repository_of(application: FastAPI) -> Repository:
    """Return the verbs on an application's database."""
    found: Repository = application.state.repository
    return found


def as_(key: str) -> dict[str, str]:
    """Return the headers of a key, which is the client's name."""
    return {"Authorization": f"Bearer {key}"}
