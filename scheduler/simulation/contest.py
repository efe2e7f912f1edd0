"""Policies by name: who takes part, and what each decides on the same traffic with the same money.

It knows names; what each policy does is its own.
"""

from collections.abc import Mapping

from routet2i.errors import UsageError
from scheduler.simulation import policies
from scheduler.simulation.ours import Ours
from scheduler.simulation.policies import MakePolicy
from scheduler.simulation.replay import Decided, Plan, decide, decide_in_hindsight
from scheduler.simulation.traffic import Traffic

OURS, HINDSIGHT = "ours", "offline_lp"
POLICIES: Mapping[str, MakePolicy] = {
    OURS: Ours,
    "pro_rata": policies.ProRata,
    "static_threshold": policies.StaticThreshold,
    "dual_mirror": policies.DualMirror,
    "port_dual": policies.PortDual,
    "greedy_first_come": policies.GreedyFirstCome,
    "random": policies.Random,
    "all_edge": policies.AllEdge,
    "all_cloud": policies.AllCloud,
}
NAMES = (*POLICIES, HINDSIGHT)


def decided_by(name: str, traffic: Traffic, *, plan: Plan, seed: int) -> Decided:
    """Return what a policy decides.

    Raises:
        UsageError: there is no such policy; says which there are.
    """
    if name == HINDSIGHT:
        return decide_in_hindsight(traffic, plan=plan)
    if name not in POLICIES:
        raise UsageError(f"no policy {name!r}; there are {', '.join(NAMES)}")
    return decide(traffic, POLICIES[name], plan=plan, seed=seed)
