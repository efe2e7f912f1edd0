"""The report of routing: experiments, fits, results, tables, targets, pictures, and the page itself."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i import figures
from scheduler.datasets import RatedSet
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features, Labels
from scheduler.predictor.fitting import Recipe, Source, fit
from scheduler.predictor.network import NetworkConfig
from scheduler.predictor.pocket_world import INSPECTOR, metric_names
from scheduler.predictor.trained import read_trained
from scheduler.routing import document, entrants, judging, pocket, rated, speed, tables
from scheduler.routing.cases import BEST, CEILING, IDEAL, ORACLE, RANDOM, case_of, intraclass, others_mean
from scheduler.routing.entrants import METHOD, Entrant
from scheduler.routing.experiment import Experiment, Judge, cross_validation, outcomes_of
from scheduler.routing.fits import fit_all, plan
from scheduler.routing.judging import SHUFFLED, learned, measured
from scheduler.routing.plots import draw_learning, draw_quality, draw_reliability, quality
from scheduler.routing.pocket import PocketTable
from scheduler.routing.published import HEADING, PUBLISHED
from scheduler.routing.results import DIGITS, Result, Results, read_results, rounded, write_results
from scheduler.routing.shipped import recipe_of, shipped_prs
from scheduler.routing.targets import target_figures

ROOT = Path(__file__).parents[2]
PAGE, REPORT, TARGETS = (
    ROOT / name for name in ("docs/routing.md", "reports/routing.csv", "reports/routing.json")
)
COUNT, WIDTH, PICTURES = 60, 6, 3
SMALL = Recipe(
    network=NetworkConfig(members=1, inner=8, layers=0, heads=1, top_k=2, rank=2, gate_width=4), epochs=1
)
FEW = (*(one for one in entrants.baselines(tags=True) if one.name in ("ridge", "prompt_length", "tag_only")),)


def experiment(*, seeds=2, pictures=PICTURES):
    """A world in which long prompts gain on the cloud: every token adds to one number of the states."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, size=COUNT)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.normal(scale=0.1, size=(offsets[-1], WIDTH)).astype(np.float16)
    tokens[:, 0] += np.repeat(lengths / 9, lengths).astype(np.float16)
    features = Features(
        prompts=tuple(f"prompt {k}" for k in range(COUNT)),
        tokens=tokens,
        offsets=offsets,
        tags=tuple(("long",) if length > 5 else () for length in lengths),
    )
    lead = 0.04 * (lengths - 5)[:, None, None]  # of the cloud
    cloud = np.clip(0.5 + lead + rng.normal(scale=0.05, size=(COUNT, pictures, 2)), 0, 1)
    edge = np.clip(0.5 + rng.normal(scale=0.05, size=(COUNT, pictures, 2)), 0, 1)
    scores = np.stack([edge, cloud], axis=2)  # (n, R, 2, N)
    weights = np.array([0.5, 0.5])
    groups = np.arange(COUNT) // 2
    return Experiment(
        part="pocket",
        name="small world",
        pair="edge -> cloud",
        features={"minilm": features},
        labels=Labels(tiers=("edge", "cloud"), metrics=("a", "b"), scores=scores[:, 0], weights=weights),
        groups=groups,
        splits=cross_validation(groups, folds=3, seeds=seeds),
        judges=(
            Judge(name="its own metrics", metrics=("a", "b"), weights=weights, scores=scores),
            Judge(
                name="inspector",
                metrics=("a",),
                weights=np.ones(1),
                scores=scores[..., :1],
                unit="share",
                stretch=(0.0, 5.0),
            ),
        ),
    )


@pytest.fixture(scope="module")
def fitted():
    """An experiment, and what a few entrants say of its prompts."""
    one = experiment()
    competing = [[*FEW, *entrants.method(SMALL)]]
    fits = [
        *plan([one], entrants=competing),
        *plan([one], entrants=[[own for own in competing[0] if own.name == "ridge"]], shares=(0.5,), seeds=1),
    ]
    return one, fit_all([one], fits, processes=1)


@pytest.fixture(scope="module")
def results(fitted):
    """All rows of that experiment, with its learning curve."""
    one, predictions = fitted
    cases = [case_of(one, judge, predictions=predictions) for judge in one.judges]
    rows = [row for found in measured(cases, resamples=40, processes=1) for row in found]
    return Results([*rows, *learned(one, predictions=predictions, resamples=10)])


def test_every_test_prompt_gets_a_prediction_of_every_seed(fitted):
    _, predictions = fitted
    assert {router for _, router, share in predictions if share == 1.0} == {
        *("ridge", "prompt_length", "tag_only"),
        METHOD,
    }
    for (_, _, share), table in predictions.items():
        assert table.shape == (2, COUNT)
        tried = table if share == 1.0 else table[:1]
        assert ((tried >= 0) & (tried <= 1)).all()


def test_no_group_stands_on_both_sides_of_a_split():
    one = experiment(seeds=3)
    for folds in one.splits:
        assert np.sort(np.concatenate([split.test for split in folds])).tolist() == list(range(COUNT))
        for split in folds:
            assert not set(one.groups[split.train]) & set(one.groups[split.test])


def test_outcomes_have_a_row_per_picture_and_a_group_per_prompt():
    one = experiment()
    outcomes, prompts = outcomes_of(one, one.judges[0])
    assert np.bincount(prompts).tolist() == [PICTURES] * COUNT
    assert (outcomes.groups == one.groups[prompts]).all()
    # and the values are those that the judge gave
    first = np.flatnonzero(prompts == 7)
    assert np.sort(outcomes.q_edge[first, 0]) == pytest.approx(np.sort(one.judges[0].scores[7, :, 0, 0]))


def test_a_routers_rows_stand_beside_random_the_ceiling_and_the_oracle(results):
    own = results.of(judge="its own metrics")
    assert set(own.names("router")) >= {RANDOM, CEILING, IDEAL, ORACLE, METHOD, "ridge", f"{METHOD} - ridge"}
    values = {
        name: own.one(router=name, figure="oracle_share@50").value for name in (RANDOM, "ridge", ORACLE)
    }
    # Then random gains nothing, and who knows the law comes between it and the oracle
    assert values[RANDOM] == pytest.approx(0, abs=1e-6)
    assert 0.3 < values["ridge"] < values[ORACLE] <= 1
    # and a router that sees the cause beats its own shuffles
    assert own.one(router="ridge", figure=SHUFFLED).value < 0.05
    # and nobody has more delta-P than the oracle of delta-P
    assert (
        own.one(router=BEST, figure="delta_p@50").value >= own.one(router=ORACLE, figure="delta_p@50").value
    )
    # and two hundred random orders gain about nothing
    assert own.one(router="random, 200 draws", figure="oracle_share@50").value == pytest.approx(0, abs=0.05)


def test_a_learning_curve_has_a_point_per_share(results):
    curve = results.of(judge=judging.LEARNING)
    assert [(row.router, row.figure) for row in curve.rows] == [
        ("ridge", "curve@50%"),
        ("ridge", "curve@100%"),
    ]


def test_the_ceiling_knows_other_pictures_and_never_its_own():
    # Given three pictures of two prompts, the second prompt's third one a lucky one
    gain, prompts = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 9.0]), np.array([0, 0, 0, 1, 1, 1])
    ranking = others_mean(gain, prompts)
    # Then the lucky one is ranked by the others' luck, and the others by its own
    assert ranking[5] == 0.5
    assert ranking[3] == ranking[4] == 0.0
    assert ranking[0] == pytest.approx(0.5 - 0.5 / 4.5)


@settings(max_examples=10, deadline=None)  # each draws 16000 numbers
@given(st.floats(0.05, 0.95))
def test_the_share_of_variance_that_is_the_prompts_own_is_found(share):
    rng = np.random.default_rng(1)
    own = np.repeat(rng.normal(size=4000), 4) * share**0.5
    gain = own + rng.normal(size=16000) * (1 - share) ** 0.5
    assert intraclass(gain, np.repeat(np.arange(4000), 4)) == pytest.approx(share, abs=0.05)


def test_results_are_read_as_they_were_written(tmp_path, results):
    write_results(tmp_path / "reports" / "x.csv", results.rows)
    assert read_results(tmp_path / "reports" / "x.csv") == list(results.rows)
    assert read_results(tmp_path / "none.csv") == []


@given(st.floats(-1e6, 1e6))
def test_a_rounded_number_is_written_with_all_its_digits(value):
    once = rounded(value)
    assert rounded(once) == once == float(f"{value:.{DIGITS}g}")


def test_a_table_has_a_row_per_router_ours_in_bold_and_seers_last(results):
    lines = tables.headline(results.of(judge="its own metrics")).splitlines()
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names[0] == RANDOM
    assert names[-4:] == [CEILING, IDEAL, BEST, ORACLE]
    assert f"**{METHOD}**" in names
    assert not [name for name in names if " - " in name or name.startswith("all_")]


def test_a_cell_shows_an_interval_or_says_why_there_is_no_number():
    row = Result(part="p", data="d", judge="j", router="r", figure="f", value=0.5, low=0.25, high=0.75)
    assert tables.cell(row) == "0.500 (0.250 to 0.750)"
    assert tables.cell(replace(row, low=None)) == "0.500"
    assert tables.cell(replace(row, value=None, note="not_reached")) == "never"
    assert tables.cell(None) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.1234, "0.123"), (3.456, "3.46"), (45.67, "45.7"), (1234.5, "1234")]
)
def test_numbers_are_short_and_have_no_exponent(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "no difference seen")]
)
def test_a_difference_within_its_interval_is_none(low, high, said):
    row = Result(
        part="p", data="d", judge="j", router="r", figure="oracle_share@50", value=0.1, low=low, high=high
    )
    assert tables.verdict(Results([row])) == said


def test_targets_are_judged_by_the_results(results):
    # When the small world is held against what was wanted of the pocket world
    found = {one.figure: one for one in target_figures(results)}
    # Then its share of the oracle's gain is there, with the verdict that the number deserves
    share = found["small world, edge -> cloud: share of oracle gain at 50 %"]
    assert share.holds == (share.value >= 0.8)
    assert "ridge" in share.baseline
    assert found["small world, edge -> cloud: the same, judged by the inspector"].target == "at least 0.7"


def test_a_page_is_made_of_its_blocks_and_keeps_the_words_between(results):
    # Given a page with words of its own and old tables
    text = document.started().replace("# Routing\n", "# Routing\n\nWords.\n")
    old = text.replace("<!-- routing: pocket -->\n", "<!-- routing: pocket -->\nstale\n")
    # When it is refreshed
    new = document.refreshed(old, results=results)
    # Then tables and commands stand there, the words stay, and a second time changes nothing
    assert "stale" not in new
    assert "Words." in new
    assert tables.headline(results.of(judge="inspector")) in new
    assert "Printed by `make routing`." in new
    assert document.NOT_MEASURED in new
    assert document.refreshed(new, results=results) == new


def test_the_papers_numbers_stand_in_tables_of_their_own():
    page = document.refreshed(document.started(), results=Results([]))
    assert f"**{HEADING}**\n\n{PUBLISHED}" in page
    assert "83.97" in PUBLISHED
    assert page.count("83.97") == 1


def test_variants_change_one_part_each():
    changed = entrants.ablations(SMALL)
    assert len({one.name for one in changed}) == len(changed) == 9
    assert all(one.make().name == one.name for one in changed)


def test_another_encoder_gives_the_ridge_a_second_row():
    names = [one.name for one in entrants.baselines(encoder="pocket:edge")]
    assert "ridge" in names
    assert "ridge on pocket:edge" in names
    assert entrants.TAGS not in names


def test_all_routers_of_the_specification_compete():
    names = {one.name for one in (*entrants.baselines(tags=True), *entrants.method())}
    assert names == {
        *("noun_count", "prompt_length", "tag_only", "knn", "ridge"),
        *("routellm_bert", "routellm_mf", "hybrid_llm", "zooter", "routet2i"),
    }


def test_a_mere_ranking_is_made_isotonic():
    for one in entrants.baselines(tags=True):
        assert one.make().calibrated


def test_pictures_are_drawn(tmp_path, fitted, results):
    one, predictions = fitted
    cases = [case_of(one, judge, predictions=predictions) for judge in one.judges]
    draw_quality(tmp_path / "quality.png", cases, title="small")
    draw_reliability(tmp_path / "reliability.png", cases, routers=("ridge", METHOD))
    draw_learning(tmp_path / "learning.png", results.of(judge=judging.LEARNING))
    assert {path.name for path in tmp_path.iterdir()} == {"quality.png", "reliability.png", "learning.png"}


def test_a_curve_begins_on_the_edge_and_ends_in_the_cloud_in_the_judges_unit(fitted):
    one, predictions = fitted
    case = case_of(one, one.judges[1], predictions=predictions)
    x, y = quality(case, case.rankings[RANDOM])
    assert (x[0], x[-1]) == (0, 1)
    assert y[0] == pytest.approx(5 * case.outcomes.q_edge.mean())
    assert y[-1] == pytest.approx(5 * case.outcomes.q_cloud.mean())


def test_an_entrant_that_learns_from_all_tiers_sees_all():
    seen = []

    class Spy:
        name, calibrated = "spy", True

        def fit(self, features, labels, *, groups, seed):
            seen.append(labels.tiers)

        def predict(self, features):
            from scheduler.predictor.routers import RoutePrediction

            return RoutePrediction(prs_hat=np.full(len(features), 0.5))

    one = experiment(seeds=1)
    three = Labels(
        tiers=("edge", "middle", "cloud"),
        metrics=one.labels.metrics,
        scores=one.labels.scores[:, [0, 0, 1]],
        weights=one.labels.weights,
    )
    one = replace(one, every_tier=three)
    both = [Entrant(name="pair", make=Spy), Entrant(name="all", make=Spy, every_tier=True)]
    fit_all([one], plan([one], entrants=[both]), processes=1)
    assert set(seen[:3]) == {("edge", "cloud")}
    assert set(seen[3:]) == {("edge", "middle", "cloud")}


def pocket_table(*, train=12, test=6, pictures=2):
    names = metric_names()
    rng = np.random.default_rng(0)
    return PocketTable(
        train_prompts=tuple(f"train {k}" for k in range(train)),
        train_scores=rng.uniform(size=(train, 2, len(names))),
        test_prompts=tuple(f"test {k}" for k in range(test)),
        test_scores=rng.uniform(size=(test, pictures, 2, len(names))),
        metrics=names,
    )


def test_the_pocket_world_has_both_profiles_and_the_inspector_never_teaches(tmp_path):
    # Given a small table
    table = pocket_table()
    # When its experiments are made, the deciding profile first
    aligned, paper, variants = pocket.pocket_experiments(table, encoders=(), cache=tmp_path, seeds=2)
    # Then routers learn from the profile's metrics, and held-out scenes have all their pictures
    assert (len(aligned.labels.metrics), len(paper.labels.metrics)) == (11, 10)
    assert aligned.labels.weights[-1] == pytest.approx(0.5)  # alignment
    assert [judge.name for judge in paper.judges] == [pocket.OWN, INSPECTOR]
    assert INSPECTOR not in aligned.labels.metrics
    assert variants.ablations
    assert [judge.name for judge in variants.judges] == [pocket.OWN]
    assert len(aligned.splits) == 2
    assert aligned.splits[0][0].test.tolist() == list(range(12, 18))
    outcomes, prompts = outcomes_of(aligned, aligned.judges[1])
    assert outcomes.q_cloud[prompts == 12, 0] == pytest.approx(table.test_scores[0, :, 1, -1])


def test_a_table_of_the_pocket_world_is_read_as_it_was_written(tmp_path):
    table = pocket_table()
    np.savez(
        tmp_path / "table.npz",
        **{name: np.array(getattr(table, name)) for name in PocketTable.__dataclass_fields__},
    )
    again = pocket.read_pocket_table(tmp_path / "table.npz")
    assert again.train_prompts == table.train_prompts
    assert again.metrics == table.metrics
    assert (again.test_scores == table.test_scores).all()
    assert len(again.head(3).train_prompts) == len(again.head(3).test_scores) == 3


def test_a_rated_pair_keeps_its_raters_and_all_tiers_edge_first_and_cloud_last():
    # Given ratings of three tiers
    rng = np.random.default_rng(0)
    ratings = rng.uniform(size=(20, 3, 3))
    set_ = RatedSet(
        name="some",
        prompts=tuple(f"prompt {k}" for k in range(20)),
        labels=Labels(
            tiers=("a", "b", "c"),
            metrics=("human",),
            scores=ratings.mean(axis=2)[..., None],
            weights=np.ones(1),
        ),
        groups=np.arange(20),
        ranges=((1.0, 5.0),),
        ratings=ratings,
    )
    # When one pair of them is asked about
    one = rated.rated_experiment(set_, features={}, pair=("c", "a"), metric="human", seeds=1)
    # Then labels, ratings and judge are the pair's, and who learns from all tiers finds it at the ends
    assert one.labels.tiers == ("c", "a")
    assert one.every_tier.tiers == ("c", "b", "a")
    assert (one.every_tier.scores[:, [0, -1]] == one.labels.scores).all()
    assert (one.ratings == ratings[:, [2, 0]]).all()
    assert one.judges[0].stretch == (1.0, 5.0)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """A folder with a tiny predictor for the pocket edge tier's own text encoder."""
    prompts = [
        f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "square", "star")
    ] * 4
    encoder = load_encoder("pocket:edge")
    tokens, offsets = encoder.encode(prompts)
    features = Features(prompts=tuple(prompts), tokens=tokens, offsets=offsets)
    rng = np.random.default_rng(0)
    labels = Labels(
        tiers=("edge", "cloud"),
        metrics=("a", "b"),
        scores=rng.uniform(size=(24, 2, 2)),
        weights=np.full(2, 0.5),
    )
    source = Source(encoder="pocket:edge", encoder_sha256=encoder.fingerprint)
    folder = tmp_path_factory.mktemp("predictors") / "tiny"
    fit(features, labels, groups=np.arange(24), seed=0, recipe=SMALL, source=source).write(folder)
    return folder, features


def test_speed_is_told_by_part_with_sizes(artefact):
    folder, _ = artefact
    rows = Results(speed.speed_results(folder, prompts=[f"a red circle {k}" for k in range(70)]))
    assert rows.names("data") == ["tiny"]
    both = rows.one(figure="prompts/s in batches of 64").value
    parts = [rows.one(figure=f"{part}, ms per prompt").value for part in ("encoder", "network")]
    assert both == pytest.approx(1000 / sum(parts), rel=1e-3)
    assert rows.one(figure="1 prompts, p50, ms").value <= rows.one(figure="1 prompts, p95, ms").value
    trained, whole = (
        rows.one(figure=name).value for name in ("trained parameters", "parameters with the encoder")
    )
    assert 0 < trained < whole
    # and the targets of speed and size are judged by it
    assert [one.holds for one in target_figures(rows)][1:] == [True, True]


def test_a_shipped_predictor_speaks_for_an_experiment_by_its_weights(artefact):
    # Given a shipped predictor and an experiment that looks at one of its metrics only
    folder, features = artefact
    trained = read_trained(folder)
    one = replace(
        experiment(),
        features={"pocket:edge": features},
        labels=Labels(
            tiers=("edge", "cloud"), metrics=("b",), scores=np.zeros((24, 2, 1)), weights=np.ones(1)
        ),
    )
    # Then its word on that metric counts; and where it knows none of them, its own weights do
    d_hat = trained.d_hat(trained.z(features))
    assert shipped_prs(trained, one) == pytest.approx(d_hat[:, 1])
    other = replace(one, labels=replace(one.labels, metrics=("unknown",)))
    assert shipped_prs(trained, other) == pytest.approx(d_hat @ trained.weights)
    assert recipe_of(trained) == SMALL


def test_the_pages_tables_are_those_of_the_reports():
    text = PAGE.read_text(encoding="utf-8")
    again = document.refreshed(text, results=Results(read_results(REPORT)))
    assert figures.refreshed(again, root=ROOT) == text, "type: make routing"


def test_the_targets_are_those_of_the_results():
    assert target_figures(Results(read_results(REPORT))) == figures.read_report(TARGETS)


def test_the_page_has_every_block():
    named = {match[2] for match in document.MARKED.finditer(PAGE.read_text(encoding="utf-8"))}
    assert named == set(document.BLOCKS)


def test_the_page_shows_every_picture_and_each_exists():
    shown = set(re.findall(r"\]\((routing-[^)]+\.png)\)", PAGE.read_text(encoding="utf-8")))
    assert shown == {path.name for path in PAGE.parent.glob("routing-*.png")}
