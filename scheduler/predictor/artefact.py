"""The two files of a fitted predictor, read and held against their hashes before anybody understands them.

`predictor.json` names its own version and the hash of `weights.safetensors`. Here are JSON, bytes and names
of files; what they mean is `trained`'s affair: torch is not needed to list, check or store a predictor.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routet2i.errors import ModelError

NAME = "routet2i"
FORMAT = 1  # of the files; another one is refused
MAX_MANIFEST_BYTES, MAX_WEIGHTS_BYTES = 16 << 20, 1 << 30
MANIFEST, WEIGHTS = "predictor.json", "weights.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """Two files that belong together."""

    manifest: str  # text of predictor.json
    content: Mapping[str, Any]  # the same as JSON values
    weights: bytes  # of weights.safetensors
    where: str  # they are from, for error messages

    @property
    def version(self) -> str:
        """Return twelve hex digits of the manifest's hash."""
        return str(self.content["version"])


def read_artefact(folder: Path) -> Artefact:
    """Read and check a folder.

    Raises:
        ModelError: it is missing, no such predictor, of another format, or was changed after it was written.
    """
    try:
        manifest = _read(folder / MANIFEST, most=MAX_MANIFEST_BYTES).decode("utf-8")
        weights = _read(folder / WEIGHTS, most=MAX_WEIGHTS_BYTES)
    except OSError as error:
        raise ModelError(
            f"cannot read predictor {folder}: {error.strerror} ({error.filename}); "
            "train one with: routet2i predictor train"
        ) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{folder / MANIFEST} is no text ({error}); train it again") from error
    return check_artefact(manifest, weights, where=str(folder))


def _read(path: Path, *, most: int) -> bytes:
    """Return a file's bytes; a link out of its folder, or a file that is far too long, is none of ours."""
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(f"{path} is a link out of its folder; copy the file into it")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ModelError(
            f"{path} has more than {most} bytes, so it is no file of a predictor; train it again"
        )
    return content


def check_artefact(manifest: str, weights: bytes, *, where: str) -> Artefact:
    """Return two files as an artefact if they belong together.

    Args:
        where: they are from, for error messages.
    Raises:
        ModelError: they are no such predictor, of another format, or one was changed after it was written.
    """
    try:
        content = json.loads(manifest, parse_constant=_refuse)
        found = version_of(content) if isinstance(content, dict) else None
    except (ValueError, RecursionError) as error:  # no JSON, a lone surrogate, nested without end
        raise ModelError(f"{where}: {MANIFEST} is no JSON ({error}); train it again") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("name")) != (FORMAT, NAME):
        raise ModelError(f"{where} is no {NAME} predictor of format {FORMAT}; train it again")
    if content.get("weights_sha256") != hashlib.sha256(weights).hexdigest():
        raise ModelError(f"{where}: {WEIGHTS} is not the file {MANIFEST} was written with; train it again")
    if content.get("version") != found:
        raise ModelError(f"{where}: {MANIFEST} was changed after it was written; train it again")
    return Artefact(manifest=manifest, content=content, weights=weights, where=where)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def version_of(content: Mapping[str, Any]) -> str:
    """Return twelve hex digits of a manifest's hash, its version itself left out."""
    bare = {key: value for key, value in content.items() if key != "version"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
