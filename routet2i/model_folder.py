"""A model's folder, looked over before any library opens it: nothing in it may run.

Weights are safetensors, configurations name no code, links stay inside. It reads JSON and file names; what a
model is, and whether its weights are any good, it does not know.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from routet2i.errors import ModelError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")
RUNS = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines")  # keys of a configuration
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # that a component of a pipeline may come from
INDEX = "model_index.json"
MAX_FILES = 10_000
MAX_JSON_BYTES = 64 << 20  # tokenizers of large vocabularies have 30 MB


def check_folder(folder: Path) -> None:
    """Make sure that a folder holds nothing that runs when it is loaded.

    Raises:
        ModelError: names the file, and what to do.
    """
    try:
        for path in _files(folder):
            _check_file(path, folder=folder)
    except OSError as error:
        raise ModelError(
            f"cannot read {error.filename or folder}: {error.strerror}; check the folder"
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number >= MAX_FILES:
            raise ModelError(f"{folder} holds more than {MAX_FILES} files; name the model's own folder")
        if path.is_symlink() or path.is_file():
            yield path


def _check_file(path: Path, *, folder: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICKLES or suffix in CODE:
        kind = "weights that may run code" if suffix in PICKLES else "code"
        raise ModelError(f"{path} is {kind}; delete it: models are safetensors and JSON only")
    if path.is_symlink() and not _stays(path, folder):
        raise ModelError(f"{path} is a link out of its folder; copy the file into it")
    if suffix == ".json":
        _check_json(path)


def _stays(path: Path, folder: Path) -> bool:
    """Whether a link leads into its folder, or to where a hub's cache keeps the files of its snapshots."""
    target, root = path.resolve(), folder.resolve()
    return target.is_relative_to(root) or (
        root.parent.name == "snapshots" and target.is_relative_to(root.parent.parent / "blobs")
    )


def _check_json(path: Path) -> None:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{path} has more than {MAX_JSON_BYTES} bytes; it is no configuration: remove it")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON ({type(error).__name__}); get the file again") from error
    if path.name == INDEX:
        check_index(str(path), content)
    level: list[Any] = [content]
    while level:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if named := next((key for key in RUNS if value.get(key)), None):
                    raise ModelError(f"{path} asks for remote code ({named}); remove the key, or the model")
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = inner


def check_index(where: str, content: Any) -> None:
    """Refuse a pipeline whose components diffusers would import from anywhere but its own libraries.

    Raises:
        ModelError: names the component.
    """
    if not isinstance(content, dict):
        raise ModelError(f"{where} is no JSON object; get the file again")
    for name, component in content.items():
        library = component[0] if isinstance(component, list) and component else None
        if library is not None and library not in LIBRARIES:
            raise ModelError(
                f"{where}: component {name!r} comes from {library!r}; only {', '.join(LIBRARIES)} "
                "are loaded: remove it, or the model"
            )
