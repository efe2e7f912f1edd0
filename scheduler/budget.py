"""What one window may spend for each of its batches.

Pure integer arithmetic on micro-dollars and pictures. It knows neither jobs nor predictions nor SQL, and it
permits nothing: the ledger's guarded reservation does (`db.ledger`). Nothing is remembered between windows:
the allowance is computed from the totals, so money a window did not spend is there for the next one.
"""

from collections.abc import Mapping, Sequence

from routet2i.contracts import Account, BudgetPolicy, Funds, Purse, Scope


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
    accounts: Mapping[Account, Funds],
    chains: Mapping[str, Sequence[Account]],
    *,
    pictures: Mapping[str, int],
    edge_price: int,
) -> dict[str, int | None]:
    """Return the allowance of each batch of a window, together within what every account allows.

    Of the money of an account that several batches share, each batch first gets the edge price of its
    pictures, in the order of `pictures`, then its share of the rest, pro rata by pictures; and never more
    than the accounts before it in its chain have left it.

    Args:
        accounts: totals of everything that the chains name.
        chains: batch -> its accounts, innermost first; the first one is the batch's own.
        pictures: wanted by the window, per batch, in the window's order.
        edge_price: micro-dollars per picture on the edge tier, >= 0.
    Returns:
        micro-dollars per batch; None = no account of its chain has a limit.
    """
    allowed: dict[str, int | None] = {
        batch: allowance(accounts[chains[batch][0]], pictures=wanted, edge_price=edge_price)
        for batch, wanted in pictures.items()
    }
    members: dict[Account, dict[str, int]] = {}
    for batch, wanted in pictures.items():
        for account in chains[batch][1:]:
            members.setdefault(account, {})[batch] = wanted
    for account, theirs in members.items():
        allowed |= _shares(
            {batch: allowed[batch] for batch in theirs}, accounts[account], theirs, edge_price=edge_price
        )
    return allowed


def _shares(
    allowed: Mapping[str, int | None], common: Funds, pictures: Mapping[str, int], *, edge_price: int
) -> dict[str, int | None]:
    """Divide what a window may take of one account among the batches that draw on it."""
    total = sum(pictures.values())
    left = allowance(common, pictures=total, edge_price=edge_price)
    if left is None:
        return dict(allowed)
    shares: dict[str, int] = {}
    for batch, wanted in pictures.items():
        shares[batch] = _least(allowed[batch], wanted * edge_price, left)
        left -= shares[batch]
    for batch, wanted in pictures.items():
        shares[batch] = _least(allowed[batch], shares[batch] + left * wanted // total)
    return dict(shares)


def purse_of(
    *, deployment: str, limit_micro_usd: int | None, seconds: int, now: float | None = None
) -> Purse:
    """Return whose money a window spends: the environment's limit is a policy like those of the database.

    Args:
        deployment: its name.
        limit_micro_usd: what one period may spend; None = the environment sets no limit.
        seconds: length of a period, which starts at multiples of it since 1970.
        now: Unix time in seconds that names the periods; None = the database's clock.
    """
    policy = BudgetPolicy(
        scope=Scope.DEPLOYMENT, name=deployment, span=f"{seconds}s", limit_micro_usd=limit_micro_usd
    )
    return Purse(
        deployment=deployment,
        policy=None if limit_micro_usd is None else policy,
        now_ms=None if now is None else round(now * 1000),
    )


def period_start(now: float, *, seconds: int) -> int:
    """Return the Unix time at which the budget period that `now` lies in began."""
    return int(now) // seconds * seconds


def _least(limit: int | None, *amounts: int) -> int:
    return min(amounts) if limit is None else min(limit, *amounts)
