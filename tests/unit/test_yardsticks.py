"""Measuring with a predictor's own constants is measuring what it was fitted to predict."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from routet2i.tiers import packaged, read_tiers
from scheduler.drift import Pair, measure
from scheduler.predictor.interface import Constant, PromptLength, Random, packaged_artefact
from scheduler.predictor.noun_count import NounCount, fit_noun_count, read_artefact, write_artefact
from scheduler.predictor.yardsticks import make_yardstick, yardstick_of
from scheduler.prs import fit_scale, prs, superiority

TIERS = read_tiers(packaged("pocket"))
START = datetime(2026, 1, 2, tzinfo=UTC)


def pairs_of(q_edge, q_cloud, metrics):
    return [
        Pair(
            prompt=str(row),
            window_id="w",
            committed_at=START,
            prs=0.5,
            edge=dict(zip(metrics, edge, strict=True)),
            cloud=dict(zip(metrics, cloud, strict=True)),
        )
        for row, (edge, cloud) in enumerate(zip(q_edge, q_cloud, strict=True))
    ]


def test_a_noun_count_table_measures_with_the_constants_it_was_fitted_with(tmp_path):
    # Given a table fitted on scores, one metric of which has no weight
    rng = np.random.default_rng(0)
    q_edge, q_cloud = rng.uniform(size=(40, 3)), rng.uniform(size=(40, 3))
    metrics, weights = ("detail", "clarity", "unweighted"), (0.75, 0.25, 0.0)
    content = fit_noun_count(
        [f"{n} dogs" for n in range(40)],
        q_edge=q_edge,
        q_cloud=q_cloud,
        metrics=metrics,
        weights=weights,
        pair={"edge": "pocket:edge", "cloud": "pocket:cloud"},
        metrics_sha256="",
    )
    write_artefact(content, tmp_path / "noun_count.json")
    # When the same pictures are measured with the table's yardstick
    yardstick = yardstick_of(NounCount(read_artefact(tmp_path / "noun_count.json"), tiers=TIERS))
    measured = measure(pairs_of(q_edge, q_cloud, metrics), yardstick=yardstick, weights={})
    # Then they have the PRS it was fitted to; the table keeps six decimals
    truth = prs(superiority(q_edge, q_cloud, scale=fit_scale(q_edge, q_cloud)), weights=weights)
    assert measured == pytest.approx(truth, abs=1e-4)
    assert set(yardstick.weights) == {"detail", "clarity"}


def test_the_packaged_table_has_a_yardstick_of_weights_that_sum_to_one():
    yardstick = yardstick_of(NounCount(read_artefact(packaged_artefact()), tiers=TIERS))
    content = json.loads(packaged_artefact().read_text())
    assert sum(yardstick.weights.values()) == pytest.approx(1, abs=1e-5)
    assert yardstick.spans["detail"] == pytest.approx(content["gamma"] * content["gaps"]["detail"])


@pytest.mark.parametrize("rule", [Constant, PromptLength, Random])
def test_a_rule_that_was_fitted_on_nothing_has_none(rule):
    assert yardstick_of(rule()) is None


def test_a_metric_that_does_not_decide_is_left_out():
    made = make_yardstick(("a", "b"), weights=np.array([1.0, 0.0]), spans=np.array([0.1, 0.2]))
    assert made.spans == {"a": 0.1}
