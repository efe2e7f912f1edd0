"""`python -m tests.provider --port P --bill FILE`: the fake provider as a process of its own."""

import argparse
from pathlib import Path

from tests.provider.server import MISBEHAVIOURS, FakeProvider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any; the endpoint is printed")
    parser.add_argument("--bill", type=Path, required=True, help="JSON lines, appended before each answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--misbehave",
        default="",
        help=f"name=rate,...; names: {', '.join(MISBEHAVIOURS)}; or one rate for all",
    )
    parser.add_argument(
        "--honours-keys", action="store_true", help="a repeated Idempotency-Key is billed once"
    )
    parser.add_argument("--key", default="sk-fake", help="that every request must carry")
    parser.add_argument("--usd", type=float, default=0.065, help="price of a picture")
    parser.add_argument("--hang-seconds", type=float, default=30.0)
    parser.add_argument("--slow-seconds", type=float, default=1.0)
    parser.add_argument("--draw-seconds", type=float, default=0.0, help="between bill and answer, always")
    parser.add_argument(
        "--mood-file", type=Path, help="while it is there: the one misbehaviour of all requests"
    )
    given = parser.parse_args()
    provider = FakeProvider(
        bill=given.bill,
        port=given.port,
        seed=given.seed,
        rates=_rates(given.misbehave),
        honours_keys=given.honours_keys,
        key=given.key,
        usd=given.usd,
        hang_seconds=given.hang_seconds,
        slow_seconds=given.slow_seconds,
        draw_seconds=given.draw_seconds,
        mood_file=given.mood_file,
    )
    print(provider.url, flush=True)
    provider.serve()


def _rates(text: str) -> dict[str, float]:
    if not text:
        return {}
    if "=" not in text:
        usual = [name for name in MISBEHAVIOURS if name not in ("refuse", "moved", "overcharge")]
        return dict.fromkeys(usual, float(text) / len(usual))
    return {name: float(rate) for name, _, rate in (part.partition("=") for part in text.split(","))}


main()
