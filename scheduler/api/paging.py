"""Pages of a list: how many, behind which, and the form that OpenAI's clients turn over.

It knows no rows: what a list holds and in which order is the route's affair.
"""

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

MOST = 100

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=MOST, description="most rows of a page")]
After = Annotated[
    str | None,
    Query(max_length=128, pattern=r"^[A-Za-z0-9@:._-]+$", description="`last_id` of the page before"),
]


class Page(BaseModel, Generic[T]):
    """Some rows of a list."""

    object: str = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(data: list[T], *, ids: list[str], more: bool) -> Page[T]:
    """Return a page of rows with these ids."""
    return Page(
        data=data,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=more,
    )
