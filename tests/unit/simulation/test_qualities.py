"""Tables of qualities and the jobs drawn from them."""

import csv

import numpy as np
import pytest

from routet2i.metrics import read_metrics
from routet2i.tiers import packaged
from scheduler.datasets import read_table
from scheduler.prs import fit_scale, prs, superiority
from scheduler.simulation.qualities import law_qualities, pocket_qualities, rated_qualities
from scheduler.simulation.trace_file import OwnTrace
from scheduler.simulation.traces import DAY, draw_trace
from scheduler.simulation.traffic import make_traffic, own_traffic


def words(prompts):
    """Predict more gain for longer prompts."""
    return np.array([max(0.0, 0.6 - 0.05 * len(prompt.split())) for prompt in prompts])


@pytest.fixture
def rated(tmp_path):
    """Forty prompts on three tiers; the dearest gains with the number of words, the middle one half of it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "ratings.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "group", "tier", "metric", "value"])
        for k in range(40):
            prompt = " ".join([f"thing{k}"] * (1 + k % 8))
            for tier, lead in (("edge", 0.0), ("middle", 0.5), ("cloud", 1.0)):
                value = 0.3 + lead * 0.04 * (k % 8) + rng.normal(0, 0.01)
                writer.writerow([prompt, "", tier, "detail", value])
    return read_table(path)


def test_rated_prompts_have_the_gains_of_their_scores(rated):
    # Given a rated set
    prices = {"edge": 10, "middle": 30, "cloud": 60}
    table = rated_qualities(rated, prices=prices, predict=words)
    # Then each tier's measured gain is 1/2 - PRS on the pair's own scale
    scores = rated.labels.scores
    edge, cloud = scores[:, 0], scores[:, 2]
    expected = 0.5 - prs(superiority(edge, cloud, scale=fit_scale(edge, cloud)), weights=[1.0])
    assert np.sort(table.measured[:, 2]) == pytest.approx(np.sort(expected))
    # And the dearest is predicted as the predictor says, the middle one by its mean share, easiest first
    assert np.sort(table.predicted[:, 2]) == pytest.approx(np.sort(0.5 - words(rated.prompts)))
    share = table.predicted[:, 1] / np.where(table.predicted[:, 2] == 0, np.nan, table.predicted[:, 2])
    assert np.nanstd(share) == pytest.approx(0.0, abs=1e-12)
    assert 0 < np.nanmean(share) <= 1
    assert (np.diff(table.predicted[:, 2]) >= 0).all()
    assert table.micro_usd.tolist() == [10, 30, 60]
    assert not table.predicted[:, 0].any()
    assert not table.measured[:, 0].any()


def test_the_packaged_measurements_are_a_table():
    # Given the weights of the deciding profile
    metrics = read_metrics(packaged("metrics"))
    weights = {name: weight for name, weight in metrics.profiles[metrics.profile].items() if weight}
    # When the pocket pair's table is made with any predictor
    table = pocket_qualities(prices=[9, 65], weights=weights, predict=words)
    # Then it has the held-out prompts, and the cloud is better in the mean, as its card says
    assert len(table) == 1_000
    assert table.tiers == ("edge", "cloud")
    assert 0 < table.measured[:, 1].mean() < 0.5


@pytest.mark.parametrize("tiers", [2, 3, 4])
def test_the_law_has_rising_prices_and_falling_returns(tiers):
    table = law_qualities(tiers=tiers, seed=1)
    assert (np.diff(table.micro_usd) > 0).all()
    assert (np.diff(table.predicted.mean(axis=0)) > 0).all()
    slopes = np.diff(table.predicted.mean(axis=0)) / np.diff(table.micro_usd)
    assert (np.diff(slopes) < 0).all()
    # What is measured is what was predicted and luck
    assert (table.measured - table.predicted).mean() == pytest.approx(0.0, abs=0.01)
    assert np.abs(table.measured).max() <= 0.5


def test_the_law_refuses_other_numbers_of_tiers():
    with pytest.raises(ValueError, match="2 to 4 tiers, not 1"):
        law_qualities(tiers=1, seed=0)


def test_drawn_jobs_have_prices_by_size_and_gains_by_hardness():
    # Given a sorted trace and a drifting one
    table = law_qualities(tiers=3, seed=2)
    last, grown = (
        make_traffic(draw_trace(name, rate=0.02, seconds=DAY, seed=3), table, seed=3)
        for name in ("adversarial", "drifting")
    )
    # Then gains rise with the order, no two below the law's limit are equal, and prices grow with the jobs
    gains = last.options.gain[:, 2]
    assert (np.diff(gains[gains < 0.5]) > 0).all()
    assert (np.diff(gains) >= 0).all()
    assert (last.options.micro_usd == table.micro_usd).all()
    assert grown.options.micro_usd[-1, 2] > 1.4 * table.micro_usd[2]
    # And what is remembered is priced as it was
    assert (grown.earlier.options.micro_usd == table.micro_usd).all()


def test_a_trace_of_ones_own_has_gains_per_job_and_no_past():
    # Given two arrivals with predictions, one of three pictures
    own = OwnTrace(
        name="own",
        at=np.array([0.0, 9.0]),
        pictures=np.array([1, 3]),
        prompts=None,
        prs=np.array([0.4, 0.2]),
        rejected=(),
    )
    jobs = own_traffic(own, tiers=("edge", "cloud"), prices=[10, 60], predict=words)
    # Then prices and gains are those of all pictures
    assert jobs.options.micro_usd.tolist() == [[10, 60], [30, 180]]
    assert jobs.options.gain == pytest.approx(np.array([[0.0, 0.1], [0.0, 0.9]]))
    assert len(jobs.earlier.counts) == len(jobs.earlier.options) == 0
