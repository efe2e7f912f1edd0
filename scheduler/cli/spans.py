"""A span of time as a person types it: 12h, 30d, 8w."""

import re

from routet2i.errors import UsageError

SECONDS = {"h": 3_600, "d": 86_400, "w": 7 * 86_400}


def span_seconds(text: str, *, option: str, least: float = 3_600) -> int:
    """Return a span in seconds.

    Args:
        option: that it was given for, named in the error.
        least: seconds; a shorter one is a slip.
    Raises:
        UsageError: it is no number with h, d or w behind it, or too short.
    """
    found = re.fullmatch(r"(\d{1,5})([hdw])", text)
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if seconds < least:
        raise UsageError(f"{text!r} is no span of at least one hour; write e.g. {option} 30d (h, d, w)")
    return seconds
