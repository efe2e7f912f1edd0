"""The environment's limit as a policy of the deployment."""

from scheduler.budget import purse_of


def test_the_environments_limit_is_a_policy_of_the_deployment():
    purse = purse_of(deployment="d", limit_micro_usd=5, seconds=3600, now=7200.5)
    assert purse.now_ms == 7_200_500
    assert purse.policy.budget_id == "deployment:d"
    assert (purse.policy.span, purse.policy.limit_micro_usd) == ("3600s", 5)


def test_no_limit_of_the_environment_means_no_policy():
    purse = purse_of(deployment="d", limit_micro_usd=None, seconds=3600)
    assert (purse.deployment, purse.policy, purse.now_ms) == ("d", None, None)
