"""A provider's usage export, CSV or JSON lines: which call has cost how much, by the provider's own account.

It knows the columns and their caps, and adds up what stands twice. It knows neither our calls nor the ledger.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO

from routet2i.errors import UsageError

KEYS = ("idempotency_key", "idem_key")  # columns, the first that is there counts
REMOTE_IDS = ("remote_id", "id")
COSTS = ("cost_usd", "cost")
MAX_LINE_CHARS = 65_536
MAX_TEXT_CHARS = 200  # of a key or an id


@dataclass(frozen=True, kw_only=True, slots=True)
class Billed:
    """What the provider wants for one call."""

    line_no: int  # 1-based; of several lines the first
    idem_key: str | None  # ours
    remote_id: str | None  # the provider's
    micro_usd: int  # of all its lines, rounded up


def read_export(path: Path) -> list[Billed]:
    """Read an export; lines of one call are added up, a line that stands twice with one id counts once.

    Args:
        path: `.csv` with a header, or `.jsonl`.
    Raises:
        UsageError: it cannot be read, or a line does not say what it is for and what it costs.
    """
    found: dict[tuple[str | None, str | None], Billed] = {}  # our key, else the provider's id -> its call
    costs: dict[tuple[str | None, str], tuple[int, int]] = {}  # key and id of a line -> line number, cost
    for line_no, row in _rows(path):
        where = f"{path}, line {line_no}"
        key, remote_id = _text(row, KEYS, where), _text(row, REMOTE_IDS, where)
        if key is None and remote_id is None:
            raise UsageError(f"{where} names no call; it needs {' or '.join((KEYS[0], REMOTE_IDS[0]))}")
        cost = _cost(row, where)
        if remote_id is not None:
            seen_at, seen_cost = costs.setdefault((key, remote_id), (line_no, cost))
            if seen_cost != cost:
                raise UsageError(f"{where} has another cost for {remote_id} than line {seen_at}")
            if seen_at != line_no:
                continue
        name = (key, None) if key is not None else (None, remote_id)
        before = found.get(name)
        found[name] = Billed(
            line_no=line_no if before is None else before.line_no,
            idem_key=key,
            remote_id=remote_id if before is None else before.remote_id,
            micro_usd=cost + (0 if before is None else before.micro_usd),
        )
    return list(found.values())


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{path} must end in .csv or .jsonl")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(_capped(file, path))
                yield from ((reader.line_num, row) for row in reader)
                return
            for line_no, line in enumerate(_capped(file, path), start=1):
                if line.strip():
                    yield line_no, _object(line, f"{path}, line {line_no}")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not such a file: {error}") from error


def _capped(lines: TextIO, path: Path) -> Iterator[str]:
    for line_no in range(1, 10**9):
        line = lines.readline(MAX_LINE_CHARS + 1)
        if not line:
            return
        if len(line) > MAX_LINE_CHARS:
            raise UsageError(f"{path}, line {line_no} is longer than {MAX_LINE_CHARS} characters")
        yield line


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        content = json.loads(line, parse_float=Decimal)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"{where} is no JSON object")
    return content


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str | None:
    value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS or not value.isprintable():
        raise UsageError(f"{where} has a name that is none")
    return value


def _cost(row: Mapping[str, Any], where: str) -> int:
    value = next((row[name] for name in COSTS if row.get(name) not in (None, "")), None)
    try:
        if value is None or isinstance(value, bool):
            raise InvalidOperation
        amount = Decimal(str(value).removeprefix("$"))
        if not amount.is_finite() or not 0 <= amount <= 10**6:
            raise InvalidOperation
    except InvalidOperation:
        raise UsageError(f"{where} has no cost in dollars; it needs {COSTS[0]}") from None
    return int((amount * 1_000_000).to_integral_value(ROUND_CEILING))
