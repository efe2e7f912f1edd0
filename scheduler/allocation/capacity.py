"""Money and the tiers' workers at once: a job goes where it gains most after the prices of money and of room.

Pure numpy on numbers; it knows neither queues nor workers. Where no tier is full it says exactly what
`knapsack.solve` says. Otherwise it looks for prices at which money and room are just used up, and places the
jobs one by one, surest first, so that nothing is ever overspent or overfilled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.allocation.hulls import floors
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import DEFERRED, Bound, Choice, Floats, Mask, Money, Options, Tiers, chosen

SAMPLE_JOBS = 20_000  # jobs on which prices are looked for: shares of them are within half a percent
CUTS = 60  # times d (d + 1) cuts in d dimensions: each price is then known to e^-30 of its range
EXACT = 1e-9  # of the range of gains: prices as good as this are not searched further
SERVED = 4  # times tiers times the range of gains: a place is worth more than any chain of moves costs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Market:
    """What jobs want, and how much of it there is."""

    value: Floats  # (n, T) gain above the given price, -inf where a tier is not allowed
    micro_usd: Floats  # (n, T)
    load: Floats  # (n, T)
    limit: Floats  # (1 + T,) money, then room per tier; inf where it cannot bind
    spread: float  # range of the values, > 0
    unserved: float  # value of having no place, below all others

    def worth(self, prices: Floats) -> Floats:
        """Return (n, T) what each tier is worth to each job after the prices (1 + T,)."""
        worth: Floats = self.value - prices[0] * self.micro_usd - prices[1:] * self.load
        return worth

    def sample(self, rank: Money) -> "_Market":
        """Return every k-th job in the order of `rank`, up to `SAMPLE_JOBS`, and their part of the limits."""
        n = len(rank)
        size = min(n, SAMPLE_JOBS)
        rows = np.argsort(rank)[np.arange(size) * n // size]
        return replace(
            self,
            value=self.value[rows],
            micro_usd=self.micro_usd[rows],
            load=self.load[rows],
            limit=self.limit * (size / n),
        )


def solve_with_capacity(
    options: Options, *, budget: int | None, load: Money, capacity: Sequence[int | None], price: float = 0.0
) -> Choice:
    """Choose a tier for each job within the budget and within what each tier can still take.

    If there is not room for all, the last rows are deferred. If the floors cannot all be paid, jobs get the
    cheapest tier with room, in the order of the rows. Otherwise the gain is within about one job per limit
    that binds of the best of all choices.

    Args:
        options: most urgent job first.
        budget: micro-dollars; below 0 counts as 0; None = no limit.
        load: (n,) or (n, T) what a job takes of a tier's room, > 0: pictures, or milliseconds of its workers.
        capacity: T numbers in the unit of `load`: what each tier can still take in this window; below 0
            counts as 0; None = no limit.
        price: gain per micro-dollar, >= 0, that a dearer tier must exceed.
    Raises:
        ValueError: there is not one capacity per tier, or a load is not positive.
    """
    loads = np.broadcast_to(load[:, None] if load.ndim == 1 else load, options.micro_usd.shape)
    if len(capacity) != options.tiers or (len(options) and int(loads.min()) < 1):
        raise ValueError(f"{options.tiers} tiers need as many capacities, and loads of at least 1")
    free = solve(options, budget=budget, price=price)
    most = np.iinfo(np.int64).max
    room = np.array([most if limit is None else max(0, limit) for limit in capacity], dtype=np.int64)
    if (_taken(free.tier, loads) <= room).all():
        return free
    money = most if budget is None else max(0, budget)
    floor_tier, floor = floors(options)
    if int(floor.sum()) > money:
        worth = np.where(_allowed(options), -options.micro_usd.astype(np.float64), -np.inf)
        rows, marginal = np.flatnonzero(floor_tier != DEFERRED), free.price
        tier = _place(options, loads, rows, worth, money=money, room=room, floor=np.zeros_like(floor))
    else:
        rows = np.flatnonzero((floor_tier != DEFERRED) & _have_room(loads, room))
        market = _market(options, loads, rows, money=money, room=room, price=price)
        prices = _prices(market, options.rank[rows])
        worth = np.full(options.micro_usd.shape, -np.inf)
        worth[rows] = market.worth(prices)
        order = rows[np.lexsort((options.rank[rows], -_margin(worth[rows], market.unserved)))]
        tier = _place(options, loads, order, worth, money=money, room=room, floor=floor)
        _improve_(tier, options, loads, money=money, room=room, price=price)
        marginal = price + float(prices[0])
    bound = _bounds(options, tier, loads, room, price=price)
    return chosen(options, tier, bound, price=marginal)


def _allowed(options: Options) -> Mask:
    if options.allowed is None:
        return np.ones(options.micro_usd.shape, dtype=np.bool_)
    return options.allowed


def _values(options: Options, *, price: float) -> Floats:
    return np.where(_allowed(options), options.gain - price * options.micro_usd, -np.inf)


def _taken(tier: Tiers, loads: Money) -> Money:
    """Return (T,) what the jobs take of each tier."""
    return np.array(
        [int(loads[:, column].sum(where=tier == column)) for column in range(loads.shape[1])], dtype=np.int64
    )


def _have_room(loads: Money, room: Money) -> Mask:
    """Return (n,) the first rows that could find room if they took their least everywhere."""
    total = sum(room.tolist())  # Python's integers: without a limit the sum is beyond 64 bits
    least = loads.min(axis=1)
    fits: Mask = np.cumsum(least) <= min(total, np.iinfo(np.int64).max)
    return fits


def _market(options: Options, loads: Money, rows: Money, *, money: int, room: Money, price: float) -> _Market:
    value = _values(options, price=price)[rows]
    finite = value[np.isfinite(value)]
    spread = float(finite.max(initial=0.0) - finite.min(initial=0.0)) or 1.0
    limit = np.array([money, *room.tolist()], dtype=np.float64)
    needs = [options.micro_usd[rows].max(axis=1).sum(), *loads[rows].sum(axis=0)]
    return _Market(
        value=value,
        micro_usd=options.micro_usd[rows].astype(np.float64),
        load=loads[rows].astype(np.float64),
        limit=np.where(np.array(needs, dtype=np.float64) <= limit, np.inf, limit),
        spread=spread,
        unserved=float(finite.min(initial=0.0)) - SERVED * options.tiers * spread,
    )


def _prices(market: _Market, rank: Money) -> Floats:
    """Return (1 + T,) prices of money and room at which the jobs want no more than there is.

    Minimises the Lagrangian dual, convex and piecewise linear in a handful of dimensions, by the ellipsoid
    method: unlike a descent it needs no step size, and unlike prices raised one by one it cannot creep.

    Source: Bland, Goldfarb, Todd, The Ellipsoid Method: A Survey, Operations Research 29 (1981), section 2.
    """
    prices = np.zeros(len(market.limit))
    bound = np.flatnonzero(np.isfinite(market.limit))
    size = len(bound)
    if not size:
        return prices
    sample = market.sample(rank)
    highest = _highest(sample)[bound]
    centre, shape = np.full(size, 0.5), np.eye(size) * size / 4  # the ball around the cube of prices
    best, lowest = centre, np.inf
    for _ in range(CUTS * size * (size + 1)):
        lowest_price = float(centre.min())
        if lowest_price < 0:
            slope = -np.eye(size)[centre.argmin()]
            excess = -lowest_price
        else:
            prices[bound] = centre * highest
            total, slope = _dual(sample, prices, bound)
            slope = slope * highest
            if total < lowest:
                best, lowest = centre, total
            excess = total - lowest
        width = float(np.sqrt(max(0.0, slope @ shape @ slope)))  # by how much the cut's slope can fall
        if width <= excess or (lowest_price >= 0 and width - excess < EXACT * market.spread):
            break
        centre, shape = _cut(centre, shape, step=shape @ slope / width, depth=excess / width)
    prices[bound] = best * highest
    return prices


def _cut(centre: Floats, shape: Floats, *, step: Floats, depth: float) -> tuple[Floats, Floats]:
    """Return the smallest ellipsoid around what a cut leaves of this one; depth 0 = through its centre."""
    size = len(centre)
    centre = centre - (1 + size * depth) / (size + 1) * step
    if size == 1:
        return centre, shape * ((1 - depth) / 2) ** 2
    squeeze = 2 * (1 + size * depth) / ((size + 1) * (1 + depth))
    growth = size**2 * (1 - depth**2) / (size**2 - 1)
    return centre, growth * (shape - squeeze * np.outer(step, step))


def _highest(market: _Market) -> Floats:
    """Return (1 + T,) prices that nobody pays: a place is not worth the least step of money, or of load."""
    ladder = np.diff(np.sort(market.micro_usd, axis=1), axis=1, prepend=0.0)
    least_step = float(np.where(ladder > 0, ladder, np.inf).min())
    most: Floats = (float(market.value.max()) - market.unserved) / np.array(
        [least_step, *market.load.min(axis=0)]
    )
    return most


def _dual(market: _Market, prices: Floats, bound: Money) -> tuple[float, Floats]:
    """Return the dual function and a subgradient in the bound dimensions."""
    worth = market.worth(prices)
    column = worth.argmax(axis=1)
    lines = np.arange(len(worth))
    best = worth[lines, column]
    served = best > market.unserved
    lines, column = lines[served], column[served]
    used = np.zeros(len(market.limit))
    used[0] = market.micro_usd[lines, column].sum()
    used[1:] = np.bincount(column, weights=market.load[lines, column], minlength=worth.shape[1])
    total = float(np.maximum(best, market.unserved).sum() + prices[bound] @ market.limit[bound])
    return total, (market.limit - used)[bound]


def _margin(worth: Floats, unserved: float) -> Floats:
    """Return (n,) what a job loses if it does not get its best tier."""
    ordered = np.sort(np.column_stack([worth, np.full(len(worth), -np.inf)]), axis=1)
    margin: Floats = ordered[:, -1] - np.maximum(ordered[:, -2], unserved)
    return margin


def _place(
    options: Options, loads: Money, order: Money, worth: Floats, *, money: int, room: Money, floor: Money
) -> Tiers:
    """Return (n,) for each job in turn the tier of most worth that has room and can be paid, or -1.

    The floors of all jobs that are still to come are kept.
    """
    tier = np.full(len(options), DEFERRED, dtype=np.int8)
    free = room.tolist()
    left = money - int(floor[order].sum())
    columns = np.argsort(-worth[order], axis=1, kind="stable").tolist()
    for row, preferred in zip(order.tolist(), columns, strict=True):
        left += int(floor[row])
        for column in preferred:
            price, load = int(options.micro_usd[row, column]), int(loads[row, column])
            if price <= left and load <= free[column] and worth[row, column] > -np.inf:
                tier[row] = column
                left -= price
                free[column] -= load
                break
    return tier


def _improve_(tier: Tiers, options: Options, loads: Money, *, money: int, room: Money, price: float) -> None:
    """Move jobs, in place, where they gain more and there is still room and money; largest gain first.

    A job without a tier counts as gaining more than any other, the first row first.
    """
    value = _values(options, price=price)
    lines, placed = np.arange(len(tier)), tier != DEFERRED
    now = np.where(placed, value[lines, tier], -np.inf)
    free = (room - _taken(tier, loads)).tolist()
    left = money - int(options.micro_usd[lines, tier].sum(where=placed))
    open_tiers = loads <= np.array(free)
    rows, columns = np.nonzero((value > now[:, None]) & open_tiers)
    gains = value[rows, columns] - now[rows]
    urgent = np.where(placed[rows], len(tier), rows)
    for i in np.lexsort((options.rank[rows], -gains, urgent)).tolist():
        row, column, old = int(rows[i]), int(columns[i]), int(tier[rows[i]])
        load, extra = int(loads[row, column]), int(options.micro_usd[row, column])
        if old != DEFERRED:
            extra -= int(options.micro_usd[row, old])
        better = old == DEFERRED or value[row, column] > value[row, old]
        if better and load <= free[column] and extra <= left:
            tier[row] = column
            left -= extra
            free[column] -= load
            if old != DEFERRED:
                free[old] += int(loads[row, old])


def _bounds(options: Options, tier: Tiers, loads: Money, room: Money, *, price: float) -> Tiers:
    """Return (n,) codes of `Bound`: a wanted tier that is full tells of capacity, another of money."""
    wanted = solve(options, budget=None, price=price)
    free = room - _taken(tier, loads)
    lines = np.arange(len(tier))
    full = loads[lines, wanted.tier] > free[wanted.tier]
    bound = np.where(full, Bound.CAPACITY, Bound.MONEY)
    bound = np.where(tier == wanted.tier, wanted.bound, bound)
    nowhere = (~_allowed(options) | (loads > free)).all(axis=1)
    missed = np.where(nowhere, Bound.DEFERRED_CAPACITY, Bound.DEFERRED_MONEY)
    waits = (tier == DEFERRED) & (wanted.tier != DEFERRED)
    return np.where(waits, missed, bound).astype(np.int8)
