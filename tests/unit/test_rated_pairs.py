"""Pairs of the database as a rated set: which may stand together, and what is said when none may."""

from datetime import UTC, datetime

import numpy as np
import pytest

from db.pairs import ShadowPair, Side
from routet2i.errors import UsageError
from routet2i.tiers import packaged, read_tiers
from scheduler.rated_pairs import rated_pairs

TIERS = read_tiers(packaged("pocket"))
WEIGHTS = {"detail": 0.75, "clarity": 0.25, "alignment": 0.0}


def scores(value):
    return {"detail": value, "clarity": value / 2, "alignment": 1.0, "unknown": 0.1}


def pair(prompt, *, edge=0.4, cloud=0.6, edge_model="pocket:edge", tier="cloud", **changes):
    values = {
        "job_id": "j",
        "shadow_job_id": "s",
        "prompt": prompt,
        "window_id": "w",
        "committed_at": datetime(2026, 1, 2, tzinfo=UTC),
        "predictor_name": "p",
        "predictor_version": "1",
        "prs": 0.3,
        "propensity": 0.1,
        "tier": tier,
        "sides": {
            "cloud": Side(model_id="pocket:cloud", scores=scores(cloud)),
            "edge": Side(model_id=edge_model, scores=scores(edge)),
        },
    }
    return ShadowPair(**values | changes)


def rated(*pairs):
    return rated_pairs(pairs, tiers=TIERS, weights=WEIGHTS)


def test_pairs_become_scores_of_both_tiers_edge_first():
    # Given two prompts, one drawn twice, whichever tier was the shadow
    found = rated(pair("a dog", edge=0.2), pair("a cat", tier="edge"), pair("a dog", edge=0.4))
    # Then a prompt's pairs are averaged, and the deployment's metrics are there with their weights
    assert found.prompts == ("a dog", "a cat")
    assert (found.labels.tiers, found.labels.metrics) == (
        ("edge", "cloud"),
        ("detail", "clarity", "alignment"),
    )
    assert np.allclose(found.labels.scores[0], [[0.3, 0.15, 1.0], [0.6, 0.3, 1.0]])
    assert found.labels.weights.tolist() == [0.75, 0.25, 0.0]
    assert found.dropped == 0


def test_pairs_count_alike_whatever_their_propensity():
    often, seldom = pair("a", edge=0.2, propensity=0.9), pair("a", edge=0.4, propensity=0.01)
    assert rated(often, seldom).labels.scores[0, 0, 0] == pytest.approx(0.3)


def test_near_duplicates_are_one_group():
    found = rated(pair("a red circle on white"), pair("a red circle on white!"), pair("two dogs in snow"))
    assert found.groups.tolist() == [0, 0, 1]


def test_pairs_of_models_that_are_gone_are_left_out_and_counted():
    lacking = Side(model_id="pocket:edge", scores={"detail": 0.5})
    whole = pair("kept")
    found = rated(
        whole,
        pair("old model", edge_model="pocket:old"),
        pair("lacks a metric", sides={**whole.sides, "edge": lacking}),
        pair("kept", edge_model="pocket:old"),
    )
    assert (found.prompts, found.dropped) == (("kept",), 2)


def test_without_pairs_it_says_how_they_come_about():
    with pytest.raises(UsageError, match="ROUTET2I_SHADOW_SHARE"):
        rated()
