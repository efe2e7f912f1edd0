"""Where the HTTP interface is, and the key to it: the environment's, else those of a home's stack.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` are the names that OpenAI's own clients read. It knows nothing of what
is asked there.
"""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple


class Access(NamedTuple):
    """An address that ends in /v1, and a key."""

    base_url: str
    api_key: str


def access(home: str | Path | None = None) -> Access:
    """Return where to ask, and as whom; ends the program with a sentence if that is not known.

    Args:
        home: of a stack that `routet2i up` started here; it beats the environment.
    """
    url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if home is None and url and key:
        return Access(url, key)
    file = Path(home or os.environ.get("ROUTET2I_HOME", ".routet2i")) / "run" / "stack.json"
    try:
        api = json.loads(file.read_text(encoding="utf-8"))["api"]
        return Access(f"{api['url']}/v1", api["key"])
    except (OSError, KeyError, TypeError, ValueError):
        sys.exit(
            f"{file} tells of no HTTP interface: start `routet2i up` there, name its home with --home or "
            "ROUTET2I_HOME, or set OPENAI_BASE_URL and OPENAI_API_KEY"
        )
