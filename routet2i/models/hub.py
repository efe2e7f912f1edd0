"""A model's folder by name: packaged, local, or fetched from a hub by the hash of one commit.

Of a hub only JSON, texts and safetensors are fetched, and every folder of a stranger's is looked over before
anything is loaded from it. It knows places, not what is in them.
"""

import re
from pathlib import Path

from routet2i import pocket
from routet2i.errors import ModelError
from routet2i.model_folder import check_folder
from routet2i.tiers import POCKET

FETCHED = ("*.json", "*.txt", "*.model", "*.safetensors")
_COMMIT = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


def local_folder(model: str) -> Path | None:
    """Return the folder of a packaged or local model, looked over; None for a hub id. Raises ModelError."""
    if model.startswith(POCKET):
        return pocket.folder(model.removeprefix(POCKET))
    path = Path(model)
    try:
        if not path.is_dir():
            return None
    except (OSError, ValueError):  # too long, or a NUL
        return None
    check_folder(path)
    return path


def hub_folder(model: str) -> Path:
    """Return the folder of `OWNER/NAME@COMMIT`, fetched if need be, looked over.

    Raises:
        ModelError: it names no commit by its 40 hex digits, cannot be fetched, or holds what may run.
    """
    match = _COMMIT.fullmatch(model)
    if match is None:
        raise ModelError(
            f"{model!r} is no folder, and a hub's model needs its commit, for a name may change what it "
            "means; write OWNER/NAME@ and 40 hex digits"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=list(FETCHED)))
    except Exception as error:  # whatever the hub's library, the network or the disk raise
        raise ModelError(
            f"cannot fetch {model}: {type(error).__name__}: {error}; name a folder instead"
        ) from error
    check_folder(folder)
    return folder
