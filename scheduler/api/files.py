"""Files as OpenAI's clients upload, list and read them: lines of batches, and what batches have left.

It knows HTTP's side; rows are `db.files`, bytes `scheduler.file_store`, lines `scheduler.answer_lines`.
"""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from db import lines
from db.files import PREFIX, FileRow, Purpose, gone
from routet2i.images import ImageStore
from scheduler.answer_lines import error_line, output_line, shower
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller, Caller, Submitter
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.fields import cursor, known_id, public_url
from scheduler.file_store import FileStore
from scheduler.picture_links import PictureLinks

LINES = "application/jsonl"
FORM_BYTES = 64 * 1024  # of an upload beside its file
NAME_CHARS = 255
MOST_AT_ONCE = (
    16  # uploads of one key that one process takes at a time: each lies on the disk twice for a while
)
SHORTEST_SECONDS, LONGEST_SECONDS = 3_600, 2_592_000  # of a file's life, as OpenAI has it

router = APIRouter(prefix="/v1/files", tags=["files"])


class File(BaseModel):
    """A file, as OpenAI's `FileObject`."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that went."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


UPLOAD = {  # the body is read by hand: who may not upload is refused before its first byte
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": SHORTEST_SECONDS,
                            "maximum": LONGEST_SECONDS,
                        },
                    },
                }
            }
        },
    }
}


class _Upload(BaseModel):
    """What an upload brought."""

    sha256: str
    size: int
    filename: str
    seconds: int | None


async def _uploaded(request: Request, caller: Submitter) -> AsyncGenerator[_Upload, None]:
    """Store an upload's bytes; raises Refused."""
    crowd: dict[str, int] = request.app.state.uploads
    if crowd.get(caller.key_id, 0) >= MOST_AT_ONCE:
        raise Refused(
            429, f"{MOST_AT_ONCE} uploads of this key are under way already", code="rate_limit_exceeded"
        )
    crowd[caller.key_id] = crowd.get(caller.key_id, 0) + 1
    try:
        room = await run_in_threadpool(_room, request, caller)
        yield await _stored(request, room)
    finally:
        crowd[caller.key_id] -= 1
        if not crowd[caller.key_id]:
            del crowd[caller.key_id]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Room:
    """The longest file that may come now, and what is said of a longer one."""

    most: int  # bytes
    refused: Refused


def _room(request: Request, caller: Caller) -> _Room:
    settings = settings_of(request)
    if settings.client_file_bytes is not None:
        left = settings.client_file_bytes - repository_of(request).held_bytes(client=caller.client)
        if left < settings.max_file_bytes:
            return _Room(
                most=max(left, 0),
                refused=Refused(
                    413,
                    f"files of client {caller.client} may have {settings.client_file_bytes} bytes in all, "
                    f"{max(left, 0)} are left; delete some (DELETE /v1/files/ID: their bytes go within two "
                    "hours), or set ROUTET2I_CLIENT_FILE_BYTES",
                    code="file_quota",
                    param="file",
                ),
            )
    return _Room(
        most=settings.max_file_bytes,
        refused=Refused(
            413,
            f"at most {settings.max_file_bytes} bytes are taken; split the file, or set "
            "ROUTET2I_MAX_FILE_BYTES",
            code="file_too_long",
            param="file",
        ),
    )


async def _stored(request: Request, room: _Room) -> _Upload:
    most = room.most + FORM_BYTES
    if int(request.headers.get("content-length", "0") or 0) > most:
        raise room.refused
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(400, "send multipart/form-data with the parts file and purpose", code="form")

    async def counted() -> AsyncGenerator[bytes, None]:
        left = most
        async for piece in request.stream():
            left -= len(piece)
            if left < 0:
                raise room.refused
            yield piece

    parser = MultiPartParser(
        request.headers, counted(), max_files=1, max_fields=8, max_part_size=FORM_BYTES // 8
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refused(400, f"the form cannot be read: {error}", code="form") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refused(400, "there is no part named file with a file's name", code="form", param="file")
        if form.get("purpose") != Purpose.BATCH:
            raise Refused(400, "purpose must be batch", code="purpose", param="purpose")
        seconds = _life(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))
        if (file.size or 0) > room.most:
            raise room.refused
        if not file.size:
            raise Refused(400, "the file is empty", code="empty", param="file")
        sha256, size = await run_in_threadpool(FileStore(root=settings_of(request).files).put, file.file)
        return _Upload(sha256=sha256, size=size, filename=_name(file.filename), seconds=seconds)
    finally:
        await form.close()


def _life(anchor: Any, seconds: Any) -> int | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at" or not (isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal()):
        raise _bad_life()
    if not SHORTEST_SECONDS <= int(seconds[:9]) <= LONGEST_SECONDS or len(seconds) > 9:
        raise _bad_life()
    return int(seconds)


def _bad_life() -> Refused:
    return Refused(
        400,
        f"expires_after needs anchor created_at and {SHORTEST_SECONDS} to {LONGEST_SECONDS} seconds",
        code="expires_after",
        param="expires_after",
    )


def _name(filename: str | None) -> str:
    """Return a file's name as it may be shown: one line, without what a database refuses."""
    kept = "".join(sign for sign in (filename or "") if sign.isprintable())
    return kept[-NAME_CHARS:] or "upload.jsonl"


@router.post("", openapi_extra=UPLOAD)
def create(request: Request, caller: Submitter, upload: Annotated[_Upload, Depends(_uploaded)]) -> File:
    """Upload a file with one request a line, for a batch."""
    return _shown(
        repository_of(request).add_file(
            client=caller.client,
            filename=upload.filename,
            size=upload.size,
            sha256=upload.sha256,
            seconds=upload.seconds,
        )
    )


@router.get("")
def listed(
    request: Request,
    caller: AnyCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Purpose | None = None,
) -> FileList:
    """List the client's files, newest first; auditors and administrators see everybody's."""
    found = repository_of(request).files(
        client=None if caller.sees_all else caller.client,
        purpose=purpose,
        after=cursor(after, prefix=PREFIX),
        ascending=order == "asc",
        limit=limit + 1,
    )
    page = found[:limit]
    return FileList(
        data=[_shown(one) for one in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.get("/{file_id}")
def retrieve(request: Request, caller: AnyCaller, file_id: str) -> File:
    """Tell about one file."""
    return _shown(_visible(request, caller, file_id))


@router.delete("/{file_id}")
def delete(request: Request, caller: Submitter, file_id: str) -> FileDeleted:
    """Delete a file; a batch that was made of it goes on, and its pictures stay."""
    found = _visible(request, caller, file_id)
    repository_of(request).delete_file(found.id)
    return FileDeleted(id=found.id)


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={200: {"content": {LINES: {"schema": {"type": "string", "format": "binary"}}}}},
)
def content(request: Request, caller: AnyCaller, file_id: str) -> Response:
    """Read a file; what a batch has left is made while it is read."""
    found = _visible(request, caller, file_id)
    settings = settings_of(request)
    if found.sha256 is None:
        return StreamingResponse(_left_lines(request, found), media_type=LINES)
    path = FileStore(root=settings.files).find(found.sha256)
    if path is None:
        raise Refused(410, f"the bytes of {found.id} are gone from the disk; upload it again", code="gone")
    return FileResponse(path, media_type=LINES)


def _left_lines(request: Request, file: FileRow) -> Iterator[bytes]:
    repository = repository_of(request)
    settings = settings_of(request)
    order = repository.find_order_of(file.id)
    assert order.batch_id is not None
    if file.id == order.output_file_id:
        links: PictureLinks = request.app.state.links
        # as its reader addresses us: whoever ordered may have sent any Host
        show = shower(
            ImageStore(root=settings.pictures), address=partial(links.address, base_url=public_url(request))
        )
        for job in lines.delivered(repository.engine, order.batch_id):
            yield output_line(job, batch_id=order.batch_id, show=show)
        return
    for line in lines.missing(repository.engine, order.batch_id):
        yield error_line(line, order_id=order.id, ending=str(order.ending))


def _visible(request: Request, caller: Caller, file_id: str) -> FileRow:
    """Return a file that the caller may see; another one is as good as none."""
    found = repository_of(request).find_file(known_id(file_id, prefix=PREFIX, what="file"))
    if not caller.may_see(found.client):
        raise gone(file_id)
    return found


def _shown(row: FileRow) -> File:
    return File(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_ms // 1000,
        expires_at=None if row.expires_ms is None else row.expires_ms // 1000,
        filename=row.filename,
        purpose=row.purpose,
    )
