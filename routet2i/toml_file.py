"""A TOML file that somebody else wrote, read within bounds: bytes in, a table out, or one sentence.

It knows TOML and its limits, not what a tier or a metric is.
"""

import tomllib
from pathlib import Path
from typing import Any

from routet2i.errors import UsageError

MAX_BYTES = 1 << 20  # of a file that people write by hand
MAX_DEPTH = 16  # levels of tables and lists


def read_toml(
    path: Path, *, what: str, setting: str, error: type[UsageError]
) -> tuple[dict[str, Any], bytes]:
    """Return a file's table and its bytes.

    Args:
        what: the file is, for error messages.
        setting: that names it.
        error: the class to raise; its text says what to do.
    """
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"cannot read {what} {path}: {reason}; set {setting}") from cause
    if len(body) > MAX_BYTES:
        raise error(f"{what} {path} has more than {MAX_BYTES} bytes; shorten it, or set {setting}")
    try:
        document = tomllib.loads(body.decode("utf-8"))
    except RecursionError:
        raise error(f"{path} is nested too deeply; write it flatter") from None
    except ValueError as cause:  # no TOML, no UTF-8, or a number of thousands of digits
        raise error(f"{path} is not valid TOML: {cause}; correct it") from cause
    if _depth(document) > MAX_DEPTH:
        raise error(f"{path} is nested more than {MAX_DEPTH} levels deep; write it flatter")
    return document, body


def _depth(value: Any) -> int:
    """Return the levels of tables and lists, at most one more than are allowed."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth
