"""One line of an OpenAI batch file -> the fields of our own lines.

The request's envelope is opened, and held to. It knows the names of both and no values: what a prompt or a
seed may be is `scheduler.intake`'s affair. What we cannot do is refused, never silently left out; what
changes nothing (`user`, `quality: auto`) is taken.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from routet2i.errors import UsageError

ENDPOINT = "/v1/images/generations"
MODEL = "routet2i"  # lets the scheduler choose the tier
NO_MODEL = "model_not_found"  # OpenAI's code
ENVELOPE = ("custom_id", "method", "url", "body")
SAME = ("prompt", "n", "negative_prompt", "seed", "priority", "deadline", "metadata")  # as in our own lines
FORMATS = ("url", "b64_json")
Quality = Literal["auto", "standard"]
Background = Literal["auto", "opaque"]
Moderation = Literal["auto", "low"]
OutputFormat = Literal["png"]
OutputCompression = Literal[100]
PartialImages = Literal[0]
Stream = Literal[False]
HARMLESS: Mapping[str, frozenset[Any]] = {  # parameter -> values that ask for what we do anyway
    "quality": frozenset(get_args(Quality)),
    "background": frozenset(get_args(Background)),
    "moderation": frozenset(get_args(Moderation)),
    "output_format": frozenset(get_args(OutputFormat)),
    "output_compression": frozenset(get_args(OutputCompression)),
    "partial_images": frozenset(get_args(PartialImages)),
    "stream": frozenset(get_args(Stream)),
}
LABELS = ("user", "safety_identifier")  # whose wish it is, for the provider's records
KNOWN = (*SAME, "model", "size", "response_format", *HARMLESS, *LABELS)
EXAMPLE = (
    '{"custom_id": "1", "method": "POST", "url": "/v1/images/generations", '
    '"body": {"prompt": "a red circle"}}'
)
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


class BadLine(UsageError):
    """A line asks for what is not there; has reason and remedy apart, and OpenAI's code if one fits."""

    def __init__(self, reason: str, remedy: str, *, code: str | None = None) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.code = code


def is_openai(document: Mapping[str, Any]) -> bool:
    """Whether a JSON line has an envelope; ours have no field of that name."""
    return "body" in document


def own_fields(
    document: Mapping[str, Any], *, tiers: Collection[str] | None = None
) -> tuple[dict[str, Any], str | None]:
    """Return the fields of our own line that asks for the same, and its `response_format`.

    Args:
        tiers: that a model may name; None = any.
    Raises:
        BadLine: the envelope is incomplete, names another endpoint or model, or asks for what we cannot do.
    """
    for name in document:
        if name not in ENVELOPE:
            raise BadLine(f"unknown field {shown(name)} beside the body", f"write lines like {EXAMPLE}")
    if document.get("custom_id") is None:
        raise BadLine("there is no custom_id", f"write lines like {EXAMPLE}")
    if document.get("method") != "POST":
        raise BadLine(f"method = {shown(document.get('method'))}", 'write "method": "POST"')
    if document.get("url") != ENDPOINT:
        raise BadLine(f"url = {shown(document.get('url'))} is not served", f'write "url": "{ENDPOINT}"')
    body = document.get("body")
    if type(body) is not dict:
        raise BadLine(f"body = {shown(body)} is no JSON object", f"write lines like {EXAMPLE}")
    _check(body)
    width, height = read_size(body.get("size"))
    taken = {name: body[name] for name in SAME if name in body}
    fields = {"custom_id": document["custom_id"], **taken, "width": width, "height": height}
    tier = requested_tier(body.get("model"), tiers=tiers)
    if tier is not None:
        fields["tier"] = tier
    return fields, body.get("response_format")


def _check(body: Mapping[str, Any]) -> None:
    """Raise BadLine for the first parameter that asks for what we cannot do."""
    for name, value in body.items():
        if name not in KNOWN:
            raise BadLine(f"unknown parameter {shown(name)}", f"remove it; known: {', '.join(KNOWN)}")
        if value is None or name not in HARMLESS:
            continue
        if type(value) not in (str, int, bool) or value not in HARMLESS[name]:
            allowed = " or ".join(shown(one) for one in sorted(HARMLESS[name], key=str))
            raise BadLine(f"{name} = {shown(value)} is not served", f"write {allowed}, or leave it out")
    response_format = body.get("response_format")
    if response_format is not None and response_format not in FORMATS:
        raise BadLine(
            f"response_format = {shown(response_format)} is not served", f"write {' or '.join(FORMATS)}"
        )


def models(tiers: Collection[str]) -> tuple[str, ...]:
    """Return what a request may name as its model: the scheduler's choice, then each tier by its name."""
    return (MODEL, *(name for name in tiers if name != MODEL))


def requested_tier(model: Any, *, tiers: Collection[str] | None) -> str | None:
    """Return the tier that a model's name asks for, None = the scheduler chooses.

    Args:
        tiers: that may be asked for; None = any.
    Raises:
        BadLine: there is no such model; its code is NO_MODEL.
    """
    if model is None or model == MODEL:
        return None
    if type(model) is str and (tiers is None or model in tiers):
        return model
    known = f"{MODEL} or a tier's name" if tiers is None else " or ".join(models(tiers))
    raise BadLine(
        f"the model {shown(model)} does not exist", f"write {known}, or leave it out", code=NO_MODEL
    )


def read_size(value: Any) -> tuple[int | None, int | None]:
    """Return width and height of `1024x768`, None for the tier's own (`auto`); raises BadLine."""
    if value is None or value == "auto":
        return None, None
    found = _SIZE.fullmatch(value) if type(value) is str else None
    if found is None:
        raise BadLine(f"size = {shown(value)} is none", 'write WIDTHxHEIGHT, like "512x512", or "auto"')
    return int(found[1]), int(found[2])


def shown(value: Any) -> str:
    """Return a value fit for a sentence: short, nothing unprintable."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
