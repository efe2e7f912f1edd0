"""Whose money a window spends, and when the environment's periods begin.

Pure. It knows no SQL and permits nothing: the ledger's guarded reservation does (`db.ledger`).
"""

from routet2i.contracts import BudgetPolicy, Purse, Scope


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
