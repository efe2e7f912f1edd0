import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.pocket import world
from routet2i.pocket.inspector import lab
from routet2i.pocket.world import Fact, Scene, Thing

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, world.MAX_OBJECTS)


def a_thing(**changes: str) -> Thing:
    return Thing(**({"colour": "red", "shape": "circle", "size": "small", "place": "middle"} | changes))


def described(scene: Scene) -> list[tuple[str, ...]]:
    return [(thing.colour, thing.shape, thing.size, thing.place) for thing in scene.things]


def meaning(phrases: dict[str, tuple[str, ...]], text: str) -> set[str]:
    return {name for name, options in phrases.items() for phrase in options if f" {phrase} " in f" {text} "}


def test_every_object_colour_can_be_told_from_every_other_colour_and_background() -> None:
    # Given the palettes in Lab
    palette = {**world.BACKGROUNDS, **world.COLOURS}
    points = {name: lab(np.array(rgb, dtype=np.uint8)) for name, rgb in palette.items()}
    # When all pairs are compared
    distances = [np.linalg.norm(points[a] - points[b]) for a, b in itertools.combinations(points, 2)]
    # Then none is close
    assert min(distances) >= 25


@pytest.mark.parametrize("field", ["colour", "shape", "size", "place"])
def test_a_thing_refuses_names_that_the_world_does_not_have(field: str) -> None:
    # Given a name unknown to the world, when a thing is made of it, then the error tells the choices
    with pytest.raises(ValueError, match="choose one of"):
        a_thing(**{field: "puce"})


@pytest.mark.parametrize(
    ("background", "things"),
    [
        ("puce", (a_thing(),)),
        ("white", ()),
        ("white", (a_thing(), a_thing(colour="blue"))),
        ("white", (a_thing(), a_thing(place="left", size="large"))),
        (
            "white",
            tuple(a_thing(colour=c, place=p) for c, p in zip(world.COLOURS, world.PLACES, strict=False)),
        ),
    ],
)
def test_a_scene_refuses_what_cannot_be_told_apart(background: str, things: tuple[Thing, ...]) -> None:
    # Given a broken rule, when the scene is made, then it is refused
    with pytest.raises(ValueError):
        Scene(background=background, things=things)


def test_a_fact_refuses_a_value_of_another_kind() -> None:
    # Given values and indices that do not fit the kind, when a fact is made, then it is refused
    with pytest.raises(ValueError):
        Fact(kind="colour", thing=0, value="circle")
    with pytest.raises(ValueError):
        Fact(kind="colour", thing=None, value="red")


def test_sampling_refuses_impossible_counts() -> None:
    # Given counts out of range, when sampling, then an error says so
    with pytest.raises(ValueError):
        world.sample_scene(np.random.default_rng(0), objects=6)
    with pytest.raises(ValueError):
        world.sample_prompts(seed=0, count=-1)


@given(seed=SEEDS, objects=COUNTS)
@settings(max_examples=40, deadline=None)
def test_every_captions_facts_agree_with_its_scene(seed: int, objects: int) -> None:
    # Given a scene
    rng = np.random.default_rng(seed)
    scene = world.sample_scene(rng, objects=objects)
    assert len(scene.things) == objects
    # When captions are written
    whole = world.write_caption(scene, rng=rng, complete=True)
    partial = world.write_caption(scene, rng=rng)
    # Then the facts are true, and colours and shapes never left out
    assert whole.facts == world.all_facts(scene)
    assert set(partial.facts) <= set(whole.facts)
    assert {f for f in whole.facts if f.kind in ("colour", "shape")} <= set(partial.facts)
    # And the text is short and of known words
    for caption in (whole, partial):
        words = world.words(caption.text)
        assert len(words) <= world.MAX_WORDS
        assert set(words) <= world.vocabulary()


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_caption_of_one_object_says_exactly_its_facts(seed: int) -> None:
    # Given a caption of a single object
    rng = np.random.default_rng(seed)
    scene = world.sample_scene(rng, objects=1)
    caption = world.write_caption(scene, rng=rng)
    text = " ".join(world.words(caption.text))
    thing = scene.things[0]
    stated = {fact.kind for fact in caption.facts}
    # When its phrases are looked up
    # Then stated facts are in the text and the others are not
    assert thing.colour in meaning(world._COLOUR_WORDS, text)
    assert thing.shape in meaning(world._SHAPE_WORDS, text)
    assert (
        (meaning(world._SIZE_WORDS, text) == {thing.size})
        if "size" in stated
        else not meaning(world._SIZE_WORDS, text)
    )
    places = meaning(world._PLACE_PHRASES, text) | meaning(world._BARE_PLACES, text)
    assert (thing.place in places) if "place" in stated else not places
    grounds = ("background", "backdrop", "canvas", " on ")
    if "background" in stated:
        assert scene.background in meaning(world._BACKGROUND_WORDS, text)
    else:
        assert not any(word in text for word in grounds[:3])


def test_no_synonym_means_two_things() -> None:
    # Given all phrases of a kind, when they are counted, then each belongs to one name only
    tables = (
        {**world._COLOUR_WORDS, **world._BACKGROUND_WORDS},
        world._SHAPE_WORDS,
        world._SIZE_WORDS,
        world._PLACE_PHRASES,
        world._BARE_PLACES,
    )
    for table in tables:
        owners: dict[str, set[str]] = {}
        for name, phrases in table.items():
            for phrase in phrases:
                owners.setdefault(phrase, set()).add(name)
        assert all(len(names) == 1 for names in owners.values())


def test_captions_leave_facts_out_at_the_stated_rates() -> None:
    # Given many captions
    captions = world.sample_prompts(seed=3, count=600)
    things = sum(len(caption.scene.things) for caption in captions)
    # When stated facts are counted
    kinds = [fact.kind for caption in captions for fact in caption.facts]
    # Then the shares are as promised, and hardly any text comes twice
    assert kinds.count("size") / things == pytest.approx(0.8, abs=0.04)
    assert kinds.count("place") / things == pytest.approx(0.88, abs=0.04)
    assert kinds.count("background") / len(captions) == pytest.approx(0.88, abs=0.05)
    assert len({caption.text for caption in captions}) > 590


def test_prompts_are_the_same_for_a_seed_and_grow_at_the_end() -> None:
    # Given two lists of one seed, when compared, then the longer starts with the shorter
    assert world.sample_prompts(seed=5, count=20)[:8] == world.sample_prompts(seed=5, count=8)
    assert world.sample_prompts(seed=5, count=8) != world.sample_prompts(seed=6, count=8)


@given(seed=SEEDS, size=st.sampled_from([32, 64, 100]))
@settings(max_examples=15, deadline=None)
def test_rendering_is_deterministic_for_a_seed(seed: int, size: int) -> None:
    # Given a scene
    scene = world.sample_scene(np.random.default_rng(seed))
    # When it is painted twice with equal generators
    first = world.render(scene, rng=np.random.default_rng(seed), size=size)
    second = world.render(scene, rng=np.random.default_rng(seed), size=size)
    # Then the pictures are equal
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)


def test_rendering_refuses_pictures_too_small_to_see() -> None:
    # Given a tiny size, when painting, then an error says so
    with pytest.raises(ValueError):
        world.render(world.sample_scene(np.random.default_rng(0)), rng=np.random.default_rng(0), size=8)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_objects_neither_overlap_nor_leave_the_canvas(seed: int) -> None:
    # Given a crowded layout
    rng = np.random.default_rng(seed)
    layout = world.lay_out(world.sample_scene(rng, objects=5), rng=rng)
    # When the boxes of the sprites are compared
    # Then each is inside the canvas and apart from the others
    for sprite in layout.sprites:
        assert min(sprite.centre) - sprite.radius > 0
        assert max(sprite.centre) + sprite.radius < world.UNITS
    for one, other in itertools.combinations(layout.sprites, 2):
        gap = max(abs(one.centre[0] - other.centre[0]), abs(one.centre[1] - other.centre[1]))
        assert gap > one.radius + other.radius


@given(seed=SEEDS, objects=COUNTS)
@settings(max_examples=60, deadline=None)
def test_an_altered_scene_differs_in_exactly_one_exchange(seed: int, objects: int) -> None:
    # Given a scene
    rng = np.random.default_rng(seed)
    scene = world.sample_scene(rng, objects=objects)
    # When it is altered
    other = world.altered(scene, rng=rng)
    # Then one field of one object has changed, or one field of two objects is swapped
    assert other.background == scene.background
    assert set(described(other)) != set(described(scene))
    changes = [
        (field, old, new)
        for before, after in zip(described(scene), described(other), strict=True)
        for field, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    ]
    assert len(changes) in (1, 2)
    if len(changes) == 2:
        (field, old, new), swapped = changes
        assert swapped == (field, new, old)
        assert field in (0, 3)


def test_all_ways_of_altering_occur() -> None:
    # Given one scene altered many times
    rng = np.random.default_rng(0)
    scene = world.sample_scene(rng, objects=3)
    # When the changed fields are collected
    seen = set()
    for _ in range(150):
        pairs = zip(described(scene), described(world.altered(scene, rng=rng)), strict=True)
        seen.add(tuple(sorted(f for a, b in pairs for f in range(4) if a[f] != b[f])))
    # Then every single change and both swaps are among them
    assert seen == {(0,), (1,), (2,), (3,), (0, 0), (3, 3)}


def near_misses(text: str, *, seed: int, most: int = 4) -> world.Altered:
    return world.altered_prompts(text, rng=np.random.default_rng(seed), most=most)


def phrases(text: str) -> list[tuple[str, str]]:
    """Kind and name of the known phrases of a text, in their order."""
    pattern, known, _ = world._exchanges()
    return [known[match[0].lower()] for match in pattern.finditer(text)]


@given(seed=SEEDS, most=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_every_phrase_of_a_prompt_is_exchanged_in_exactly_one_of_its_near_misses(
    seed: int, most: int
) -> None:
    # Given a caption of the world
    rng = np.random.default_rng(seed)
    caption = world.write_caption(world.sample_scene(rng), rng=rng)
    own = phrases(caption.text)
    # When it is altered twice from equal states
    altered = near_misses(caption.text, seed=seed, most=most)
    # Then the result is the same, of the world's words and no longer than asked
    assert altered == near_misses(caption.text, seed=seed, most=most)
    assert all(set(world.words(text)) <= world.vocabulary() for text in altered.texts)
    assert len(altered.texts) == min(most, len(own))
    # And all phrases are exchanged, each in one text, as evenly as can be
    changed = [
        [place for place, pair in enumerate(zip(own, phrases(text), strict=True)) if pair[0] != pair[1]]
        for text in altered.texts
    ]
    assert sorted(place for places in changed for place in places) == list(range(altered.exchanges))
    assert altered.exchanges == len(own)
    assert max(map(len, changed)) - min(map(len, changed)) <= 1


def test_altering_exchanges_a_phrase_for_one_of_its_kind_only() -> None:
    # Given prompts with one recognised phrase each
    cases = {
        "an old crimson car": {"colour"},
        "three cats on a sofa": {"number"},
        "photo of an enormous dog": {"size"},
        "a cat above the clouds": {"relation"},
        "many stars": {"shapes"},
        "a house in the top left corner": {"place"},
        "a NAVY BLUE jacket": {"background"},
    }
    for text, kinds in cases.items():
        for seed in range(12):
            # When one is altered
            (changed,) = near_misses(text, seed=seed).texts
            # Then the words around it stay and the new phrase is of the same kind
            assert changed != text
            assert {kind for kind, _ in phrases(changed)} == kinds, changed


def test_altering_keeps_articles_and_case_right() -> None:
    # Given prompts whose article depends on the next word
    changed = {near_misses("A red kite", seed=seed).texts[0] for seed in range(60)}
    # When many exchanges are made
    # Then vowels take "An" and nothing else does
    assert "An orange kite" in changed
    assert all((text.split()[0] == "An") == (text.split()[1][0] in "aeiou") for text in changed)
    (loud,) = near_misses("RED KITE", seed=0).texts
    assert loud.isupper()
    (both,) = near_misses("an orange box beside a red ball", seed=0, most=1).texts
    assert both.startswith(("a ", "an "))


@pytest.mark.parametrize("text", ["", "a dog asleep", "portrait of a wizard, oil on linen"])
def test_altering_gives_none_when_nothing_is_recognised(text: str) -> None:
    # Given a prompt without any known word, when altered, then there is no result
    assert near_misses(text, seed=0) == world.Altered(texts=(), exchanges=0)
