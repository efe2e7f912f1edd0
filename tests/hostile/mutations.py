"""Hostile inputs, each a pure function of seed, door and number: any of them can be made again.

Three sources: bytes of valid files, changed; lines and documents grown from a grammar; noise. It knows what
valid inputs of each door look like (`samples`), not what the door says to them.
"""

import copy
import json
from random import Random
from typing import Any

from tests.hostile import nasties
from tests.hostile.samples import CSV_COLUMNS, DOCUMENTS, FIELDS, FILES, MESSAGE, URLS


def hostile_input(door: str, *, seed: int, number: int) -> bytes:
    """Return input `number` of a door."""
    rng = Random(f"{seed}:{door}:{number}")
    if rng.random() < 0.03:
        return rng.randbytes(rng.choice((0, 1, 2, 8, 64, 1000, 20_000)))
    grown = GROWN.get(door)
    if grown is not None and rng.random() < 0.6:
        made = grown(rng).encode("utf-8", "surrogatepass")
        return made if rng.random() < 0.8 else mutated(made, rng)
    return mutated(rng.choice(FILES[door]), rng)


def mutated(raw: bytes, rng: Random) -> bytes:
    """Return a file after one to eight small accidents."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((1, 1, 2, 5, 30)))
        accident = rng.randrange(8)
        if accident == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif accident == 1:
            del data[at:until]
        elif accident == 2:
            data[at:at] = data[at:until] * rng.choice((2, 10, 300))
        elif accident == 3:
            del data[at:]
        elif accident == 4:
            data[at:until] = rng.choice(nasties.BYTES)
        elif accident == 5:
            _replace_number(data, rng)
        elif accident == 6:
            _replace_string(data, rng)
        else:
            data[at:at] = rng.choice(nasties.BYTES)
    return bytes(data[:400_000])


def _replace_number(data: bytearray, rng: Random) -> None:
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        at = end = rng.choice(places)
        while end < len(data) and (48 <= data[end] <= 57 or data[end] == 46):
            end += 1
        data[at:end] = nasties.number(rng).encode()


def _replace_string(data: bytearray, rng: Random) -> None:
    places = [place for place, byte in enumerate(data) if byte == 34]
    if len(places) > 1:
        first = rng.randrange(len(places) - 1)
        data[places[first] : places[first + 1] + 1] = nasties.literal(rng).encode("utf-8", "surrogatepass")


# --- grown from a grammar --------------------------------------------------------------------------------


def _json_line(rng: Random) -> str:
    pairs = [("prompt", nasties.literal(rng) if rng.random() < 0.4 else '"a red circle"')]
    for _ in range(rng.randrange(4)):
        name = rng.choice(FIELDS) if rng.random() < 0.9 else nasties.text(rng)
        pairs.append((name, nasties.literal(rng)))
    if rng.random() < 0.3:
        pairs.append(("metadata", '{"k":' + nasties.literal(rng) + "}"))
    return "{" + ",".join(f"{nasties.quoted(name, rng)}:{value}" for name, value in pairs) + "}"


def _jsonl(rng: Random) -> str:
    return rng.choice(("\n", "\n", "\r\n")).join(_json_line(rng) for _ in range(rng.choice((1, 1, 1, 3))))


def _text(rng: Random) -> str:
    return "\n".join(nasties.text(rng) for _ in range(rng.choice((1, 2, 4))))


def _cell(rng: Random) -> str:
    text = nasties.text(rng) if rng.random() < 0.6 else nasties.number(rng)
    return '"' + text.replace('"', '""') + '"' if rng.random() < 0.5 else text


def _csv(*columns: str) -> Any:
    def grow(rng: Random) -> str:
        header = rng.sample(columns, rng.randint(max(1, len(columns) - 2), len(columns)))
        if rng.random() < 0.15:
            header[rng.randrange(len(header))] = nasties.text(rng)
        rows = [[_cell(rng) for _ in header] for _ in range(rng.choice((1, 2, 4)))]
        return "\n".join(",".join(row) for row in [header, *rows])

    return grow


def _toml(door: str) -> Any:
    def grow(rng: Random) -> str:
        lines = FILES[door][0].decode().split("\n")
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(lines))
            key, equals, _ = lines[at].partition("=")
            if equals:
                lines[at] = f"{key}= {nasties.literal(rng)}"
            else:
                lines.insert(at, f"{nasties.text(rng)} = {nasties.literal(rng)}")
        return "\n".join(lines)

    return grow


def _document(door: str) -> Any:
    """Grow a JSON document: a valid one with one to three values replaced, removed or added, at any depth."""

    def grow(rng: Random) -> str:
        made = copy.deepcopy(DOCUMENTS[door])
        for _ in range(rng.choice((1, 1, 2, 3))):
            place: Any = made
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                if not keys:
                    break
                key = rng.choice(keys)
                if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
                    place = place[key]
                    continue
                accident = rng.random()
                if accident < 0.7:
                    place[key] = nasties.value(rng)
                elif accident < 0.85:
                    del place[key]
                elif isinstance(place, dict):
                    place[nasties.text(rng)] = nasties.value(rng)
                else:
                    place.append(nasties.value(rng))
                break
        return json.dumps(made, ensure_ascii=True)

    return grow


def _message(rng: Random) -> str:
    fields = dict(MESSAGE)
    name = rng.choice([*fields, nasties.text(rng)])
    fields[name] = nasties.literal(rng)
    return "{" + ",".join(f"{nasties.quoted(key, rng)}:{value}" for key, value in fields.items()) + "}"


def _url(door: str) -> Any:
    def grow(rng: Random) -> str:
        url = rng.choice(URLS[door])
        if rng.random() < 0.5:
            url += ("&" if "?" in url else "?") + f"{nasties.text(rng)}={nasties.text(rng)}"
        if rng.random() < 0.5:
            at = rng.randrange(len(url) + 1)
            url = url[:at] + nasties.text(rng) + url[at + rng.randrange(4) :]
        return url

    return grow


GROWN = {
    "prompts.jsonl": _jsonl,
    "prompts.csv": _csv(*FIELDS),
    "prompts.txt": _text,
    "trace": _csv(*CSV_COLUMNS["trace"]),
    "ratings": _csv(*CSV_COLUMNS["ratings"]),
    "tiers": _toml("tiers"),
    "metrics": _toml("metrics"),
    "message": _message,
    "database URL": _url("database URL"),
    "broker URL": _url("broker URL"),
    "predictor": _document("predictor"),
    "noun count": _document("noun count"),
    "model folder": _document("model folder"),
    "settings": _document("settings"),
    "exports": _text,
    "arguments": _text,
}
