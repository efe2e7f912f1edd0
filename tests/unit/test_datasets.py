"""Rated sets, near-duplicates, folds, and the synthetic world; nothing here reads the real data."""

import csv
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.errors import UsageError
from scheduler import synthetic
from scheduler.datasets import read_agiqa3k, read_genai_bench, read_table, read_tifa160
from scheduler.folds import LARGEST_COUNT, grouped_folds, near_duplicates, prompt_groups, words_of
from scheduler.predictor.routers import fit_pair, truth_of
from scheduler.prs import fit_scale

PAIR = ("small", "large")
TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6).map(" ".join), min_size=1, max_size=14)


def write(path, header, rows, *, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def table(tmp_path, *lines, header="prompt,group,tier,metric,value"):
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def genai(tmp_path):
    """Two rated prompts and one that lacks a model, in the columns of GenAI-Bench."""
    write(
        tmp_path / "prompts.tsv",
        ("prompt_id", "prompt", "skills"),
        [("00", "a red fox", "basic|attribute"), ("01", 'no "dog", here', ""), ("02", "lamp", "basic")],
        delimiter="\t",
    )
    rows = [
        ("00", "small", 1, 2, 3, 2.0),
        ("00", "large", 5, 5, 5, 5.0),
        ("01", "small", 3, 3, 3, 3.0),
        ("01", "large", 1, 1, 1, 1.0),
        ("02", "small", 4, 4, 4, 4.0),
    ]
    write(tmp_path / "scores_long.csv", ("prompt_id", "model", "r1", "r2", "r3", "mean"), rows)
    return tmp_path


def test_genai_bench_is_read_with_its_raters_and_skills(genai):
    # When a pair is read
    rated = read_genai_bench(genai, models=PAIR)
    # Then the scale of 1 to 5 has become [0, 1], and the prompt that lacks a model is left out
    assert rated.prompts == ("a red fox", 'no "dog", here')
    assert rated.labels.tiers == PAIR
    assert rated.labels.scores[..., 0].tolist() == [[0.25, 1.0], [0.5, 0.0]]
    assert rated.ratings[0].tolist() == [[0.0, 0.25, 0.5], [1.0, 1.0, 1.0]]
    assert rated.tags == (("basic", "attribute"), ())
    assert (rated.dropped, len(rated)) == (1, 2)
    assert rated.ranges == ((1.0, 5.0),)


def test_tiers_come_in_the_order_asked_for(genai):
    rated = read_genai_bench(genai, models=("large", "small"))
    assert rated.labels.scores[0, :, 0].tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("models", "message"),
    [(("small", "huge"), r"no scores of tier 'huge'.*large, small"), (("small", "small"), "two different")],
)
def test_models_that_are_not_there_are_refused(genai, models, message):
    with pytest.raises(UsageError, match=message):
        read_genai_bench(genai, models=models)


def test_scores_of_an_unknown_prompt_are_refused(genai):
    write(genai / "prompts.tsv", ("prompt_id", "prompt", "skills"), [("00", "a red fox", "")], delimiter="\t")
    with pytest.raises(UsageError, match="no prompt '01'"):
        read_genai_bench(genai, models=PAIR)


def test_agiqa_is_read_at_normal_settings_only(tmp_path):
    # Given pictures at two settings, one model missing for one prompt
    header = ("name", "prompt", "style", "mos_quality", "mos_align", "model", "config", "pid")
    rows = [
        ("n", "a cat", "", 2.5, 5, "small", "normal", "000"),
        ("n", "a cat", "", 0.5, 0, "small", "lowstep", "000"),
        ("n", "a cat", "", 5, 0, "large", "normal", "000"),
        ("n", "a dog, baroque style", "baroque style", 1, 1, "small", "normal", "001"),
    ]
    write(tmp_path / "scores_long.csv", header, rows)
    # When it is read
    rated = read_agiqa3k(tmp_path, models=PAIR)
    # Then only normal settings count, in units of the scale
    assert rated.labels.metrics == ("quality", "align")
    assert rated.labels.scores.tolist() == [[[0.5, 1.0], [1.0, 0.0]]]
    assert rated.tags == (("no style",),)
    assert rated.dropped == 1
    assert read_agiqa3k(tmp_path, models=PAIR, metrics=("align",)).labels.scores.shape == (1, 2, 1)
    with pytest.raises(UsageError, match="mos_beauty"):
        read_agiqa3k(tmp_path, models=PAIR, metrics=("beauty",))


def test_tifa_is_read_with_both_ratings_and_its_sources(tmp_path):
    header = ("text_id", "text", "human_avg", "model", "dsg_likert")
    rows = [
        ("coco_1", "a tree", 5.0, "small", 3.0),
        ("coco_1", "a tree", 3.0, "large", 1.0),
        ("drawbench_2", "a bus", 3.0, "small", ""),
        ("drawbench_2", "a bus", 3.0, "large", 2.0),
    ]
    write(tmp_path / "scores_long.csv", header, rows)
    rated = read_tifa160(tmp_path, models=PAIR)
    assert rated.labels.scores.tolist() == [[[1.0, 0.5], [0.5, 0.0]]]
    assert (rated.tags, rated.dropped) == ((("coco",),), 1)
    assert len(read_tifa160(tmp_path, models=PAIR, metrics=("human",))) == 2
    with pytest.raises(UsageError, match="human, dsg"):
        read_tifa160(tmp_path, models=PAIR, metrics=("clip",))


def test_anybodys_table_is_read(tmp_path):
    # Given two tiers, two metrics, two raters of one picture, and a prompt that one tier lacks
    path = table(
        tmp_path,
        '"a cat, sitting",g1,edge,look,0.5',
        '"a cat, sitting",g1,cloud,look,0.25',
        '"a cat, sitting",g1,cloud,look,0.75',
        '"a cat, sitting",g1,edge,text,1',
        '"a cat, sitting",g1,cloud,text,5',
        "",
        "two dogs,g1,edge,look,1",
        "two dogs,g1,cloud,look,0",
        "two dogs,g1,edge,text,3",
        "two dogs,g1,cloud,text,3",
        "alone,,edge,look,0.5",
    )
    # When it is read, one metric having a scale of 1 to 5
    rated = read_table(path, ranges={"text": (1, 5)}, weights={"text": 3, "look": 1})
    # Then values are averaged and scaled, and the group is kept
    assert rated.prompts == ("a cat, sitting", "two dogs")
    assert (rated.labels.tiers, rated.labels.metrics) == (("edge", "cloud"), ("look", "text"))
    assert rated.labels.scores.tolist() == [[[0.5, 0.0], [0.5, 1.0]], [[1.0, 0.5], [0.0, 0.5]]]
    assert rated.labels.weights.tolist() == [0.25, 0.75]
    assert rated.groups.tolist() == [0, 0]
    assert (rated.name, rated.dropped, rated.tags) == ("ratings", 1, None)


def test_a_table_needs_no_groups_and_no_order_of_columns(tmp_path):
    path = table(tmp_path, "1,q,edge,x", "0,q,cloud,x", header="value,metric,tier,prompt")
    rated = read_table(path, tiers=("cloud", "edge"))
    assert rated.labels.scores[0, :, 0].tolist() == [0.0, 1.0]


def test_the_range_of_a_metric_does_not_change_prs(tmp_path):
    # Given ratings from 1 to 5
    rng = np.random.default_rng(0)
    lines = [
        f"prompt number {k},,{tier},{metric},{rng.integers(1, 6)}"
        for k in range(30)
        for tier in ("edge", "cloud")
        for metric in ("look", "text")
    ]
    path = table(tmp_path, *lines)
    # When they are read with their range and without
    named = read_table(path, ranges={"look": (1, 5), "text": (1, 5)})
    bare = read_table(path)
    # Then the PRS are the same
    assert bare.ranges == ((0.0, 5.0), (0.0, 5.0))
    first, second = (truth_of(one.labels, scale=fit_pair(one.labels)).prs for one in (named, bare))
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["x,,edge,q,good"], {}, r"line 2: 'good' is no finite number; write one"),
        (["x,,edge,q,nan"], {}, r"line 2: 'nan' is no finite number"),
        (["x,,edge,q,1", "y,,edge,q"], {}, r"line 3: 4 columns instead of 5; put a text"),
        (["a, b,,edge,q,1"], {}, r"line 2: 6 columns instead of 5"),
        (["x,,edge,q,1", ",,edge,q,1"], {}, r"line 3: prompt is empty; fill it in"),
        (["x,g,edge,q,1", "x,h,cloud,q,1"], {}, r"line 3: .*'g' before and is in 'h' now; give one"),
        (["x,,edge,q,7"], {"ranges": {"q": (1, 5)}}, r"line 2: value 7.0 of metric 'q' is outside.*1 to 5"),
        (["x,,edge,q,1"], {"ranges": {"q": (5, 1)}}, r"5 to 1 of metric 'q' is empty"),
        (["x,,edge,q,1"], {}, r"at least two different tiers, not edge"),
        ([], {}, r"at least two different tiers, not none"),
        (["x,,edge,q,1", "y,,cloud,q,1"], {}, r"not one prompt has all of 1 metrics on all of edge, cloud"),
        (["x,,edge,q,1", "x,,cloud,q,1"], {"tiers": ("edge", "sky")}, r"no scores of tier 'sky'"),
        (["x,,edge,q,1", "x,,cloud,q,1"], {"weights": {"z": 1}}, r"no metric 'z'; it has q"),
        (["x,,edge,q,1", '"x,,cloud,q,1'], {}, r"line 3: .*check the quotes"),
    ],
)
def test_a_table_that_cannot_be_used_says_where_why_and_what_to_do(tmp_path, lines, options, message):
    with pytest.raises(UsageError, match=message):
        read_table(table(tmp_path, *lines), **options)


def test_a_file_that_is_no_table_says_so(tmp_path):
    with pytest.raises(UsageError, match="check the path"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="no column 'tier'; write a header with prompt,tier,metric,value"):
        read_table(table(tmp_path, "x,y", header="prompt,metric"))
    (tmp_path / "latin.csv").write_bytes("prompt,tier,metric,value\ncafé,e,q,1\n".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_table(tmp_path / "latin.csv")


@settings(max_examples=200)
@given(TEXTS, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_groups_are_the_connected_components_of_similar_prompts(prompts, jaccard):
    # Given the relation, pair by pair, and its closure
    sets = [words_of(prompt) for prompt in prompts]
    reach = np.eye(len(prompts), dtype=bool)
    for i, j in combinations(range(len(prompts)), 2):
        shared, union = len(sets[i] & sets[j]), len(sets[i] | sets[j])
        reach[i, j] = reach[j, i] = shared >= jaccard * union - 1e-9
    for _ in prompts:
        reach |= (reach.astype(int) @ reach.astype(int)) > 0
    # When the groups are made with the index, then they are the same
    groups = near_duplicates(prompts, jaccard=jaccard)
    assert ((groups[:, None] == groups[None, :]) == reach).all()


def test_case_and_punctuation_do_not_make_another_prompt():
    assert near_duplicates(["A red fox!", "a RED fox", "a blue fox"]).tolist() == [0, 0, 1]
    assert near_duplicates(["...", "???", "..."]).tolist() == [0, 1, 0]


def test_prompts_of_one_template_are_grouped_by_their_words_alone():
    # Given prompts that differ in two words of eight, so that chains of neighbours join them all
    colours, things = ("red", "green", "blue", "white", "black"), ("circle", "star", "cube", "ring")
    prompts = [f"a small {c} {t} on a plain grey ground" for c in colours for t in things]
    prompts += [prompts[0].upper(), prompts[1] + "!"]
    assert near_duplicates(prompts).max() == 0
    # When they are grouped for folds
    groups = prompt_groups(prompts, given=["", "", "mine", "mine", *[""] * 18])
    # Then only equal words, and what was given as one group, stay together
    assert groups[20] == groups[0]
    assert groups[21] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups.tolist())) == 19


def test_a_few_near_duplicates_are_no_template():
    # Given as many near-duplicates as a small set may have, and others
    same = [f"a red circle left of a blue square and a star {k}" for k in range(LARGEST_COUNT)]
    # Then they stay one group, however few others there are
    assert prompt_groups([*same, "snow"]).tolist() == [0] * LARGEST_COUNT + [1]


def test_given_groups_join_what_words_do_not():
    assert near_duplicates(["a", "b", "c", "c"], given=["x", "x", "", ""]).tolist() == [0, 0, 1, 1]
    assert near_duplicates(["a b c", "b c a", "d", "e"], given=["x", "", "x", ""]).tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="given"):
        near_duplicates(["a"], given=[])
    with pytest.raises(ValueError, match="jaccard"):
        near_duplicates(["a"], jaccard=0)


@given(st.lists(st.integers(0, 15), min_size=2, max_size=60), st.integers(2, 5), st.integers(0, 9))
def test_no_group_crosses_folds_and_no_fold_is_empty(groups, folds, seed):
    array = np.array(groups, dtype=np.int64)
    if len(set(groups)) < folds:
        with pytest.raises(ValueError, match="groups of prompts"):
            grouped_folds(array, folds=folds, seed=seed)
        return
    assigned = grouped_folds(array, folds=folds, seed=seed)
    assert set(assigned) == set(range(folds))
    for group in set(groups):
        assert len(set(assigned[array == group])) == 1


def test_folds_are_of_nearly_equal_size_and_follow_the_seed():
    groups = np.random.default_rng(0).integers(0, 200, size=1000)
    first, again, other = (grouped_folds(groups, folds=5, seed=seed) for seed in (1, 1, 2))
    assert np.ptp(np.bincount(first)) <= 2
    assert (first == again).all()
    assert not (first == other).all()


@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=40).filter(lambda groups: len(set(groups)) > 2),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_does_not_move_a_group_to_another_fold(groups, random):
    array = np.array(groups, dtype=np.int64)
    order = list(range(len(groups)))
    random.shuffle(order)
    folds = grouped_folds(array, folds=3, seed=0)
    assert (grouped_folds(array[order], folds=3, seed=0) == folds[order]).all()


def test_the_synthetic_world_is_what_it_says():
    # Given many prompts
    world = synthetic.draw(4000, metrics=10, noise_share=0.5, seed=0)
    # When both tiers are measured
    labels = world.measure(seed=1)
    edge, cloud = labels.scores[:, 0], labels.scores[:, 1]
    # Then mean gaps, reversal, spread and noise are those of the specification
    gaps = (cloud - edge).mean(axis=0)
    assert gaps[:-1] == pytest.approx(np.linspace(0.01, 0.03, 10)[:-1], abs=0.006)  # four standard errors
    assert gaps[-1] == pytest.approx(-0.03, abs=0.006)
    spread = np.sqrt((edge.var(axis=0) + cloud.var(axis=0)) / 2)
    assert spread == pytest.approx(np.full(10, 0.1), abs=0.005)
    unexplained = ((edge - cloud) - world.lead).var(axis=0) / (edge - cloud).var(axis=0)
    assert unexplained == pytest.approx(np.full(10, 0.5), abs=0.04)


def test_more_complex_prompts_leave_the_edge_behind():
    world = synthetic.draw(1000, seed=3)
    words = np.array([len(prompt.split()) for prompt in world.prompts])
    assert np.corrcoef(words, world.lead.mean(axis=1))[0, 1] < -0.5
    assert any("relation" in tags for tags in world.tags)


def test_the_bayes_router_is_the_mean_of_what_is_measured():
    # Given one law and the constants of a training set
    world = synthetic.draw(60, metrics=3, noise_share=0.6, seed=5)
    training = synthetic.draw(500, metrics=3, noise_share=0.6, seed=6).measure(seed=7)
    scale = fit_scale(training.scores[:, 0], training.scores[:, 1])
    bayes = world.bayes(scale=scale, weights=training.weights)
    # When the same prompts are measured many times
    draws = np.stack([truth_of(world.measure(seed=k), scale=scale).prs for k in range(1500)])
    # Then the mean PRS of each prompt is what the Bayes router says, within four standard errors
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - bayes.prs_hat) < 4 * error + 1e-3).all()


def test_no_rule_has_a_smaller_error_than_the_bayes_router():
    world = synthetic.draw(2000, noise_share=0.7, seed=8)
    labels = world.measure(seed=9)
    scale = fit_pair(labels)
    truth = truth_of(labels, scale=scale).prs
    bayes = world.bayes(scale=scale, weights=labels.weights).prs_hat
    words = np.array([len(prompt.split()) for prompt in world.prompts], dtype=np.float64)
    line = np.polyval(np.polyfit(words, truth, 1), words)
    assert ((bayes - truth) ** 2).mean() < ((line - truth) ** 2).mean() < truth.var()


def test_without_noise_the_bayes_router_knows_all_and_with_noise_alone_nothing():
    certain = synthetic.draw(50, noise_share=0.0, seed=1)
    labels = certain.measure(seed=2)
    scale = fit_pair(labels)
    truth = truth_of(labels, scale=scale).prs
    assert certain.bayes(scale=scale, weights=labels.weights).prs_hat == pytest.approx(truth, abs=1e-3)
    chance = synthetic.draw(50, noise_share=1.0, seed=1)
    assert np.ptp(chance.bayes(scale=scale, weights=labels.weights).prs_hat) == pytest.approx(0)


def test_the_same_seed_draws_the_same_world():
    first, second = (synthetic.draw(20, seed=4) for _ in range(2))
    assert first.prompts == second.prompts
    assert (first.measure(seed=1).scores == second.measure(seed=1).scores).all()
    assert not (first.measure(seed=1).scores == first.measure(seed=2).scores).all()


@pytest.mark.parametrize("wrong", [{"count": 0}, {"metrics": 0}, {"noise_share": 1.5}])
def test_a_world_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="noise share"):
        synthetic.draw(**({"count": 5, "seed": 0} | wrong))
