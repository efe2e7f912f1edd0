"""What one window may spend for each of its batches.

Pure integer arithmetic on micro-dollars and pictures. It knows neither jobs nor predictions nor SQL, and it
permits nothing: the ledger's guarded reservation does (`db.ledger`). Nothing is remembered between windows:
the allowance is computed from the totals, so money a window did not spend is there for the next one.
"""

from collections.abc import Mapping

from routet2i.contracts import Funds, PeriodBudget

PERIOD_ID = "deployment:{}"  # budget id of a deployment's limit per period


def allowance(funds: Funds, *, pictures: int, edge_price: int) -> int | None:
    """Return what a window may spend for its `pictures` pictures of one batch, in micro-dollars.

    The edge price of every picture still queued is kept; of what is above that the window gets its share,
    pro rata by pictures. If not even the edge price of all is there, the window may spend up to the edge
    price of its own pictures: the oldest jobs come first.

    Args:
        funds: the batch's totals; limit None = no limit.
        pictures: wanted by the window's jobs of this batch, from 1 to `funds.queued_pictures`.
        edge_price: micro-dollars per picture on the edge tier, >= 0.
    Returns:
        At most limit - reserved - spent, at least 0; None = no limit.
    Source: ours, after the pro-rata windows of routing.md section 10.
    """
    if funds.limit is None:
        return None
    free = max(0, funds.limit - funds.reserved - funds.spent)
    queued = max(funds.queued_pictures, pictures)
    spare = free - queued * edge_price
    if spare <= 0:
        return min(free, pictures * edge_price)
    return pictures * edge_price + spare * pictures // queued


def allowances(
    funds: Mapping[str, Funds], *, pictures: Mapping[str, int], edge_price: int, period: Funds | None = None
) -> dict[str, int | None]:
    """Return the allowance of each batch of a window, together within what the period's budget allows.

    Of the period's money each batch first gets the edge price of its pictures, in the order of `pictures`,
    then its share of the rest, pro rata by pictures.

    Args:
        funds: totals of every batch of the window.
        pictures: wanted by the window, per batch, in the window's order.
        edge_price: micro-dollars per picture on the edge tier, >= 0.
        period: totals of the deployment's budget of the current period; its `queued_pictures` is not read,
            because all pictures queued in the batches of this window count. None = no such limit.
    """
    own = {
        batch: allowance(funds[batch], pictures=wanted, edge_price=edge_price)
        for batch, wanted in pictures.items()
    }
    if period is None or period.limit is None:
        return own
    common = Funds(
        limit=period.limit,
        reserved=period.reserved,
        spent=period.spent,
        queued_pictures=sum(funds[batch].queued_pictures for batch in pictures),
    )
    total = sum(pictures.values())
    left = allowance(common, pictures=total, edge_price=edge_price) or 0
    shares: dict[str, int] = {}
    for batch, wanted in pictures.items():
        shares[batch] = _least(own[batch], wanted * edge_price, left)
        left -= shares[batch]
    for batch, wanted in pictures.items():
        shares[batch] = _least(own[batch], shares[batch] + left * wanted // total)
    return dict(shares)


def period_budget(
    *, deployment: str, limit_micro_usd: int | None, seconds: int, now: float
) -> PeriodBudget | None:
    """Return the deployment's budget of the period that `now` lies in; None = no limit is set.

    Args:
        deployment: its name, part of the budget's id.
        limit_micro_usd: what one period may spend.
        seconds: length of a period, which starts at multiples of it since 1970.
        now: Unix time in seconds.
    """
    if limit_micro_usd is None:
        return None
    return PeriodBudget(
        budget_id=PERIOD_ID.format(deployment),
        period=str(period_start(now, seconds=seconds)),
        limit_micro_usd=limit_micro_usd,
    )


def period_start(now: float, *, seconds: int) -> int:
    """Return the Unix time at which the budget period that `now` lies in began."""
    return int(now) // seconds * seconds


def _least(limit: int | None, *amounts: int) -> int:
    return min(amounts) if limit is None else min(limit, *amounts)
