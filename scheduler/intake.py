"""Bytes of a user's prompt file in, requests and rejections out, one line at a time.

It reads JSON lines (ours, and those of an OpenAI batch file), CSV with a header, and plain text with one
prompt a line, in memory that does not grow with the file. A bad line becomes a Rejection with a reason and a
remedy and never stops the file. It knows neither budgets nor tiers nor the database, and it trusts nothing:
sizes are capped, text is NFC, and control characters, lone surrogates, non-characters and the bidirectional
overrides of CVE-2021-42574 are refused.
(The single marks U+200E, U+200F and U+061C, which right-to-left prose needs, are kept.)
"""

import contextlib
import csv
import difflib
import hashlib
import json
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import orjson

from routet2i.contracts import NAME, GenerationRequest, Rejection
from routet2i.errors import IntakeError
from scheduler.deadlines import EXAMPLES, NO_DEADLINE, BadDeadline, Deadline, read_deadline
from scheduler.name_set import NameSet
from scheduler.openai_lines import BadLine, is_openai, own_fields

Format = Literal["jsonl", "openai", "csv", "text"]

FIELDS = (
    "custom_id",
    "prompt",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "n",
    "priority",
    "deadline",
    "metadata",
    "tier",
)
INTEGERS: Mapping[str, tuple[int, int]] = {  # field -> smallest and largest value
    "seed": (0, 2**31 - 1),
    "width": (8, 4096),
    "height": (8, 4096),
    "n": (1, 16),
    "priority": (-100, 100),
}
MAX_ID_CHARS = 128  # a custom_id is a name, not a text
MAX_DEPTH = 32  # levels of metadata: more than anybody nests by hand, far from any parser's limit
SHOWN = 60  # characters of a value that a reason quotes
SIZE_STEP = 8  # pixels: the models' latents are an eighth of the picture

_SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "text",
}
_BOM = b"\xef\xbb\xbf"
_NOT_TEXT: Mapping[bytes, tuple[str, str]] = {  # first bytes of a file -> what it is, what to do
    b"\xff\xfe": ("is UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("is UTF-16", "save it as UTF-8"),
    b"\x1f\x8b": ("is compressed with gzip", "unpack it with gunzip first"),
    b"PK\x03\x04": ("is a zip archive or a spreadsheet", "unpack it, or export it as CSV"),
    b"BZh": ("is compressed with bzip2", "unpack it with bunzip2 first"),
    b"\xfd7zXZ\x00": ("is compressed with xz", "unpack it with unxz first"),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", "unpack it with unzstd first"),
    b"%PDF-": ("is a PDF", "save it as text"),
}
_PLANE_ENDS = "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls except tab and newline
    "\ud800-\udfff"  # surrogates
    f"\ufdd0-\ufdef{_PLANE_ENDS}"  # non-characters
    "\u202a-\u202e\u2066-\u2069]"  # bidirectional embeddings, overrides and isolates
)
_TIER = re.compile(NAME)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DEFAULT_ID = re.compile(r"line-([1-9][0-9]*)")
_FLATTEN = f"nest metadata at most {MAX_DEPTH} levels"
_JSON_SHAPE = '{"prompt": "a red circle"}'


class _Refused(Exception):
    """Why a line is no job; becomes a Rejection."""

    def __init__(self, reason: str, remedy: str, *, code: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.code = code
        self.custom_id: str | None = None  # the line's, where it may be echoed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One physical line: its bytes without the line end, or why they cannot be used."""

    no: int  # 1-based
    raw: bytes
    sha256: str | None = None  # of all of it, where it was too long to keep
    size: int = 0  # bytes, where it was too long to keep

    def text(self) -> str:
        """Return the line as text; raises _Refused naming the first byte that is not UTF-8."""
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = self.raw[error.start]
            raise _Refused(
                f"byte {error.start + 1} of the line (0x{bad:02x}) is not UTF-8", "save the file as UTF-8"
            ) from None

    def rejection(self, refused: _Refused) -> Rejection:
        """Return the refusal of this line as a value."""
        sha256 = self.sha256 or hashlib.sha256(self.raw).hexdigest()
        return Rejection(
            line_no=self.no,
            reason=refused.reason,
            remedy=refused.remedy,
            raw_sha256=sha256,
            custom_id=refused.custom_id,
            code=refused.code,
        )


def guess_format(path: Path) -> Format:
    """Return the format a file's name tells; raises IntakeError listing the known endings."""
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_SUFFIXES)
        raise IntakeError(
            f"the name {path.name!r} does not tell its format; end it with one of {known}, "
            f"or add --format {'|'.join(get_args(Format))}"
        ) from None


def read_requests(
    stream: BinaryIO,
    *,
    fmt: Format,
    max_line_bytes: int,
    max_prompt_chars: int,
    seed_base: bytes,
    deadline: Deadline = NO_DEADLINE,
    priority: int = 0,
    now_ms: int | None = None,
    max_file_bytes: int | None = None,
    max_file_lines: int | None = None,
    tiers: Collection[str] | None = None,
) -> Iterator[GenerationRequest | Rejection]:
    """Yield one request or rejection per line that is not blank, in file order.

    Args:
        stream: the file's bytes, read once, forwards.
        fmt: 'jsonl' (each line ours, or one of an OpenAI batch file), 'openai' (the latter only), 'csv' (the
            first line names the columns) or 'text' (every line is a prompt, also one that begins with #).
        max_line_bytes: longest line, without its end; in CSV the longest record.
        max_prompt_chars: longest prompt and longest negative prompt, in code points after NFC.
        seed_base: makes the seeds of lines that name none: 31 bits of sha256(seed_base + line number).
        deadline: of lines that name none.
        priority: of lines that name none.
        now_ms: a line whose deadline has passed by then is refused, milliseconds since 1970; None = none is.
        max_file_bytes: longest file; None = any.
        max_file_lines: most lines, blank ones too; None = any.
        tiers: that lines may ask for; None = a line may ask for any.
    Raises:
        IntakeError: the file as a whole is no such file (UTF-16, an archive, a CSV header that is wrong), or
            is too long.
    """
    reader = _Reader(
        max_prompt_chars=max_prompt_chars,
        seed_base=seed_base,
        deadline=deadline,
        priority=priority,
        now_ms=now_ms,
        all_named=fmt == "openai",
        tiers=tiers,
    )
    caps = _Caps(left_bytes=max_file_bytes, left_lines=max_file_lines)
    lines = _lines(stream, max_line_bytes=max_line_bytes, caps=caps)
    if fmt == "csv":
        yield from _read_csv(lines, reader=reader, max_line_bytes=max_line_bytes)
        return
    for line in lines:
        if line.sha256 is None and not line.raw.strip():
            continue
        try:
            _check_size(line, max_line_bytes=max_line_bytes)
            text = line.text()
            if not text.strip():  # blank in Unicode's sense
                continue
            document, response_format = _parse(text, fmt=fmt, tiers=tiers)
            request = reader.request(line.no, document, response_format=response_format)
        except _Refused as refused:
            yield line.rejection(refused)
        else:
            yield request


def _parse(text: str, *, fmt: Format, tiers: Collection[str] | None) -> tuple[Mapping[str, Any], str | None]:
    """Return a line's fields, and how an answer is to show its pictures."""
    if fmt == "text":
        return {"prompt": text.strip()}, None
    document = _parse_json(text)
    if fmt == "jsonl" and not is_openai(document):
        return document, None
    try:
        return own_fields(document, tiers=tiers)
    except BadLine as error:
        raise _named(_Refused(error.reason, error.remedy, code=error.code), document) from None


@dataclass(kw_only=True, slots=True)
class _Caps:
    """What a file may still have; None = any."""

    left_bytes: int | None
    left_lines: int | None

    def take(self, raw: bytes, *, lines: int) -> None:
        """Count a piece of the file; raises IntakeError for the first that is too much."""
        if self.left_bytes is not None:
            self.left_bytes -= len(raw)
            if self.left_bytes < 0:
                raise IntakeError("the file is too long; split it, or set ROUTET2I_MAX_FILE_BYTES")
        if self.left_lines is not None:
            self.left_lines -= lines
            if self.left_lines < 0:
                raise IntakeError("the file has too many lines; split it, or set ROUTET2I_MAX_FILE_LINES")


def _lines(stream: BinaryIO, *, max_line_bytes: int, caps: _Caps) -> Iterator[_Line]:
    """Yield the physical lines; of one that is too long only its hash and size are kept."""
    no = 0
    while raw := stream.readline(max_line_bytes + 2):  # + 2: room for \r\n
        no += 1
        caps.take(raw, lines=1)
        if no == 1:
            raw = _opening(raw)
        content = raw.removesuffix(b"\n").removesuffix(b"\r")
        if raw.endswith(b"\n") or len(raw) < max_line_bytes + 2:
            if len(content) <= max_line_bytes:
                yield _Line(no=no, raw=content)
                continue
            yield _Line(no=no, raw=b"", sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            continue
        digest, size = hashlib.sha256(raw), len(raw)
        while not raw.endswith(b"\n") and (raw := stream.readline(max_line_bytes)):
            caps.take(raw, lines=0)
            digest.update(raw)
            size += len(raw)
        yield _Line(no=no, raw=b"", sha256=digest.hexdigest(), size=size)


def _opening(raw: bytes) -> bytes:
    """Return a file's first line without its byte order mark; raises IntakeError if this is no text file."""
    for magic, (what, remedy) in _NOT_TEXT.items():
        if raw.startswith(magic):
            raise IntakeError(f"the file {what}; {remedy}")
    return raw.removeprefix(_BOM)


def _check_size(line: _Line, *, max_line_bytes: int) -> None:
    if line.sha256 is not None:
        raise _Refused(
            f"the line has {line.size} bytes, {max_line_bytes} are allowed",
            "shorten it, or set ROUTET2I_MAX_LINE_BYTES",
        )


# --- formats: one line -> its fields ---------------------------------------------------------------------


def _parse_json(text: str) -> dict[str, Any]:
    """Return the object of a JSON line; orjson judges the grammar, then json finds keys given twice."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _Refused(
            f"this is not JSON: {error.msg} at character {error.pos + 1}: {_show(text)}",
            f"write one JSON object a line, like {_JSON_SHAPE}; for plain prompts add --format text",
        ) from None
    if type(document) is not dict:
        raise _Refused(
            f"the line is no JSON object but {_show(text)}",
            f"write one JSON object a line, like {_JSON_SHAPE}",
        )
    if text.count(":") == len(document):  # each key needs a colon: no room for a second one
        return document
    try:
        exact: dict[str, Any] = _UNIQUE.decode(text.strip())
    except RecursionError:
        raise _Refused("the JSON is nested too deeply", _FLATTEN) from None
    except ValueError:  # the grammar was judged above: Python reads whole numbers of so many digits only
        raise _Refused(
            f"a number has more than {sys.get_int_max_str_digits()} digits", "write it as a text, in quotes"
        ) from None
    return exact


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"the key {_show(twice)} is given twice", "keep one of the two")
    return document


_UNIQUE = json.JSONDecoder(object_pairs_hook=_unique)


class _Unclosed(Exception):
    """A CSV record goes on into a line that cannot belong to it: its quote is not closed."""


class _CsvFeed:
    """Hands physical lines to csv.reader and remembers which of them the current record has used."""

    def __init__(self, lines: Iterator[_Line], *, max_line_bytes: int) -> None:
        self._lines = lines
        self._again: deque[_Line] = deque()  # lines to be read once more
        self._max_line_bytes = max_line_bytes
        self._size = 0  # bytes of `used`
        self.used: list[_Line] = []

    def begin(self) -> None:
        """Forget the lines of the finished record."""
        self.used, self._size = [], 0

    def give_back(self) -> None:
        """Read all lines of the failed record but its first once more, as records of their own."""
        self._again.extendleft(reversed(self.used[1:]))

    def __iter__(self) -> "_CsvFeed":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.used.append(line)
        self._size += len(line.raw) + 1
        try:
            _check_size(line, max_line_bytes=self._max_line_bytes)
            text = line.text()
        except _Refused:
            if len(self.used) > 1:
                raise _Unclosed from None
            raise
        if len(self.used) > 1 and self._size > self._max_line_bytes:
            raise _Unclosed
        return text + "\n"


def _read_csv(
    lines: Iterator[_Line], *, reader: "_Reader", max_line_bytes: int
) -> Iterator[GenerationRequest | Rejection]:
    feed = _CsvFeed(lines, max_line_bytes=max_line_bytes)
    rows = csv.reader(feed, strict=True)
    header: list[str] = []
    while True:
        feed.begin()
        try:
            cells = _next_row(rows, feed)
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(cells)
                continue
            request = reader.request(feed.used[0].no, _parse_row(cells, header=header))
        except _Refused as refused:
            if not header:
                raise IntakeError(f"the CSV header: {refused.reason}; {refused.remedy}") from None
            yield feed.used[0].rejection(refused)
        else:
            yield request


def _next_row(rows: Iterator[list[str]], feed: _CsvFeed) -> list[str] | None:
    """Return the next record, None at the end; one with an open quote is refused at its first line only."""
    try:
        return next(rows, None)
    except (_Unclosed, csv.Error) as error:
        feed.give_back()
        if isinstance(error, _Unclosed) or "unexpected end" in str(error):
            raise _Refused("a quote that opens on this line is never closed", 'close it with "') from None
        raise _Refused(
            f"this is not CSV: {error}", 'put the whole cell in quotes and write " in it as ""'
        ) from None


def _header(cells: list[str]) -> list[str]:
    """Return the column names; raises _Refused for an unknown, a repeated, or no prompt column."""
    header = [cell.strip().lower() for cell in cells]
    for name in header:
        if name not in FIELDS:
            raise _Refused(f"unknown column {_show(name)}", _did_you_mean(name))
        if header.count(name) > 1:
            raise _Refused(f"column {_show(name)} is there twice", "keep one of the two")
    if "prompt" not in header:
        raise _Refused("no column 'prompt'", "name the columns in the first line, like custom_id,prompt,seed")
    return header


def _parse_row(cells: list[str], *, header: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise _Refused(
            f"{len(cells)} cells, but the header has {len(header)} columns",
            "write one cell per column, and a cell that holds a comma in quotes",
        )
    document: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        if not cell.strip():
            continue
        if name == "metadata":
            document[name] = _parse_json(cell)
        elif name in INTEGERS:
            document[name] = int(cell.strip()) if _INTEGER.fullmatch(cell.strip()) else cell
        else:
            document[name] = cell
    return document


# --- fields -> a request ---------------------------------------------------------------------------------


class _Reader:
    """Turns the fields of lines into requests; remembers the custom_ids of one file."""

    def __init__(
        self,
        *,
        max_prompt_chars: int,
        seed_base: bytes,
        deadline: Deadline,
        priority: int,
        now_ms: int | None,
        all_named: bool,
        tiers: Collection[str] | None,
    ) -> None:
        self._max_prompt_chars = max_prompt_chars
        self._priority = priority
        self._all_named = all_named  # no line gets its id by default, so an id that looks like one is free
        self._seed_base = seed_base
        self._deadline = deadline
        self._now_ms = now_ms
        self._tiers = tiers
        self._ids = NameSet()

    def request(
        self, line_no: int, document: Mapping[str, Any], *, response_format: str | None = None
    ) -> GenerationRequest:
        """Return the request of one line; raises _Refused for the first thing that is wrong."""
        try:
            return self._request(line_no, document, response_format=response_format)
        except _Refused as refused:
            raise _named(refused, document) from None

    def _request(
        self, line_no: int, document: Mapping[str, Any], *, response_format: str | None
    ) -> GenerationRequest:
        if not document.keys() <= _KNOWN:
            name = next(key for key in document if key not in _KNOWN)
            raise _Refused(f"unknown field {_show(name)}", _did_you_mean(name))
        get = document.get
        prompt = get("prompt")
        if prompt is None:
            raise _Refused("there is no prompt", f"add one, like {_JSON_SHAPE}")
        prompt = self._text("prompt", prompt)
        if not prompt.strip():
            raise _Refused("the prompt is empty", "describe the picture, or delete the line")
        negative = get("negative_prompt")
        seed, width, height = get("seed"), get("width"), get("height")
        n, priority, metadata = get("n"), get("priority"), get("metadata")
        width, height = _size(width, height)
        deadline = self._wanted(get("deadline"))
        request = GenerationRequest(
            line_no=line_no,
            custom_id=_custom_id(get("custom_id"), line_no=line_no, all_named=self._all_named),
            prompt=prompt,
            negative_prompt=None if negative is None else self._text("negative_prompt", negative) or None,
            seed=self._seed(line_no) if seed is None else _integer("seed", seed),
            width=width,
            height=height,
            n=1 if n is None else _integer("n", n),
            priority=self._priority if priority is None else _integer("priority", priority),
            metadata=None if metadata is None else _metadata(metadata),
            deadline_ms=deadline.at_ms,
            within_ms=deadline.within_ms,
            response_format=response_format,
            tier=self._tier(get("tier")),
        )
        self._remember(request, given=get("custom_id") is not None)
        return request

    def _text(self, name: str, value: Any) -> str:
        if type(value) is not str:
            raise _Refused(f"{name} = {_show(value)} is not text", f'write "{name}": "..."')
        text = _plain(name, value)
        if len(text) > self._max_prompt_chars:
            raise _Refused(
                f"{name} has {len(text)} characters, {self._max_prompt_chars} are allowed: {_show(text)}",
                "shorten it, or set ROUTET2I_MAX_PROMPT_CHARS",
            )
        return text

    def _wanted(self, value: Any) -> Deadline:
        if value is None:
            return self._deadline
        if type(value) is not str:
            raise _Refused(f"deadline = {_show(value)} is not text", f"write it like {EXAMPLES}")
        try:
            return read_deadline(value.strip(), now_ms=self._now_ms)
        except BadDeadline as error:
            raise _Refused(error.reason, error.remedy) from None

    def _tier(self, value: Any) -> str | None:
        if value is None:
            return None
        if type(value) is str:
            name = value.strip()
            if name in self._tiers if self._tiers is not None else _TIER.fullmatch(name):
                return name
        known = "a tier's name" if self._tiers is None else " or ".join(f'"{one}"' for one in self._tiers)
        raise _Refused(f"tier = {_show(value)} draws nothing here", f"write {known}, or leave it out")

    def _seed(self, line_no: int) -> int:
        digest = hashlib.sha256(self._seed_base + line_no.to_bytes(8, "big")).digest()
        return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF

    def _remember(self, request: GenerationRequest, *, given: bool) -> None:
        """Refuse a custom_id that an earlier line has; ids by default differ by their line numbers."""
        if not given:
            return
        if not self._ids.add(request.custom_id):
            raise _Refused(
                f"custom_id {_show(request.custom_id)} is on an earlier line already",
                "give each line its own custom_id, or none",
            )


_KNOWN = frozenset(FIELDS)


def _named(refused: _Refused, document: Mapping[str, Any]) -> _Refused:
    """Return the refusal with the line's custom_id, if that can be echoed."""
    if document.get("custom_id") is not None:
        with contextlib.suppress(_Refused):
            refused.custom_id = _custom_id(document["custom_id"], line_no=0, all_named=True)
    return refused


def _custom_id(value: Any, *, line_no: int, all_named: bool) -> str:
    if value is None:
        return f"line-{line_no}"
    if type(value) is not str:
        raise _Refused(f"custom_id = {_show(value)} is not text", f'write it in quotes: "{_show(value)}"')
    name = _plain("custom_id", value)
    if not name.strip() or len(name) > MAX_ID_CHARS or "\n" in name or "\t" in name:
        raise _Refused(
            f"custom_id {_show(name)} must be one line of 1 to {MAX_ID_CHARS} characters",
            "shorten it, or leave it out to get the line's number",
        )
    default = None if all_named else _DEFAULT_ID.fullmatch(name)
    if default and default[1] != str(line_no):
        raise _Refused(
            f"custom_id {_show(name)} is what line {default[1][:19]} gets if it names none",
            "choose another one, or leave it out",
        )
    return name


def _plain(name: str, value: str) -> str:
    """Return the text in NFC, CRLF as newline; raises _Refused naming a forbidden character and its place."""
    text = value.replace("\r\n", "\n") if "\r" in value else value
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if text.isprintable():  # nothing forbidden is printable, and this is 20 times faster than the search
        return text
    found = _FORBIDDEN.search(text)
    if found:
        raise _Refused(
            f"{name} holds U+{ord(found[0]):04X} as character {found.start() + 1}: {_show(text)}",
            "remove it: control, bidirectional override and non-characters are not drawn",
        )
    return text


def _integer(name: str, value: Any) -> int:
    low, high = INTEGERS[name]
    if type(value) is not int or not low <= value <= high:
        raise _Refused(
            f"{name} = {_show(value)} must be a whole number from {low} to {high}",
            f'write "{name}": {min(max(1, low), high)}, or leave it out',
        )
    return value


def _size(width: Any, height: Any) -> tuple[int | None, int | None]:
    if width is None and height is None:
        return None, None
    if width is None or height is None:
        given, missing = ("height", "width") if width is None else ("width", "height")
        raise _Refused(f"{given} is given without {missing}", f"add {missing}, or remove {given}")
    for name, value in (("width", width), ("height", height)):
        pixels = _integer(name, value)
        if pixels % SIZE_STEP:
            raise _Refused(
                f"{name} = {pixels} is not a multiple of {SIZE_STEP}",
                f'write "{name}": {max(SIZE_STEP, round(pixels / SIZE_STEP) * SIZE_STEP)}',
            )
    return width, height


def _metadata(value: Any) -> str:
    """Return the user's JSON object as compact text; every text in it is held to the rules of prompts."""
    if type(value) is not dict:
        raise _Refused(f"metadata = {_show(value)} is no JSON object", 'write "metadata": {"key": "value"}')
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if type(item) is str and _FORBIDDEN.search(item):
                _plain("metadata", item)
            elif type(item) is dict:
                inner += [*item.keys(), *item.values()]
            elif type(item) is list:
                inner += item
        level = inner
    if level:
        raise _Refused("metadata is nested too deeply", _FLATTEN)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), FIELDS, n=1)
    return f'did you mean "{close[0]}"?' if close else f"remove it; known: {', '.join(FIELDS)}"


def _show(value: Any) -> str:
    """Return a value fit for one line of a report: short, nothing unprintable."""
    if type(value) is str:
        return repr(value[:SHOWN]) + ("..." if len(value) > SHOWN else "")
    try:
        text = repr(value)
    except RecursionError:  # orjson reads twice as deep as Python shows
        return "a value nested hundreds of levels deep"
    return text[:SHOWN] + ("..." if len(text) > SHOWN else "")
