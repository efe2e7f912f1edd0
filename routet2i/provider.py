"""Somebody's HTTP interface that draws pictures, as OpenAI's does: one request, and what its answer means.

It knows HTTP, and which answers leave no doubt that nothing was billed. It sends each request once: no retry,
no redirect, no connection kept from an earlier one. It knows neither the database nor what to do next.

Source: https://platform.openai.com/docs/api-reference/images/create; OpenRouter's `usage.cost`.
"""

import base64
import binascii
import contextlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson
from pydantic import SecretStr

from routet2i.decoding import MAX_BYTES, as_png
from routet2i.execution import RenderRequest
from routet2i.tiers import LOOPBACK, TierProfile

MAX_ANSWER_BYTES = MAX_BYTES * 4 // 3 + (1 << 20)  # a picture in base 64, and what stands around it
MAX_SENTENCE_CHARS = 300  # of a provider's own words
CONNECT_SECONDS = 10.0
DEFAULT_WAIT_SECONDS = 2.0  # after 429 without Retry-After
MAX_WAIT_SECONDS = 120.0
REMOTE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")  # error codes
NOT_ALLOWED = ("content_policy_violation", "moderation_blocked")  # error codes that concern the prompt
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A picture; it was billed."""

    png: bytes
    micro_usd: int | None  # what the answer says that it cost; None = it does not say


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusable:
    """An answer that was billed, but is no picture of what was asked for."""

    why: str
    micro_usd: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The provider is drawing; ask again."""

    remote_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Nothing was drawn nor billed now; try again later."""

    seconds: float
    is_for_all: bool = True  # False: only this request's key is taken, by a try that is not over


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    """This request is not wanted, and was not billed: the job's fault."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """No request of ours is wanted, and this one was not billed: key, quota, address."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsure:
    """It may have been billed: nobody here knows."""

    why: str


Answer = Drawn | Unusable | Accepted | Busy | Declined | Refused | Unsure


class Provider:
    """One tier's interface; safe for several threads."""

    def __init__(self, profile: TierProfile, *, key: SecretStr) -> None:
        """Open no connection yet; `key` is sent as a bearer token and appears nowhere else."""
        assert profile.endpoint is not None
        self._profile = profile
        self._key = key
        self._url = f"{profile.endpoint}/images/generations"
        self._client = httpx2.Client(
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "routet2i"},
            timeout=httpx2.Timeout(profile.timeout_seconds, connect=CONNECT_SECONDS),
            follow_redirects=False,
            # an idle connection may be closed under a request: nobody could tell whether it was billed
            limits=httpx2.Limits(max_keepalive_connections=0),
            trust_env=urlsplit(profile.endpoint).hostname not in LOOPBACK,  # proxies of the environment
        )

    def draw(self, request: RenderRequest, *, idem_key: str) -> Answer:
        """Ask once for one picture."""
        prompt = request.prompt
        if request.negative_prompt:  # the interface has no other place for it
            prompt = f"{prompt}\n\nAvoid: {request.negative_prompt}"
        body = {
            **self._profile.parameters,
            "model": self._profile.model,
            "prompt": prompt,
            "n": 1,
            "size": f"{request.width}x{request.height}",
            **({"seed": request.seed} if self._profile.sends_seed else {}),
        }
        return self._send("POST", self._url, request=request, json=body, idem_key=idem_key)

    def ask(self, request: RenderRequest, *, remote_id: str) -> Answer:
        """Ask once what became of a picture that the provider accepted."""
        answer = self._send("GET", f"{self._url}/{remote_id}", request=request)
        if isinstance(answer, Refused | Declined) and "404" in answer.why.split(":")[0]:
            return Unsure(why=f"the provider knows no picture {remote_id} any more")
        return answer

    def _send(
        self,
        method: str,
        url: str,
        *,
        request: RenderRequest,
        json: Mapping[str, Any] | None = None,
        idem_key: str | None = None,
    ) -> Answer:
        headers = {"authorization": f"Bearer {self._key.get_secret_value()}"}
        if idem_key is not None:
            headers["idempotency-key"] = idem_key
        try:
            with self._client.stream(method, url, json=json, headers=headers) as response:
                body = self._read(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
            return Refused(why=f"no connection to {self._profile.endpoint}: {self._clean(error)}")
        except (httpx2.HTTPError, httpx2.StreamError, _TooMuch, OSError) as error:
            return Unsure(why=f"no whole answer came: {type(error).__name__} {self._clean(error)}".rstrip())
        return self._meaning(response, body, request=request)

    def _read(self, response: httpx2.Response) -> bytes:
        """Return the body; raises _TooMuch where it is too large or too slow."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _TooMuch("it is compressed, unasked")
        deadline = time.monotonic() + self._profile.timeout_seconds
        parts, size = [], 0
        for part in response.iter_raw():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise _TooMuch(f"it has more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise _TooMuch(f"it did not end within {self._profile.timeout_seconds:g} s")
        return b"".join(parts)

    def _meaning(self, response: httpx2.Response, body: bytes, *, request: RenderRequest) -> Answer:
        status = response.status_code
        content: Any = None
        with contextlib.suppress(orjson.JSONDecodeError):
            content = orjson.loads(body)
        if status == 202:
            return _accepted(content)
        if 200 <= status < 300:
            return _picture(content, request=request)
        code, words = _complaint(content)
        why = f"{status}: {self._clean(words or response.reason_phrase)}"
        if status == 429 and code not in NO_MONEY:
            return Busy(seconds=_retry_after(response.headers.get("retry-after")))
        if status == 409:
            return Busy(seconds=DEFAULT_WAIT_SECONDS, is_for_all=False)
        if code in NO_MONEY:
            return Refused(why=why)
        if code in NOT_ALLOWED:
            return Declined(why=why)
        if status == 408 or status < 200 or status >= 500:
            return Unsure(why=why)
        # a moved address, a wrong key or path concerns every request; what else is 4xx, this one
        return Refused(why=why) if status < 400 or status in (401, 402, 403, 404, 405) else Declined(why=why)

    def _clean(self, words: object) -> str:
        """Return a stranger's words as they may be kept: short, without control characters or our key."""
        text = str(words).replace(self._key.get_secret_value(), "***")
        return _CONTROL.sub(" ", text)[:MAX_SENTENCE_CHARS].strip()


class _TooMuch(Exception):
    """An answer that was not read to its end."""


def _accepted(content: Any) -> Answer:
    remote_id = content.get("id") if isinstance(content, dict) else None
    if not isinstance(remote_id, str) or not REMOTE_ID.fullmatch(remote_id) or set(remote_id) <= {"."}:
        return Unsure(why="202 without an id to ask for")
    return Accepted(remote_id=remote_id)


def _picture(content: Any, *, request: RenderRequest) -> Answer:
    if not isinstance(content, dict):
        return Unsure(why="the answer is not the JSON object that was announced")
    cost = _cost(content)
    try:
        first = content["data"][0]
        encoded = first["b64_json"]
        body = base64.b64decode(encoded, validate=True)
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error):
        return Unusable(why="the answer has no picture in data[0].b64_json", micro_usd=cost)
    try:
        return Drawn(png=as_png(body, width=request.width, height=request.height), micro_usd=cost)
    except ValueError as error:
        return Unusable(why=str(error), micro_usd=cost)


def _cost(content: Mapping[str, Any]) -> int | None:
    """Return `usage.cost`, dollars in the answer, as micro-USD rounded up; None where it is missing."""
    usage = content.get("usage")
    cost = usage.get("cost") if isinstance(usage, dict) else None
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < 1e6:
        return None
    return math.ceil(round(cost * 1e6, 3))


def _complaint(content: Any) -> tuple[str | None, str | None]:
    """Return code and message of an error body, where it has them."""
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, str):
        return None, error
    if not isinstance(error, dict):
        return None, None
    code, words = error.get("code"), error.get("message")
    return (code if isinstance(code, str) else None), (words if isinstance(words, str) else None)


def _retry_after(header: str | None) -> float:
    """Return how many seconds a Retry-After asks for, seconds or a date, within bounds."""
    seconds = DEFAULT_WAIT_SECONDS
    if header is not None:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = (
                float(header)
                if re.fullmatch(r"\d+(\.\d+)?", header.strip())
                else parsedate_to_datetime(header).timestamp() - time.time()
            )
    return min(MAX_WAIT_SECONDS, max(0.0, seconds))
