"""What every page shares: who looks at it, and errors as pages instead of JSON.

A stranger is sent to the sign-in page and comes back to where he wanted to go. It knows no page's content.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from routet2i.errors import NotFound, RouteT2IError
from scheduler.api.answers import Refused, told
from scheduler.api.callers import Caller, caller
from scheduler.api.pages.rendering import page

SEE_OTHER = 303  # the browser goes on with GET
MOST_PICTURES = 1_000_000  # far from the end of the database's integers

Id = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$")]
Index = Annotated[int, Path(ge=0, le=MOST_PICTURES)]


class SignInFirst(Exception):
    """Nobody is signed in."""


def visitor(request: Request) -> Caller:
    """Return who looks; raises SignInFirst, or Refused with 403."""
    try:
        return caller(request)
    except Refused as error:
        if error.status == 401:
            raise SignInFirst from None
        raise


Visitor = Annotated[Caller, Depends(visitor)]


def overseer(found: Visitor) -> Caller:
    """Return who looks, if it may see everybody's rows; to others the page does not exist."""
    if not found.sees_all:
        raise Refused(404, "there is no such page", code="not_found")
    return found


Overseer = Annotated[Caller, Depends(overseer)]


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await inner(request)
            except SignInFirst:
                wanted = request.url.path if request.method in ("GET", "HEAD") else "/"
                if request.url.query and wanted != "/":
                    wanted = f"{wanted}?{request.url.query}"
                return RedirectResponse(f"/login?next={quote(wanted, safe='')}", status_code=SEE_OTHER)
            except Refused as error:
                return refusal(request, error.status, error.message)
            except RequestValidationError as error:
                first: dict[str, Any] = dict(error.errors()[0])
                return refusal(request, 400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")
            except RouteT2IError as error:
                status, message, _ = told(error)
                return refusal(request, status, message)

        return answer


def refusal(request: Request, status: int, message: str) -> Response:
    """Return an error as a page."""
    return page(request, "error.html.j2", None, code=status, message=message, title=str(status))


def pages() -> APIRouter:
    """Return a router for pages; they are no part of the documented interface."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def shown_to(found: Caller, client: str, *, what: str) -> None:
    """Make sure that a client's thing may be seen; raises NotFound, so that nobody learns that it exists."""
    if not found.may_see(client):
        raise NotFound(f"no {what}")


def changed_by(found: Caller, client: str, *, what: str) -> None:
    """Make sure that a client's thing may be changed; raises NotFound, or Refused with 403."""
    shown_to(found, client, what=what)
    if not found.may_change(client):
        raise Refused(403, f"a key of role {found.role} may look but not act", code="role")
