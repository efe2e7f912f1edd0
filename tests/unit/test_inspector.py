from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from routet2i.pocket import inspector, world
from routet2i.pocket.inspector import Inspection, inspect
from routet2i.pocket.world import COLOURS, SHAPES, Fact, Scene, Thing, all_facts, render

Picture = NDArray[np.uint8]


def the_scene() -> Scene:
    return Scene(
        background="white",
        things=(
            Thing(colour="red", shape="circle", size="large", place="top left"),
            Thing(colour="blue", shape="star", size="small", place="right"),
            Thing(colour="green", shape="ring", size="large", place="bottom"),
        ),
    )


def seen(picture_of: Scene, *, claimed: Scene) -> Inspection:
    return inspect(render(picture_of, rng=np.random.default_rng(1)), facts=all_facts(claimed))


def failed(inspection: Inspection) -> set[tuple[str, int | None]]:
    return {(f.kind, f.thing) for f, ok in zip(inspection.facts, inspection.holds, strict=True) if not ok}


def changed(index: int, **changes: str) -> Scene:
    scene = the_scene()
    things = list(scene.things)
    things[index] = replace(things[index], **changes)
    return replace(scene, things=tuple(things))


def degraded(picture: Picture, rng: np.random.Generator) -> Picture:
    soft = ndimage.gaussian_filter(picture.astype(float), (0.7, 0.7, 0)) + rng.normal(0, 4, picture.shape)
    return (np.clip(soft, 0, 255) + 0.5).astype(np.uint8)


@pytest.mark.parametrize(("damage", "bar"), [(lambda picture, _: picture, 0.99), (degraded, 0.97)])
def test_nearly_all_facts_are_seen_in_rendered_pictures(
    damage: Callable[[Picture, np.random.Generator], Picture], bar: float
) -> None:
    # Given pictures of scenes with complete captions
    rng = np.random.default_rng(17)
    pairs = []
    for index in range(150):
        caption = world.write_caption(world.sample_scene(rng, objects=1 + index % 5), rng=rng, complete=True)
        # When they are inspected, clean or mildly damaged
        picture = damage(render(caption.scene, rng=rng), rng)
        pairs.append((len(caption.scene.things), inspect(picture, facts=caption.facts)))
    # Then the facts hold, for every number of objects
    shares = inspector.share_by_objects(pairs)
    assert list(shares) == [1, 2, 3, 4, 5]
    assert min(shares.values()) >= bar


def test_everything_holds_in_the_right_picture() -> None:
    # Given a picture of the very scene, when inspected, then all facts hold
    inspection = seen(the_scene(), claimed=the_scene())
    assert not failed(inspection)
    assert inspection.share == 1
    assert len(inspection.found) == 3
    assert inspection.matches.keys() == {0, 1, 2}


def test_a_wrong_colour_is_detected() -> None:
    # Given a yellow circle instead of a red one, when inspected, then that colour and nothing else fails
    assert failed(seen(changed(0, colour="yellow"), claimed=the_scene())) == {("colour", 0)}


def test_a_wrong_shape_is_detected() -> None:
    # Given a heart instead of a star, when inspected, then that shape and nothing else fails
    assert failed(seen(changed(1, shape="heart"), claimed=the_scene())) == {("shape", 1)}


def test_a_wrong_size_is_detected() -> None:
    # Given a small ring instead of a large one, when inspected, then that size and nothing else fails
    assert failed(seen(changed(2, size="small"), claimed=the_scene())) == {("size", 2)}


def test_a_displaced_object_is_detected() -> None:
    # Given a star at the top right instead of the right, when inspected, then that place alone fails
    assert failed(seen(changed(1, place="top right"), claimed=the_scene())) == {("place", 1)}


def test_a_wrong_background_is_detected() -> None:
    # Given a mint background instead of white, when inspected, then the background alone fails
    picture_of = replace(the_scene(), background="mint")
    assert failed(seen(picture_of, claimed=the_scene())) == {("background", None)}


def test_a_missing_object_fails_all_its_facts() -> None:
    # Given a picture without the star
    scene = the_scene()
    picture_of = replace(scene, things=(scene.things[0], scene.things[2]))
    # When inspected, then the star's facts fail and the others hold
    assert failed(seen(picture_of, claimed=scene)) == {
        (kind, 1) for kind in ("colour", "shape", "size", "place")
    }


def test_swapped_colours_fail_two_facts() -> None:
    # Given the circle blue and the star red, when inspected, then two facts fail
    scene = the_scene()
    one, two, three = scene.things
    picture_of = replace(scene, things=(replace(one, colour="blue"), replace(two, colour="red"), three))
    assert len(failed(seen(picture_of, claimed=scene))) == 2


def test_an_empty_picture_shows_a_background_and_no_objects() -> None:
    # Given a plain beige picture, when inspected, then only a background is found
    plain = np.broadcast_to(np.uint8(world.BACKGROUNDS["beige"]), (64, 64, 3)).copy()
    inspection = inspect(plain, facts=all_facts(replace(the_scene(), background="beige")))
    assert inspection.background == "beige"
    assert inspection.found == ()
    assert sum(inspection.holds) == 1


def test_noise_shows_nothing() -> None:
    # Given pure noise, when inspected, then hardly anything holds
    noise = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    inspection = inspect(noise, facts=all_facts(the_scene()))
    assert inspection.background is None
    assert all(found.shape is None for found in inspection.found)


def test_formless_blobs_have_no_shape() -> None:
    # Given ragged blobs of a clear colour
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:64, :64]
    shapeless = 0
    for _ in range(40):
        field = ndimage.gaussian_filter(rng.normal(size=(64, 64)), 2.0)
        field = 1.6 * field / field.std() - ((x - 32) ** 2 + (y - 32) ** 2) / 40 + 0.8
        cover = ndimage.gaussian_filter((field > 0).astype(float), 0.7)[..., None]
        picture = ((1 - cover) * 250 + cover * np.array(COLOURS["red"]) + 0.5).astype(np.uint8)
        # When inspected
        found = max(inspect(picture, facts=()).found, key=lambda item: item.agreement)
        shapeless += found.shape is None
        assert found.colour == "red"
    # Then most have no shape
    assert shapeless >= 32


@given(
    shape=st.sampled_from(SHAPES),
    colour=st.sampled_from(list(COLOURS)),
    size=st.sampled_from(list(world.SIZES)),
    background=st.sampled_from(list(world.BACKGROUNDS)),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_every_look_is_recognised_on_every_background(
    shape: str, colour: str, size: str, background: str, seed: int
) -> None:
    # Given one object of any look
    thing = Thing(colour=colour, shape=shape, size=size, place="middle")
    scene = Scene(background=background, things=(thing,))
    # When its picture is inspected
    inspection = inspect(render(scene, rng=np.random.default_rng(seed)), facts=all_facts(scene))
    # Then all facts hold
    assert not failed(inspection), inspection.found


def test_pictures_of_other_sizes_are_read_too() -> None:
    # Given a picture of 128 pixels, when inspected, then all facts hold
    picture = render(the_scene(), rng=np.random.default_rng(2), size=128)
    assert all(inspect(picture, facts=all_facts(the_scene())).holds)


def test_the_assignment_is_the_best_one() -> None:
    # Given scores where greedy matching loses, when assigned, then the sum is largest
    assert inspector._assign([[4, 3], [3, 0]]) == {0: 1, 1: 0}
    assert inspector._assign([[0, 0]]) == {}
    assert inspector._assign([]) == {}


@pytest.mark.parametrize(
    "picture",
    [np.zeros((64, 64, 3)), np.zeros((64, 64), dtype=np.uint8), np.zeros((64, 32, 3), dtype=np.uint8)],
)
def test_the_inspector_refuses_what_is_no_square_colour_picture(picture: NDArray[np.generic]) -> None:
    # Given an unreadable array, when inspected, then an error says so
    with pytest.raises(ValueError):
        inspect(picture, facts=())  # type: ignore[arg-type]


def test_shares_count_every_fact_once() -> None:
    # Given inspections with known outcomes
    def outcome(*holds: bool) -> Inspection:
        facts = (Fact(kind="background", thing=None, value="white"),) * len(holds)
        return Inspection(facts=facts, holds=holds, background=None, found=(), matches={})

    # When aggregated
    shares = inspector.share_by_objects(
        [(2, outcome(True, False)), (1, outcome(True)), (2, outcome(True, True))]
    )
    # Then facts weigh alike, by number of objects
    assert shares == {1: 1.0, 2: 0.75}
    assert outcome().share == 1
