"""Sign in and out: a key becomes a cookie that scripts cannot read and other sites cannot send.

It knows keys through the doorkeeper. A link with the key behind `#` signs in by itself: what stands there is
never sent to any server, and the page's script takes it out of the address.
"""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response

from scheduler.api.answers import Refused
from scheduler.api.callers import COOKIE, address_of, from_our_page
from scheduler.api.pages.frame import SEE_OTHER, pages
from scheduler.api.pages.rendering import page

KEPT_SECONDS = 30 * 86_400

router = pages()


@router.get("/login")
def sign_in_page(request: Request, next: str = "/") -> Response:
    """Ask for a key."""
    return page(request, "login.html.j2", None, next=local(next), wrong="")


@router.post("/login")
def sign_in(
    request: Request,
    key: Annotated[str, Form(max_length=200)],
    next: Annotated[str, Form(max_length=2_000)] = "/",
) -> Response:
    """Take a key; a wrong one is told and asked for again."""
    if not from_our_page(request):
        raise Refused(403, "this request comes from another site's page", code="foreign_origin")
    try:
        request.app.state.doorkeeper.admit(key.strip(), address=address_of(request))
    except Refused as error:
        return page(request, "login.html.j2", None, code=error.status, next=local(next), wrong=error.message)
    answer = RedirectResponse(local(next), status_code=SEE_OTHER)
    answer.set_cookie(
        COOKIE,
        key.strip(),
        max_age=KEPT_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.headers.get("origin", "").startswith(
            "https:"
        ),  # the browser's word: TLS may end before
    )
    return answer


@router.post("/logout")
def sign_out(request: Request) -> Response:
    """Forget the key in this browser."""
    if not from_our_page(request):
        raise Refused(403, "this request comes from another site's page", code="foreign_origin")
    answer = RedirectResponse("/login", status_code=SEE_OTHER)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def local(target: str) -> str:
    """Return a path of this site, whatever was asked for: nobody is sent elsewhere after signing in."""
    fine = target.startswith("/") and not target.startswith("//") and "\\" not in target
    return target if fine and target.isprintable() else "/"
