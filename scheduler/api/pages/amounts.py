"""Dollars that a person typed, as integer micro-dollars."""

from decimal import Decimal, InvalidOperation, Overflow

from routet2i.errors import UsageError

MOST = 10**15  # micro-dollars


def micro_usd(text: str) -> int | None:
    """Return dollars as micro-dollars, None where nothing was typed; raises UsageError for no amount."""
    typed = text.strip().removeprefix("$")
    if not typed:
        return None
    try:
        amount = Decimal(typed) * 1_000_000
    except (InvalidOperation, Overflow):
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value() or amount > MOST:
        raise UsageError(f"{text!r} is no amount in dollars; write e.g. 2.50")
    return int(amount)
