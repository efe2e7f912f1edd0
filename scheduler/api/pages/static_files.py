"""Style sheet and scripts of the pages, under addresses that change with their content: kept for ever.

It serves the files of `scheduler/api/static` and nothing else: the name must be one of them.
"""

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from routet2i.errors import NotFound

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@cache
def _files() -> dict[str, bytes]:
    return {
        one.name: one.read_bytes()
        for one in files("scheduler.api").joinpath("static").iterdir()
        if one.name.rpartition(".")[2] in TYPES
    }


@cache
def address(name: str) -> str:
    """Return where a file is served; raises KeyError if there is none."""
    return f"/static/{hashlib.sha256(_files()[name]).hexdigest()[:12]}/{name}"


@router.get("/static/{version}/{name}")
def static(version: str, name: str) -> Response:
    """Serve a file; of another version the newest, not to be kept."""
    if name not in _files():
        raise NotFound(f"no file {name}")
    kept = FOR_EVER if address(name) == f"/static/{version}/{name}" else "no-cache"
    kind = TYPES[name.rpartition(".")[2]]
    return Response(_files()[name], media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": kept})
