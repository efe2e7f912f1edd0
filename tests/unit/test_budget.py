"""What a window may spend: never more than there is, and nothing is lost between windows."""

from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import Account, Funds
from scheduler.budget import allowance, allowances, purse_of

MONEY = st.integers(0, 10**9)


@st.composite
def funds(draw, limited=True):
    reserved, spent = draw(MONEY), draw(MONEY)
    limit = reserved + spent + draw(MONEY) if limited or draw(st.booleans()) else None
    return Funds(limit=limit, reserved=reserved, spent=spent, queued_pictures=draw(st.integers(1, 10**6)))


@given(funds(), st.integers(0, 10**6), st.data())
def test_a_window_gets_no_more_than_is_free(one, edge_price, data):
    pictures = data.draw(st.integers(1, one.queued_pictures))
    granted = allowance(one, pictures=pictures, edge_price=edge_price)
    assert 0 <= granted <= one.limit - one.reserved - one.spent


@given(funds(), st.integers(0, 1000), st.data())
def test_the_edge_price_of_the_jobs_behind_the_window_is_kept(one, edge_price, data):
    # Given enough money for the edge tier
    pictures = data.draw(st.integers(1, one.queued_pictures))
    free = one.limit - one.reserved - one.spent
    if free < one.queued_pictures * edge_price:
        return
    # When the window spends all it may
    granted = allowance(one, pictures=pictures, edge_price=edge_price)
    # Then all others can still be drawn on the edge, and so can its own
    assert free - granted >= (one.queued_pictures - pictures) * edge_price
    assert granted >= pictures * edge_price


@given(funds(), st.integers(0, 1000))
def test_the_last_window_may_spend_all_that_is_left(one, edge_price):
    free = one.limit - one.reserved - one.spent
    granted = allowance(one, pictures=one.queued_pictures, edge_price=edge_price)
    assert granted == min(free, max(free, one.queued_pictures * edge_price))


def test_what_one_window_leaves_is_there_for_the_next():
    # Given 100 pictures at 10, and 2,000 in all
    start = Funds(limit=2000, reserved=0, spent=0, queued_pictures=100)
    first = allowance(start, pictures=50, edge_price=10)
    assert first == 1000
    # When the first window spends only the edge price
    after = Funds(limit=2000, reserved=500, spent=0, queued_pictures=50)
    # Then the second may spend the rest
    assert allowance(after, pictures=50, edge_price=10) == 1500


def test_a_budget_below_the_edge_price_goes_to_the_oldest_jobs():
    short = Funds(limit=250, reserved=0, spent=0, queued_pictures=100)
    assert allowance(short, pictures=50, edge_price=10) == 250
    assert allowance(short, pictures=20, edge_price=10) == 200


def test_an_overdrawn_budget_grants_nothing():
    assert allowance(Funds(limit=10, reserved=8, spent=8, queued_pictures=1), pictures=1, edge_price=1) == 0


def test_no_limit_is_no_limit():
    assert (
        allowance(Funds(limit=None, reserved=5, spent=5, queued_pictures=1), pictures=1, edge_price=1) is None
    )


PERIOD = Account(budget_id="deployment:d", period="0")


def account(budget_id):
    return Account(budget_id=budget_id, period="total")


def shared(own, *, pictures, edge_price, outer):
    """Return the allowances of batches that all draw on the same outer accounts as well."""
    accounts = {account(name): one for name, one in own.items()} | outer
    chains = {name: (account(name), *outer) for name in own}
    return allowances(accounts, chains, pictures=pictures, edge_price=edge_price)


@given(
    st.lists(st.tuples(funds(limited=False), st.integers(1, 500)), min_size=1, max_size=5),
    st.lists(funds(), min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_all_batches_together_stay_within_every_account_and_each_within_its_own(batches, outer, edge_price):
    # Given batches that share some accounts
    own = {f"b{i}": one for i, (one, _) in enumerate(batches)}
    pictures = {f"b{i}": min(wanted, one.queued_pictures) for i, (one, wanted) in enumerate(batches)}
    common = {account(f"client:{i}"): one for i, one in enumerate(outer)}
    # When a window's money is divided
    granted = shared(own, pictures=pictures, edge_price=edge_price, outer=common)
    # Then no account is asked for more than it has
    assert sum(granted.values()) <= min(one.limit - one.reserved - one.spent for one in outer)
    for batch, amount in granted.items():
        alone = allowance(own[batch], pictures=pictures[batch], edge_price=edge_price)
        assert amount >= 0
        assert alone is None or amount <= alone


def test_the_periods_money_pays_every_batchs_edge_price_first():
    # Given two batches without a limit and 100 pictures each, and 3,000 for the period
    own = {name: Funds(limit=None, reserved=0, spent=0, queued_pictures=100) for name in "ab"}
    pictures = {"a": 100, "b": 100}
    period = Funds(limit=3000, reserved=0, spent=0, queued_pictures=200)
    # When both want all of it, each gets its edge price and half of the rest
    assert shared(own, pictures=pictures, edge_price=10, outer={PERIOD: period}) == {"a": 1500, "b": 1500}
    # When there is less than the edge price, the first batch comes first
    less = Funds(limit=1200, reserved=0, spent=0, queued_pictures=200)
    assert shared(own, pictures=pictures, edge_price=10, outer={PERIOD: less}) == {"a": 1000, "b": 200}


def test_an_account_binds_only_the_batches_that_draw_on_it():
    # Given two clients' batches without a limit, and a limit for the first client
    none = Funds(limit=None, reserved=0, spent=0, queued_pictures=10)
    client = account("client:one")
    accounts = {
        account("a"): none,
        account("b"): none,
        client: Funds(limit=30, reserved=0, spent=0, queued_pictures=10),
    }
    chains = {"a": (account("a"), client), "b": (account("b"),)}
    # Then the other one is free
    assert allowances(accounts, chains, pictures={"a": 10, "b": 10}, edge_price=1) == {"a": 30, "b": None}


def test_without_an_outer_limit_each_batch_has_its_own_allowance():
    own = {"a": Funds(limit=100, reserved=0, spent=0, queued_pictures=1)}
    unlimited = Funds(limit=None, reserved=0, spent=0, queued_pictures=1)
    for outer in ({}, {PERIOD: unlimited}):
        assert shared(own, pictures={"a": 1}, edge_price=10, outer=outer) == {"a": 100}


def test_the_environments_limit_is_a_policy_of_the_deployment():
    purse = purse_of(deployment="d", limit_micro_usd=5, seconds=3600, now=7200.5)
    assert purse.now_ms == 7_200_500
    assert purse.policy.budget_id == "deployment:d"
    assert (purse.policy.span, purse.policy.limit_micro_usd) == ("3600s", 5)


def test_no_limit_of_the_environment_means_no_policy():
    purse = purse_of(deployment="d", limit_micro_usd=None, seconds=3600)
    assert (purse.deployment, purse.policy, purse.now_ms) == ("d", None, None)
