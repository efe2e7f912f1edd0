"""What people and attackers put into files: texts, numbers and shapes that have broken parsers before.

It knows bytes and JSON values, no door of ours.
"""

import json
from random import Random
from typing import Any

TEXTS = (
    *("", " ", "\u3000", "\ufeff", "\u00a0", "\u200b\u200c\u200d", "\u2028", "\u2029", "\x85", "\x0b\x0c"),
    *("\x00", "a\x00b", "\x1b[2J\x1b]0;owned\x07", "\x7f", "\x9b31m", "\r", "\r\n", "\t\t", "a\nb"),
    *("\u202eexe.gnp", "\u2066\u2069", "\u200fabc", "\u061c", "\ufffe", "\uffff", "\ufdd0", "\U0010ffff"),
    *("e\u0301" * 50, "\u0344" * 200, "a" + "\u0300" * 3000, "\U0001f468\u200d\U0001f469", "\ufdfa" * 100),
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "'=1", '"=1"', "\uff1d1+1"),
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{7*7}}",
        "{% raw %}",
        "${7*7}",
        "&lt;",
    ),
    *("'; DROP TABLE job; --", "' OR 1=1 --", "%s%s%n", "%00", "{0.__class__}", "\\", "\\u0000", "\\N{NULL}"),
    *("../../etc/passwd", "/etc/passwd", "C:\\CON", "NUL", "~nobody-at-all/x", "~/x", "./a\x00b", "a" * 300),
    *("hf-hub:../..", "file:///etc/passwd", "http://169.254.169.254/", "pocket:../../x", "-rf", "--help"),
    *("last", "null", "None", "nan", "NaN", "Infinity", "-0", "1e999", "0x10", "1_000", "१२३", "²", "½"),
    *("line-2", "line-02", "line-99999999999999999999", "default", "shadow", "redis://:pw@host/0"),
    *("x" * 2000, "x" * 2001, "x" * 70_000, "é" * 40_000, "\U0001f600" * 20_000, '"' * 5000, "," * 5000),
)
NUMBERS = (
    *("0", "-0", "-1", "1", "7", "8", "0.5", "1e0", "1e308", "1e309", "-1e999", "1e-400", "00", "+1", ".5"),
    *("2147483647", "2147483648", "9007199254740993", "9223372036854775807", "9223372036854775808"),
    *(
        "18446744073709551616",
        "9" * 100,
        "9" * 400,
        "9" * 4299,
        "9" * 4301,
        "1" + "0" * 20_000,
        "0." + "3" * 9000,
    ),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "inf",
        "-inf",
        "0x1F",
        "1_000",
        "1e",
        "--1",
        "true",
        "false",
        "null",
    ),
)
BYTES = (
    *(
        b"",
        b"\x00",
        b"\xff",
        b"\xfe\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\xef\xbb\xbf",
        b"\x1f\x8b\x08",
    ),
    *(
        b"PK\x03\x04",
        b"BZh9",
        b"\xfd7zXZ\x00",
        b"\x28\xb5\x2f\xfd",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x04\x95",
    ),
    *(
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x28\xa1",
        b"\xf0\x9f\x98",
        b"\x80",
        b"\r",
        b"\n\n\n",
    ),
    *(
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\u0000",
        b"\\ud83d",
        b"\\x00",
        b'"',
        b"'",
        b'"""',
        b",",
        b":",
        b"{",
        b"}",
    ),
    *(b"[" * 900, b"[" * 1023, b"[" * 1100, b"[" * 100_000, b'{"a":' * 900, b'{"a":' * 5000, b"a={b=" * 3000),
    *(b"]" * 50, b"(" * 2000, b"#" * 2000, b"a." * 3000, b"[[" * 300, b"\t" * 2000, b" " * 70_000),
    *(b"x" * 131_073, b"\n" * 3000, b'"\n' * 1500, b"1" * 5000, b"9" * 30_000, b"__class__", b"auto_map"),
    *(text.encode("utf-8") for text in TEXTS),
    *(number.encode() for number in NUMBERS),
)
DEPTHS = (3, 31, 32, 33, 60, 500, 900, 1000, 1023)  # orjson ends at 1024


def number(rng: Random) -> str:
    """Return a number as it may be written, not always a valid one."""
    return rng.choice(NUMBERS) if rng.random() < 0.7 else str(rng.randint(-(10 ** rng.randint(1, 30)), 10**9))


def text(rng: Random) -> str:
    """Return a text, often of several nasty ones."""
    if rng.random() < 0.15:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(12)))
    return "".join(rng.choice(TEXTS) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def nested(rng: Random) -> str:
    """Return JSON nested deeply, closed or not."""
    depth = rng.choice(DEPTHS)
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    inner = rng.choice(("", "1", '"x"', "null")) if opening == "[" else "1"
    depth = depth if len(opening) < 6 else depth // 2
    return opening * depth + inner + closing * (depth - rng.choice((0, 0, 0, 1)))


def literal(rng: Random) -> str:
    """Return one JSON value as text, not always a valid one."""
    kind = rng.random()
    if kind < 0.35:
        return quoted(text(rng), rng)
    if kind < 0.6:
        return number(rng)
    if kind < 0.75:
        return nested(rng)
    if kind < 0.9:
        return (
            "{" + ",".join(f"{quoted(text(rng), rng)}:{number(rng)}" for _ in range(rng.randrange(4))) + "}"
        )
    return "[" + ",".join(literal(rng) for _ in range(rng.randrange(3))) + "]"


def quoted(value: str, rng: Random) -> str:
    """Return a text as a JSON string; lone surrogates are written as escapes."""
    return json.dumps(value, ensure_ascii=rng.random() < 0.5 or any("\ud800" <= c <= "\udfff" for c in value))


def value(rng: Random) -> Any:
    """Return a JSON value of any type, as Python has it."""
    return (
        rng.choice(
            (
                None,
                True,
                False,
                0,
                -1,
                10**400,
                2**63,
                0.5,
                float("nan"),
                float("inf"),
                1e308,
                5e-324,
                "",
                [],
                {},
                [[]],
            )
        )
        if rng.random() < 0.6
        else (text(rng) if rng.random() < 0.7 else [value(rng), {text(rng): value(rng)}])
    )
