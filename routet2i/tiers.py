"""Tiers are data: a TOML file, one table per tier, read and validated here.

This module knows names, prices and shapes. It does not know how a model is loaded (`routet2i.models`), how
somebody else's is asked (`routet2i.provider`) nor which tier a job deserves (`scheduler`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from routet2i.contracts import TierKind
from routet2i.errors import TierError
from routet2i.toml_file import read_toml

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
REVISION = re.compile(r"[0-9a-f]{40}")
POCKET = "pocket:"  # model prefix: a folder shipped in this package
SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
PIXELS_PER_MEGAPIXEL = 1_000_000
HTTP = "http"  # kind, in the file, of a cloud tier that is somebody's HTTP interface
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DTYPES = ("float32", "float16", "bfloat16")
ROUTING = ("edge", "cloud", "tiers", "predictor")  # keys of [routing]
DEFAULT_PREDICTOR = "cold_start"  # for natural prompts and any pair of models


@dataclass(frozen=True, kw_only=True, slots=True)
class TierProfile:
    """One place that renders: a model, its queue, its price."""

    name: str
    kind: TierKind  # which worker application serves it
    queue: str  # Celery queue
    model: str  # pocket:NAME, a local folder in diffusers format, or a hub id
    revision: str | None  # 40 hex digits of the hub commit; required for hub ids, None otherwise
    variant: str | None  # file variant of the folder, e.g. "fp16"
    dtype: str  # one of DTYPES
    device: str  # auto, cpu, cuda, cuda:0 ...
    steps: int  # denoising steps
    guidance: float  # classifier-free guidance scale; 1.0 or less switches it off
    width: int  # pixels, used where a job names none
    height: int
    gpu_class: str  # what the price was made for; shown, never interpreted
    micro_usd_per_image: int  # price of one picture of any size, micro-dollars
    microbatch_size: int  # pictures per forward pass
    micro_usd_per_megapixel_step: int = 0  # added for each million pixels and denoising step
    prices: Mapping[str, int] = field(
        default_factory=dict, hash=False
    )  # "WIDTHxHEIGHT" -> price of such a picture
    seconds_per_image: float | None = None  # of the device, at the tier's own size; None = not known
    max_backlog: int | None = None  # pictures that may be assigned to it and not drawn yet; None = any number
    endpoint: str | None = None  # of somebody's HTTP interface that draws; None = a model of our own
    timeout_seconds: float = 120.0  # for one answer of it
    idempotent: bool = False  # it bills an Idempotency-Key once, however often it is sent
    requests_at_once: int = 4  # to it, by one worker
    sends_seed: bool = False  # it takes a parameter `seed`
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)  # sent with every request

    def price(self, n: int, *, width: int | None = None, height: int | None = None) -> int:
        """Return what `n` pictures cost, in micro-dollars: what is shown, reserved and charged.

        Args:
            n: pictures.
            width: pixels; None = the tier's own.
            height: pixels; None = the tier's own.
        Returns:
            n times the list price of that size, or else the price per image and what its pixels and steps
            add, rounded up per picture.
        """
        width, height = width or self.width, height or self.height
        listed = self.prices.get(f"{width}x{height}")
        if listed is not None:
            return n * listed
        added = self.micro_usd_per_megapixel_step * width * height * self.steps
        return n * (self.micro_usd_per_image - -added // PIXELS_PER_MEGAPIXEL)

    def seconds(self, n: int, *, width: int | None = None, height: int | None = None) -> float | None:
        """Return how long a device draws `n` pictures, in proportion to their pixels; None = not known."""
        if self.seconds_per_image is None:
            return None
        width, height = width or self.width, height or self.height
        return n * self.seconds_per_image * width * height / (self.width * self.height)

    @property
    def task_name(self) -> str:
        """Return the Celery task that renders this tier's microbatches."""
        return task_name(self.kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiers:
    """All tiers of a deployment, in file order, and those that the router decides between."""

    profiles: Mapping[str, TierProfile]
    edge: str  # name of the routed pair's light tier
    cloud: str  # name of the routed pair's large tier
    routed: tuple[str, ...]  # from `edge`, where a job goes unless more is bought, to `cloud`
    predictor: str  # that is live before the first promotion
    source: str  # the file it was read from

    def __getitem__(self, name: str) -> TierProfile:
        """Return a tier by name; raises TierError naming the known ones."""
        try:
            return self.profiles[name]
        except KeyError:
            known = ", ".join(self.profiles)
            raise TierError(f"no tier {name!r} in {self.source}; known: {known}") from None


def task_name(kind: TierKind) -> str:
    """Return the name of the Celery task of a kind: two applications in one process must not share one."""
    return f"routet2i.{kind.value}.generate"


def packaged(name: str) -> Path:
    """Return the path of a tier file shipped in the package (`pocket`, `pocket-openai` ...)."""
    return Path(str(files("routet2i"))) / "profiles" / f"{name}.toml"


def read_tiers(path: Path) -> Tiers:
    """Read and validate a tier file.

    Raises:
        TierError: names the file, the table, the key, the value, and what to write instead.
    """
    document, _ = read_toml(path, what="tier file", setting="ROUTET2I_TIERS", error=TierError)
    tables = document.pop("tier", None)
    routing = document.pop("routing", {})
    if document:
        raise TierError(f"{path}: unknown table {sorted(document)[0]!r}; known: routing, tier.NAME")
    if not isinstance(tables, dict) or not tables:
        raise TierError(f"{path}: no tier; write one table [tier.edge] and one [tier.cloud]")
    if not isinstance(routing, dict):
        raise TierError(f"{path}: [routing] must be a table")
    if unknown := sorted(set(routing) - set(ROUTING)):
        raise TierError(f"{path}: [routing] unknown key {unknown[0]!r}; known: {', '.join(ROUTING)}")
    profiles = {name: _profile(path, name, table) for name, table in tables.items()}
    queues = [profile.queue for profile in profiles.values()]
    for queue in queues:
        if queues.count(queue) > 1:
            raise TierError(f"{path}: two tiers share queue {queue!r}; give each its own")
    edge = _routed(path, profiles, routing, TierKind.EDGE)
    cloud = _routed(path, profiles, routing, TierKind.CLOUD)
    return Tiers(
        profiles=profiles,
        edge=edge,
        cloud=cloud,
        routed=_chosen(path, profiles, routing, edge=edge, cloud=cloud),
        predictor=_predictor(path, routing),
        source=str(path),
    )


def _predictor(path: Path, routing: Mapping[str, Any]) -> str:
    """Return the name of a predictor; a folder, which begins with '.', '/' or '~', is made absolute."""
    named = routing.get("predictor", DEFAULT_PREDICTOR)
    if not isinstance(named, str) or named in ("", "live"):
        raise TierError(
            f"{path}: [routing] predictor = {named!r} must name what predicts before the first promotion: "
            '"pocket", "cold_start", "noun_count" ..., or a folder like "./predictor"'
        )
    if not named.startswith((".", "/", "~")):
        return named
    folder = _folder(path.parent, named)
    if folder is None:
        raise TierError(f"{path}: [routing] predictor folder {path.parent / named} does not exist")
    return str(folder)


def _folder(base: Path, named: str) -> Path | None:
    """Return an existing folder, absolute; None for anything else, also for what can be no path at all."""
    try:
        folder = (base / Path(named).expanduser()).resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, the home of nobody
        return None


def _routed(
    path: Path, profiles: Mapping[str, TierProfile], routing: Mapping[str, Any], kind: TierKind
) -> str:
    named = routing.get(kind.value)
    candidates = [name for name, profile in profiles.items() if profile.kind is kind]
    if named is None and len(candidates) == 1:
        return candidates[0]
    if named in candidates:
        return str(named)
    raise TierError(
        f'{path}: say which {kind.value} tier is routed: [routing] {kind.value} = "NAME", '
        f"one of {candidates}, not {named!r}"
    )


def _chosen(
    path: Path, profiles: Mapping[str, TierProfile], routing: Mapping[str, Any], *, edge: str, cloud: str
) -> tuple[str, ...]:
    """Return the routed tiers: the pair, or all that [routing] names, edge first and cloud last."""
    named = routing.get("tiers", [edge, cloud])
    if not isinstance(named, list) or len(set(map(str, named))) < len(named):
        raise TierError(f"{path}: [routing] tiers = {named!r} must be a list of different names")
    if unknown := [name for name in named if not isinstance(name, str) or name not in profiles]:
        raise TierError(f"{path}: [routing] tiers: no tier {unknown[0]!r}; known: {', '.join(profiles)}")
    if not {edge, cloud} <= set(named):
        raise TierError(f"{path}: [routing] tiers must name {edge!r} and {cloud!r} too, not only {named}")
    return (edge, *(name for name in named if name not in (edge, cloud)), cloud)


_HTTP_KEYS: Mapping[str, tuple[type, Any]] = {  # of a tier of kind http, beside those of every tier
    "endpoint": (str, ...),
    "timeout_seconds": (float, 120.0),
    "idempotent": (bool, ...),
    "requests_at_once": (int, 4),
    "sends_seed": (bool, False),
    "parameters": (dict, None),
}
_OWN_MODEL = ("revision", "variant", "dtype", "device", "steps", "guidance")  # keys of a model of our own
_RESERVED = ("model", "prompt", "n", "size", "seed", "stream")  # parameters that a worker sets itself
_KEYS: Mapping[str, tuple[type, Any]] = {  # key -> type, default (... = required)
    "kind": (str, ...),
    "queue": (str, None),
    "model": (str, ...),
    "revision": (str, None),
    "variant": (str, None),
    "dtype": (str, "float32"),
    "device": (str, "auto"),
    "steps": (int, ...),
    "guidance": (float, ...),
    "width": (int, ...),
    "height": (int, ...),
    "gpu_class": (str, "cpu"),
    "micro_usd_per_image": (int, ...),
    "microbatch_size": (int, 8),
    "micro_usd_per_megapixel_step": (int, 0),
    "prices": (dict, None),
    "seconds_per_image": (float, None),
    "max_backlog": (int, None),
}
_CALLED = {str: "text", int: "whole number", float: "number", dict: "table", bool: "true or false"}
_RANGES = {
    "steps": (1, 1000),
    "width": (8, 4096),
    "height": (8, 4096),
    "micro_usd_per_image": (0, 10**9),
    "microbatch_size": (1, 1024),
    "micro_usd_per_megapixel_step": (0, 10**9),
    "max_backlog": (1, 10**9),
    "requests_at_once": (1, 64),
}


def _profile(path: Path, name: str, table: Any) -> TierProfile:
    where = f"{path}: [tier.{name}]"
    if not NAME.fullmatch(name):
        raise TierError(f"{where} use letters, digits, '.', '_' and '-' for a tier's name")
    if not isinstance(table, dict):
        raise TierError(f"{where} must be a table")
    http = table.get("kind") == HTTP
    keys = _http_keys() if http else _KEYS
    if unknown := sorted(set(table) - set(keys)):
        raise TierError(f"{where} unknown key {unknown[0]!r}; known: {', '.join(keys)}")
    values: dict[str, Any] = {}
    for key, (wanted, default) in keys.items():
        value = table.get(key, default)
        if value is ...:
            raise TierError(f"{where} needs {key}")
        if wanted is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if value is not None and type(value) is not wanted:
            raise TierError(f"{where} {key} = {value!r} must be a {_CALLED[wanted]}")
        low, high = _RANGES.get(key, (0, 0))
        if key in _RANGES and value is not None and not low <= cast(int, value) <= high:
            raise TierError(f"{where} {key} = {value!r} must be from {low} to {high}")
        values[key] = value
    values["queue"] = values["queue"] or name
    if not NAME.fullmatch(values["queue"]):
        raise TierError(f"{where} queue = {values['queue']!r} may hold letters, digits, '.', '_' and '-'")
    if http:
        values |= {"kind": TierKind.CLOUD.value, "revision": None, "variant": None, "dtype": DTYPES[0]}
        values |= {"device": HTTP, "gpu_class": HTTP, "steps": 1, "guidance": 0.0}
    if values["kind"] not in list(TierKind):
        raise TierError(f"{where} kind = {values['kind']!r} must be edge, cloud or http")
    values["kind"] = TierKind(values["kind"])
    if values["dtype"] not in DTYPES:
        raise TierError(f"{where} dtype = {values['dtype']!r} must be one of {', '.join(DTYPES)}")
    for key in ("width", "height"):
        if values[key] % 8:
            raise TierError(f"{where} {key} = {values[key]} must be a multiple of 8")
    if not 0.0 <= values["guidance"] <= 50.0:
        raise TierError(f"{where} guidance = {values['guidance']} must be from 0 to 50")
    values["prices"] = _prices(where, values["prices"] or {})
    if values["seconds_per_image"] is not None and not 0.0 < values["seconds_per_image"] <= 3600.0:
        raise TierError(f"{where} seconds_per_image must be above 0 and at most 3600")
    if http:
        _check_http(where, values)
    else:
        _check_model(where, values, base=path.parent)
    return TierProfile(name=name, **values)


def _http_keys() -> Mapping[str, tuple[type, Any]]:
    own = {key: kind for key, kind in _KEYS.items() if key not in (*_OWN_MODEL, "gpu_class")}
    return {**own, **_HTTP_KEYS}


def _check_http(where: str, values: dict[str, Any]) -> None:
    """Refuse an address that would leak, and parameters that are not ours to fix; tidy both in place."""
    endpoint = values["endpoint"].rstrip("/")
    try:
        parts = urlsplit(endpoint)
        _ = parts.port  # raises if it is none
    except ValueError as error:
        raise TierError(f"{where} endpoint = {endpoint!r} is no address: {error}") from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not secure or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise TierError(
            f'{where} endpoint must be like "https://api.example.com/v1": https (http on loopback only), '
            "and neither a name, a password nor parameters in it: keys belong into ROUTET2I_API_KEYS"
        )
    values["endpoint"] = endpoint
    if not re.fullmatch(r"[\w./:@+-]{1,128}", values["model"]):
        raise TierError(f"{where} model = {values['model']!r} must be the provider's name of a model")
    if not 1.0 <= values["timeout_seconds"] <= 600.0:
        raise TierError(f"{where} timeout_seconds = {values['timeout_seconds']} must be from 1 to 600")
    values["parameters"] = dict(values["parameters"] or {})
    for key, value in values["parameters"].items():
        if key in _RESERVED:
            raise TierError(f"{where} parameters: {key} is set for each picture; leave it out")
        if type(value) not in (str, int, float, bool):
            raise TierError(f"{where} parameters: {key} must be a text, a number, true or false")


def _prices(where: str, table: Mapping[str, Any]) -> dict[str, int]:
    """Return the list prices of sizes, micro-dollars a picture."""
    low, high = _RANGES["micro_usd_per_image"]
    for size, price in table.items():
        if not SIZE.fullmatch(size):
            raise TierError(f'{where} prices: {size!r} is no size; write "1024x1024" = 40000')
        if type(price) is not int or not low <= price <= high:
            raise TierError(f"{where} prices: {size} = {price!r} must be a whole number from {low} to {high}")
    return dict(table)


def _check_model(where: str, values: dict[str, Any], *, base: Path) -> None:
    """Tell a packaged model from a folder from a hub id; a folder is made absolute in place."""
    model, revision = values["model"], values["revision"]
    if model.startswith(POCKET):
        return
    folder = _folder(base, model)
    if folder is not None:
        values["model"] = str(folder)
    elif model.startswith((".", "/", "~")):
        raise TierError(f"{where} model folder {base / model} does not exist")
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise TierError(f"{where} model = {model!r} must be pocket:NAME, a folder, or OWNER/NAME of a hub")
    elif revision is None or not REVISION.fullmatch(revision):
        raise TierError(
            f"{where} a hub model needs revision = the 40 hex digits of a commit, not {revision!r}"
        )
