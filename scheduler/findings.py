"""What a check found: a name, how bad it is, a sentence, and what to type. It checks nothing itself."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    level: Level
    detail: str
    remedy: str | None = None  # what to type
