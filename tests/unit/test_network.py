"""The mixture of experts: padding, selection, gates, gradients."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.predictor.network import AXES, GATES, Mixture, Network, NetworkConfig, pad

WIDTH, TIERS, METRICS = 12, 3, 4
SMALL = NetworkConfig(members=2, inner=16, layers=1, heads=2, top_k=3, rank=4, gate_width=8, dropout=0.3)
EXACT = 1e-5  # float32 sums in another order


def network_of(config=SMALL, *, metrics=METRICS, seed=0):
    torch.manual_seed(seed)
    network = Network(config, width=WIDTH, tiers=TIERS, metrics=metrics)
    torch.nn.init.normal_(network.slopes, std=0.1)
    for member in network.members:
        torch.nn.init.normal_(member.heads)
    return network.eval()


def prompts_of(lengths, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(sum(lengths), WIDTH, generator=generator)
    return tokens, torch.tensor([0, *lengths]).cumsum(0)


def run(network, tokens, offsets, rows):
    with torch.no_grad():
        return network(*pad(tokens, offsets, torch.tensor(rows)))


def every_config():
    for gate in GATES:
        for axis in AXES:
            yield replace(SMALL, gate=gate, axis=axis)
    yield replace(SMALL, top_k=None)
    yield replace(SMALL, affinity=False)
    yield replace(SMALL, layers=0)
    yield replace(SMALL, layers=2, members=1)
    yield replace(SMALL, members=0)


@pytest.mark.parametrize("config", list(every_config()), ids=str)
def test_the_same_prompt_gets_the_same_z_in_any_batch(config):
    # Given prompts of 1 to 9 tokens, some with fewer than Top-K
    lengths = [4, 1, 9, 2, 6]
    tokens, offsets = prompts_of(lengths)
    network = network_of(config)
    # When they are computed together, and each alone
    together = run(network, tokens, offsets, range(len(lengths)))
    alone = [run(network, tokens, offsets, [row]) for row in range(len(lengths))]
    # Then nothing differs, and everything is finite
    assert together.z.shape == (len(lengths), TIERS, METRICS)
    assert torch.isfinite(together.z).all()
    for row, single in enumerate(alone):
        assert single.z[0] == pytest.approx(together.z[row], abs=EXACT)


@pytest.mark.parametrize("config", list(every_config()), ids=str)
def test_what_stands_in_the_padding_changes_nothing(config):
    # Given a batch with padding
    tokens, offsets = prompts_of([5, 2])
    states, valid = pad(tokens, offsets, torch.tensor([0, 1]))
    network = network_of(config)
    # When the padding is filled with large numbers
    loud = states.masked_fill(~valid[..., None], 1e6)
    with torch.no_grad():
        before, after = network(states, valid), network(loud, valid)
    # Then z stays
    assert after.z == pytest.approx(before.z, abs=EXACT)


@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), top_k=st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_experts_keep_different_tokens_of_their_own_prompt_only(lengths, top_k):
    # Given any lengths and any Top-K, also above the longest prompt
    tokens, offsets = prompts_of(lengths)
    network = network_of(replace(SMALL, top_k=top_k))
    # When the experts choose
    selection = run(network, tokens, offsets, range(len(lengths))).selections[0]
    # Then each has min(Top-K, length) slots, filled with different real tokens, of positive weight
    for row, length in enumerate(lengths):
        for expert in range(METRICS):
            slot = selection.slot[row, 0, expert]
            chosen = selection.index[row, 0, expert][slot].tolist()
            assert len(chosen) == len(set(chosen)) == min(top_k, length)
            assert max(chosen) < length
            assert (selection.weight[row, 0, expert][slot] > 0).all()
            assert (selection.weight[row, 0, expert][~slot] == 0).all()


def test_equal_tokens_are_chosen_by_place():
    # Given a prompt of six equal tokens
    tokens = torch.ones(6, WIDTH)
    network = network_of(replace(SMALL, layers=0))
    # When three are kept
    selection = run(network, tokens, torch.tensor([0, 6]), [0]).selections[0]
    # Then they are the first three
    assert selection.index[0, 0].tolist() == [[0, 1, 2]] * METRICS


def test_literal_dual_gates_equal_one_gate_with_the_difference_of_their_projections():
    # Given the method's gates as written, with nothing non-linear inside
    literal, single = network_of(replace(SMALL, gate="literal")), network_of(replace(SMALL, gate="single"))
    # When a single gate gets P+ - P- and everything else the same
    for one, two in zip(single.members, literal.members, strict=True):
        state = two.state_dict()
        one.load_state_dict({**state, "gates": state["gates"][:1] - state["gates"][1:]})
    single.slopes.data.copy_(literal.slopes)
    # Then both say the same
    tokens, offsets = prompts_of([5, 2, 7])
    ours, theirs = (run(network, tokens, offsets, [0, 1, 2]).z for network in (single, literal))
    assert ours == pytest.approx(theirs, abs=EXACT)


def test_nonlinear_gates_say_something_else():
    literal, nonlinear = (network_of(replace(SMALL, gate=gate)) for gate in ("literal", "nonlinear"))
    nonlinear.load_state_dict(literal.state_dict())
    tokens, offsets = prompts_of([5, 2, 7])
    ours, theirs = (run(network, tokens, offsets, [0, 1, 2]).z for network in (nonlinear, literal))
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("metrics", [1, METRICS])
def test_every_parameter_of_the_default_network_gets_a_gradient(metrics):
    # Given the default choices, also with one metric only
    torch.manual_seed(0)
    network = Network(NetworkConfig(), width=WIDTH, tiers=2, metrics=metrics)
    tokens, offsets = prompts_of([9, 3, 12, 7])
    # When any loss of z is sent back
    network(*pad(tokens, offsets, torch.arange(4))).z.square().sum().backward()
    # Then every parameter moves
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_without_the_affinity_factor_the_experts_stay_untrained():
    network = network_of(replace(SMALL, affinity=False)).train()
    tokens, offsets = prompts_of([5, 7])
    network(*pad(tokens, offsets, torch.arange(2))).z.sum().backward()
    assert all(member.experts.grad is None for member in network.members)


def test_order_matters_only_through_attention_and_the_encoder():
    # Given a network without attention layers, and a prompt turned round
    network = network_of(replace(SMALL, layers=0))
    tokens, offsets = prompts_of([6])
    # When both are computed
    forward, backward = (run(network, states, offsets, [0]).z for states in (tokens, tokens.flip(0)))
    # Then they are the same
    assert forward == pytest.approx(backward, abs=EXACT)


def test_a_network_is_its_linear_path_and_the_mean_of_its_members():
    # Given a network and its parts
    network = network_of()
    tokens, offsets = prompts_of([4, 6])
    states, valid = pad(tokens, offsets, torch.arange(2))
    with torch.no_grad():
        parts = [member(network.standardise(states, valid), valid)[0] for member in network.members]
        linear = network.linear(network.standardise(states, valid), valid)
        # When they are put together by hand
        expected = linear + sum(parts) / len(parts)
        # Then that is what the network says
        assert network(states, valid).z == pytest.approx(expected, abs=EXACT)


def test_the_default_network_for_eleven_metrics_is_small():
    network = Network(NetworkConfig(), width=768, tiers=2, metrics=11)
    assert sum(p.numel() for p in network.parameters()) < 1.5e6


def test_a_mixture_can_learn_eight_examples_by_heart():
    # Given eight prompts with random targets
    torch.manual_seed(0)
    mixture = Mixture(replace(SMALL, dropout=0.0), width=WIDTH, tiers=2, metrics=2)
    tokens, offsets = prompts_of([4] * 8)
    states, valid = pad(tokens, offsets, torch.arange(8))
    targets = torch.randn(8, 2, 2)
    optimiser = torch.optim.Adam(mixture.parameters(), lr=2e-2)
    # When it trains on them
    for _ in range(300):
        loss = (mixture(states, valid)[0] - targets).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Then it knows them
    assert float(loss.detach()) < 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"inner": 0},
        {"top_k": 0},
        {"layers": 3},
        {"heads": 3},
        {"gate": "triple"},
        {"axis": "prompts"},
        {"dropout": 1.0},
        {"members": -1},
    ],
)
def test_choices_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|one of"):
        replace(SMALL, **wrong)


def test_the_weights_of_kept_tokens_average_to_one_if_tokens_compete():
    tokens, offsets = prompts_of([6, 2])
    selection = run(network_of(), tokens, offsets, [0, 1]).selections[0]
    sums = selection.weight.sum(dim=3) / selection.slot.sum(dim=3)
    assert sums.flatten().tolist() == pytest.approx([1.0] * sums.numel())
    assert math.isclose(float(selection.weight[1, 0, 0, 2]), 0.0)  # a slot the short prompt cannot fill


def test_numbers_beside_the_tokens_enter_the_linear_path_standardised():
    # Given a network that reads two numbers beside the tokens
    network = Network(replace(SMALL, members=0), width=WIDTH, tiers=2, metrics=1, beside=2)
    network.centre[WIDTH:], network.spread[WIDTH:] = 3.0, 2.0
    network.slopes.data[WIDTH, 0, 0] = 1.0
    tokens, offsets = prompts_of([2, 3])
    states, valid = pad(tokens, offsets, torch.arange(2))
    # When one of them differs
    z = network(states, valid, torch.tensor([[3.0, 0.0], [7.0, 0.0]])).z
    # Then z of that tier differs by the slope times the standardised difference
    assert z[:, 0, 0].tolist() == pytest.approx([0.0, 2.0])
    assert (z[:, 1] == 0).all()
