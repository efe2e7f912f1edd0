"""Every door that strangers' bytes come through, as one function each: bytes in, accepted or refused.

A door is held to more than an answer: what it accepts must be fit for what comes behind it (SQL, JSON, a
terminal, a spreadsheet), and what it refuses must be refused with a reason and a remedy. Everything else that
it raises is a finding.
"""

import csv
import hashlib
import io
import json
import math
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
from kombu.utils.json import loads as message_loads
from pydantic import ValidationError

from db.session import make_engine
from routet2i.contracts import GenerationRequest, Rejection
from routet2i.errors import RouteT2IError
from routet2i.metrics import read_metrics
from routet2i.settings import Settings
from routet2i.tiers import read_tiers
from routet2i.worker import microbatch_of
from scheduler.cli.batches import micro_usd
from scheduler.cli.show import FORMULA, clean, write_csv
from scheduler.datasets import read_table
from scheduler.intake import Format, read_requests
from scheduler.predictor.artefact import check_artefact, version_of
from scheduler.predictor.interface import WEIGHTS_FOLDER
from scheduler.predictor.noun_count import read_artefact
from scheduler.ratings import Ratings
from scheduler.simulation.trace_file import read_trace

SECRET = "canary-secret"
MAX_LINE_BYTES, MAX_PROMPT_CHARS = 65_536, 2000  # the settings' defaults
MAX_REASON = 20_000  # characters of a refusal: more is no sentence


class Verdict(StrEnum):
    """What a door said."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


class Unfit(Exception):
    """A door let something pass that breaks what is behind it, or refused without saying what to do."""


Door = Callable[[bytes, Path], Verdict]


@contextmanager
def _answered() -> Iterator[list[Verdict]]:
    """Yield a list that holds the verdict afterwards; a refusal must have a reason, and no secret."""
    verdict = [Verdict.ACCEPTED]
    try:
        yield verdict
    except RouteT2IError as error:
        _demand(error)
        verdict[0] = Verdict.REFUSED


def _demand(error: RouteT2IError) -> None:
    text = str(error)
    if not text.strip() or len(text) > MAX_REASON:
        raise Unfit(f"a refusal of {len(text)} characters") from error
    if SECRET in text:
        raise Unfit("a refusal tells the secret") from error
    _plain(clean(text), what="a refusal's line")


def _plain(text: str, *, what: str) -> None:
    if any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in text):
        raise Unfit(f"{what} has a control character")


def _prompts(fmt: Format) -> Door:
    def door(raw: bytes, _: Path) -> Verdict:
        with _answered() as verdict:
            accepted = 0
            for item in read_requests(
                io.BytesIO(raw),
                fmt=fmt,
                max_line_bytes=MAX_LINE_BYTES,
                max_prompt_chars=MAX_PROMPT_CHARS,
                seed_base=b"base",
            ):
                if isinstance(item, Rejection):
                    if (
                        not item.reason
                        or not item.remedy
                        or len(item.raw_sha256) != 64
                        or len(item.reason) > 1000
                    ):
                        raise Unfit("a rejection without reason, remedy or hash")
                    _plain(clean(item.reason + item.remedy), what="a rejection")
                else:
                    accepted += 1
                    _check_request(item)
            if not accepted:
                verdict[0] = Verdict.REFUSED
        return verdict[0]

    return door


def _check_request(item: GenerationRequest) -> None:
    """Raise Unfit for what PostgreSQL, SQLite, JSON or a terminal would choke on."""
    for text in (item.custom_id, item.prompt, item.negative_prompt or "", item.metadata or ""):
        text.encode("utf-8")
        if "\x00" in text or "\x1b" in text or "\u202e" in text:
            raise Unfit("an accepted text holds NUL, escape or an override")
    if not 0 < len(item.prompt) <= MAX_PROMPT_CHARS or not 0 <= item.seed < 2**31 or not 1 <= item.n <= 16:
        raise Unfit("a number or a text out of range")
    if item.metadata is not None and type(orjson.loads(item.metadata)) is not dict:
        raise Unfit("metadata that is no JSON object")


def _file(read: Callable[[Path], Any], name: str) -> Door:
    def door(raw: bytes, folder: Path) -> Verdict:
        path = folder / name
        path.write_bytes(raw)
        with _answered() as verdict:
            read(path)
        return verdict[0]

    return door


def _tiers(path: Path) -> None:
    tiers = read_tiers(path)
    for profile in tiers.profiles.values():
        if not 0 <= profile.price(16 * 4096, width=4096, height=4096) < 2**63:
            raise Unfit("a price that no column holds")
        if not math.isfinite(profile.guidance) or not math.isfinite(profile.seconds(1) or 0.0):
            raise Unfit("a number that is not finite")


def _metrics(path: Path) -> None:
    metrics = read_metrics(path)
    for weights in metrics.profiles.values():
        if abs(sum(weights.values()) - 1.0) > 1e-6:
            raise Unfit("weights that do not sum to 1")


def _trace(path: Path) -> None:
    trace = read_trace(path)
    if len(trace) and not (float(trace.at[-1]) >= 0.0 and math.isfinite(float(trace.at[-1]))):
        raise Unfit("a time that is not finite")


def _ratings(path: Path) -> None:
    rated = read_table(path)
    if not math.isfinite(float(rated.labels.scores.sum())):
        raise Unfit("a score that is not finite")


def _growing(path: Path) -> None:
    Ratings(path)


def _predictor(raw: bytes, _: Path) -> Verdict:
    """A manifest whose hashes are right, as a forger would make them; then as it came."""
    weights = (WEIGHTS_FOLDER / "cold_start" / "weights.safetensors").read_bytes()
    texts = [raw.decode("utf-8", "replace")]
    try:
        content = json.loads(texts[0])
        content["version"] = version_of(content)
        texts.append(json.dumps(content))
    except (ValueError, RecursionError, TypeError, AttributeError):
        pass
    for text in texts:
        with _answered() as verdict:
            check_artefact(text, weights, where="here")
            _understand(text, weights)
    return verdict[0]


def _noun_count(raw: bytes, folder: Path) -> Verdict:
    """A table as it came, then with the version that a forger would give it."""
    path = folder / "noun_count.json"
    made = [raw]
    try:
        content = json.loads(raw)
        content["version"] = version_of(content)
        made.append(json.dumps(content).encode())
    except (ValueError, RecursionError, TypeError, AttributeError):
        pass
    for one in made:
        path.write_bytes(one)
        with _answered() as verdict:
            artefact = read_artefact(path)
            if not all(
                map(math.isfinite, (*artefact.yardstick.spans.values(), *artefact.yardstick.weights.values()))
            ):
                raise Unfit("a table with numbers that are not finite")
    return verdict[0]


def _weights(raw: bytes, _: Path) -> Verdict:
    manifest = json.loads((WEIGHTS_FOLDER / "cold_start" / "predictor.json").read_text(encoding="utf-8"))
    manifest["weights_sha256"] = hashlib.sha256(raw).hexdigest()
    manifest["version"] = version_of(manifest)
    with _answered() as verdict:
        _understand(json.dumps(manifest), raw)
    return verdict[0]


def _understand(manifest: str, weights: bytes) -> None:
    from scheduler.predictor.trained import parse_trained

    trained = parse_trained(manifest, weights, where="here")
    numbers = (*trained.weights, *trained.means, *trained.score_slopes, *trained.score_offsets.flat)
    if not all(map(math.isfinite, numbers)) or not math.isfinite(trained.scale.gamma):
        raise Unfit("a predictor with numbers that are not finite")


def _model_folder(raw: bytes, folder: Path) -> Verdict:
    from routet2i.model_folder import check_folder

    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "model_index.json").write_bytes(raw)
    with _answered() as verdict:
        check_folder(folder / "model")
    return verdict[0]


def _message(raw: bytes, _: Path) -> Verdict:
    """As kombu hands it on: a body that is no JSON never gets here."""
    try:
        message = message_loads(raw)
    except (ValueError, TypeError, RecursionError, AttributeError, ImportError, KeyError):
        return Verdict.REFUSED
    found = microbatch_of(message)
    if found is None:
        return Verdict.REFUSED
    if len(found) != 36 or set(found) - set("0123456789abcdef-"):
        raise Unfit("a name that is no UUID")
    return Verdict.ACCEPTED


def _settings(raw: bytes, _: Path) -> Verdict:
    try:
        values = json.loads(raw)
        environment = {
            name: str(value)
            for name, value in values.items()
            if "\0" not in name + str(value) and "=" not in name
        }
        clear = {name: value for name, value in os.environ.items() if not name.startswith("ROUTET2I_")}
        environment = {
            name: value for name, value in environment.items() if name.strip() and _encodable(name + value)
        }
    except (ValueError, AttributeError, RecursionError):
        return Verdict.REFUSED
    with _answered() as verdict, patch.dict(os.environ, {**clear, **environment}, clear=True):
        try:
            settings = Settings()
        except ValidationError as error:
            if SECRET in str([one["msg"] for one in error.errors()]):
                raise Unfit("a refusal tells the secret") from error
            verdict[0] = Verdict.REFUSED
        else:
            if SECRET in repr(settings):
                raise Unfit("a representation tells the secret")
            for name in ("lease_seconds", "resend_seconds", "window_seconds", "window_target_seconds"):
                int(getattr(settings, name) * 1000).to_bytes(8, "big")
            for name in (
                "budget_micro_usd",
                "budget_period_seconds",
                "shadow_budget_micro_usd",
                "max_line_bytes",
            ):
                (getattr(settings, name) or 0).to_bytes(8, "big")
            make_engine(settings.database).dispose()
    return verdict[0]


def _encodable(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _database_url(raw: bytes, _: Path) -> Verdict:
    with _answered() as verdict:
        engine = make_engine(raw.decode("utf-8", "replace"))
        if (
            engine.url.drivername not in ("sqlite+pysqlite", "postgresql+psycopg")
            or "plugin" in engine.url.query
        ):
            raise Unfit(f"driver {engine.url.drivername}")
        engine.dispose()
    return verdict[0]


def _broker_url(raw: bytes, _: Path) -> Verdict:
    from routet2i.exposure import checked_broker

    with _answered() as verdict:
        url = checked_broker(raw.decode("utf-8", "replace"), private_hosts=())
        if not url.startswith(("redis://", "rediss://")):
            raise Unfit("another scheme")
    return verdict[0]


def _arguments(raw: bytes, _: Path) -> Verdict:
    with _answered() as verdict:
        amount = micro_usd(raw.decode("utf-8", "surrogateescape"))
        if not 0 <= amount < 2**63:
            raise Unfit("an amount that no column holds")
    return verdict[0]


def _exports(raw: bytes, _: Path) -> Verdict:
    """A text on its way out: no spreadsheet may run it, no terminal obey it, and CSV must read it back."""
    text = raw.decode("utf-8", "replace")
    stream = io.StringIO(newline="")
    write_csv([{"a": text, "b": {"k": text}}], columns=["a", "b"], stream=stream)
    csv.field_size_limit(1_000_000)
    cells = list(csv.reader(io.StringIO(stream.getvalue(), newline="")))[1]
    if cells[0].startswith(FORMULA) or cells[0].removeprefix("'") != text.removeprefix("'"):
        raise Unfit("a cell that runs, or is another text")
    _plain(clean(text), what="a line on a terminal")
    if len(raw) % 20 == 0 and "<script" in _report(text[:2000]).lower():  # a page takes a tenth of a second
        raise Unfit("a text that is markup")
    return Verdict.ACCEPTED


def _report(text: str) -> str:
    from tests.hostile.pages import report_of

    return report_of(text)


DOORS: Mapping[str, Door] = {
    "prompts.jsonl": _prompts("jsonl"),
    "prompts.csv": _prompts("csv"),
    "prompts.txt": _prompts("text"),
    "tiers": _file(_tiers, "tiers.toml"),
    "metrics": _file(_metrics, "metrics.toml"),
    "trace": _file(_trace, "trace.csv"),
    "ratings": _file(_ratings, "ratings.csv"),
    "growing ratings": _file(_growing, "growing.csv"),
    "noun count": _noun_count,
    "predictor": _predictor,
    "weights": _weights,
    "model folder": _model_folder,
    "message": _message,
    "settings": _settings,
    "database URL": _database_url,
    "broker URL": _broker_url,
    "arguments": _arguments,
    "exports": _exports,
}
