"""The shape world: scenes of coloured shapes on plain backgrounds, their pictures and their captions.

The module samples scenes, paints them, describes them in many phrasings and makes near misses of scenes and
of prompt texts. It does not know any model, judge or metric: nothing here looks at a picture once painted.

Geometry is stated in *units*: a picture is 64 units wide whatever its size in pixels; x grows to the right
and y downwards. Colours are sRGB triples in 0..255.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
_T = TypeVar("_T")
FactKind = Literal["background", "colour", "shape", "size", "place"]

UNITS = 64
"""Width and height of every picture in units."""

BACKGROUNDS: Mapping[str, Rgb] = MappingProxyType(
    {
        "white": (250, 250, 250),
        "black": (16, 16, 18),
        "gray": (128, 128, 128),
        "beige": (222, 198, 158),
        "navy": (22, 30, 84),
        "mint": (180, 238, 208),
        "lavender": (208, 182, 238),
        "sky blue": (136, 198, 246),
    }
)
"""Background name to sRGB."""

COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "red": (214, 24, 36),
        "orange": (250, 128, 10),
        "yellow": (248, 224, 20),
        "green": (24, 150, 40),
        "cyan": (0, 200, 200),
        "blue": (36, 72, 232),
        "purple": (136, 30, 156),
        "pink": (255, 90, 176),
    }
)
"""Object colour name to sRGB."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent")
"""Names of the shapes."""

SIZES: Mapping[str, float] = MappingProxyType({"small": 6.0, "large": 9.4})
"""Size name to the outer half-extent in units."""

PLACES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        name: (UNITS * (2 * column + 1) / 6, UNITS * (2 * row + 1) / 6)
        for row, names in enumerate(
            (
                ("top left", "top", "top right"),
                ("left", "middle", "right"),
                ("bottom left", "bottom", "bottom right"),
            )
        )
        for column, name in enumerate(names)
    }
)
"""Place name to the (x, y) centre of its cell in units."""

FACT_KINDS: tuple[FactKind, ...] = get_args(FactKind)
"""Kinds of facts, in the order in which `all_facts` lists them."""

OUTLINE_WIDTH = 1.0
"""Width of the dark line along an object's outer edge in units."""

HOLE_OUTLINE_WIDTH = 0.6
"""Width of the dark line around a hole in units."""

OUTLINE_BRIGHTNESS = 0.5
"""Brightness of the lines relative to the object's colour."""

SHADING = 0.12
"""Relative change of brightness from an object's middle to its top left and bottom right."""

MAX_OBJECTS = 5
"""Largest number of objects in a scene."""

MAX_WORDS = 68
"""Largest number of words in a caption."""


def _require(value: str, *, known: Iterable[str], what: str) -> None:
    if value not in known:
        raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a scene.

    Attributes:
        colour: a key of `COLOURS`.
        shape: a member of `SHAPES`.
        size: a key of `SIZES`.
        place: a key of `PLACES`.

    Raises:
        ValueError: when a value is not one of the world's names.
    """

    colour: str
    shape: str
    size: str
    place: str

    def __post_init__(self) -> None:
        _require(self.colour, known=COLOURS, what="colour")
        _require(self.shape, known=SHAPES, what="shape")
        _require(self.size, known=SIZES, what="size")
        _require(self.place, known=PLACES, what="place")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background with 1 to 5 objects, no two in one cell or alike in both colour and shape.

    Attributes:
        background: a key of `BACKGROUNDS`.
        things: the objects.

    Raises:
        ValueError: when the background is unknown, the number of objects is out of range, two objects share a
            cell, or two objects share both colour and shape.
    """

    background: str
    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        _require(self.background, known=BACKGROUNDS, what="background")
        if not 1 <= len(self.things) <= MAX_OBJECTS:
            raise ValueError(f"A scene has {len(self.things)} objects: give 1 to {MAX_OBJECTS} of them.")
        if len({thing.place for thing in self.things}) < len(self.things):
            raise ValueError("Two objects share a place: give every object a cell of its own.")
        if len({(thing.colour, thing.shape) for thing in self.things}) < len(self.things):
            raise ValueError(
                "Two objects are alike in colour and shape: change the colour or the shape of one."
            )


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One checkable statement about a scene.

    Attributes:
        kind: what the statement is about.
        thing: index of the object in `Scene.things`; None for the background.
        value: the stated name, canonical (a key of the world's tables).

    Raises:
        ValueError: when the value does not belong to the kind, or the index to the kind.
    """

    kind: FactKind
    thing: int | None
    value: str

    def __post_init__(self) -> None:
        tables: dict[str, Iterable[str]] = {
            "background": BACKGROUNDS,
            "colour": COLOURS,
            "shape": SHAPES,
            "size": SIZES,
            "place": PLACES,
        }
        _require(self.kind, known=tables, what="kind of fact")
        _require(self.value, known=tables[self.kind], what=self.kind)
        if (self.thing is None) != (self.kind == "background"):
            raise ValueError("Give the index of the object for facts about objects, None for the background.")


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A text about a scene.

    Attributes:
        text: the caption as a person might type it.
        scene: the scene described.
        facts: exactly the facts that the text states.
    """

    text: str
    scene: Scene
    facts: tuple[Fact, ...]


def all_facts(scene: Scene) -> tuple[Fact, ...]:
    """List all that holds in a scene: the background, then colour, shape, size and place per object."""
    facts = [Fact(kind="background", thing=None, value=scene.background)]
    for index, thing in enumerate(scene.things):
        facts.append(Fact(kind="colour", thing=index, value=thing.colour))
        facts.append(Fact(kind="shape", thing=index, value=thing.shape))
        facts.append(Fact(kind="size", thing=index, value=thing.size))
        facts.append(Fact(kind="place", thing=index, value=thing.place))
    return tuple(facts)


def sample_scene(rng: np.random.Generator, *, objects: int | None = None) -> Scene:
    """Sample a scene.

    Args:
        rng: source of randomness.
        objects: number of objects, uniform in 1..5 when None.

    Raises:
        ValueError: when `objects` is not in 1..5.
    """
    if objects is not None and not 1 <= objects <= MAX_OBJECTS:
        raise ValueError(f"Cannot sample a scene of {objects} objects: ask for 1 to {MAX_OBJECTS}.")
    count = int(rng.integers(1, MAX_OBJECTS + 1)) if objects is None else objects
    looks = rng.choice(len(COLOURS) * len(SHAPES), size=count, replace=False)
    cells = rng.choice(len(PLACES), size=count, replace=False)
    colours, sizes, places = list(COLOURS), list(SIZES), list(PLACES)
    return Scene(
        background=_pick(list(BACKGROUNDS), rng=rng),
        things=tuple(
            Thing(
                colour=colours[look // len(SHAPES)],
                shape=SHAPES[look % len(SHAPES)],
                size=_pick(sizes, rng=rng),
                place=places[cell],
            )
            for look, cell in zip(looks.tolist(), cells.tolist(), strict=True)
        ),
    )


def _pick(options: Sequence[_T], *, rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]


# --- painting --------------------------------------------------------------------------------------------

_SUPERSAMPLING = 8
_CELL_HALF = UNITS / 6
# A gap keeps neighbours apart after antialiasing.
_CELL_MARGIN = 0.4


def _arc(*, radius: float, start: float, stop: float, points: int, x: float = 0.0) -> NDArray[np.float64]:
    angles = np.radians(np.linspace(start, stop, points))
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _full_circle(radius: float) -> NDArray[np.float64]:
    return _arc(radius=radius, start=0, stop=360, points=49)[:-1]


def _centred(points: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = points.min(axis=0), points.max(axis=0)
    shifted = points - (low + high) / 2
    return shifted / np.abs(shifted).max()


@cache
def outlines(shape: str) -> tuple[NDArray[np.float64], ...]:
    """Return the outlines of a shape in its own frame.

    Args:
        shape: a member of `SHAPES`.

    Returns:
        Closed polygons of shape (n, 2), clockwise on the screen: the outer edge, then the holes. The bounding
        box of the outer edge is centred at the origin, and an object of half-extent r is these polygons times
        r. The arrays are read-only.

    Raises:
        ValueError: when the shape is unknown.
    """
    _require(shape, known=SHAPES, what="shape")
    polygons: list[NDArray[np.float64]]
    if shape == "circle":
        polygons = [_full_circle(1.0)]
    elif shape == "square":
        polygons = [0.86 * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])]
    elif shape == "triangle":
        polygons = [np.array([(0.0, -0.93), (1.0, 0.86), (-1.0, 0.86)])]
    elif shape == "star":
        angles = np.radians(-90 + 36 * np.arange(10))
        reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.48)
        polygons = [_centred(np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1))]
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 45)[:-1]
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        polygons = [_centred(np.stack([x, y], axis=1))]
    elif shape == "cross":
        a = 0.36
        corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a)]
        polygons = [np.array([*corners, (-1, -a), (-a, -a)], dtype=np.float64)]
    elif shape == "ring":
        polygons = [_full_circle(1.0), _full_circle(0.46)]
    else:
        # The inner arc belongs to a circle shifted to the right, so the horns point right.
        shift, inner = 0.52, 0.84
        tip = (1 + shift**2 - inner**2) / (2 * shift)
        outer_angle = float(np.degrees(np.arccos(tip)))
        inner_angle = float(np.degrees(np.arccos((tip - shift) / inner)))
        outside = _arc(radius=1.0, start=outer_angle, stop=360 - outer_angle, points=37)
        inside = _arc(radius=inner, start=360 - inner_angle, stop=inner_angle, points=27, x=shift)
        polygons = [_centred(np.concatenate([outside, inside[1:-1]]))]
    for polygon in polygons:
        polygon.setflags(write=False)
    return tuple(polygons)


@cache
def _inward(shape: str) -> tuple[NDArray[np.float64], ...]:
    """Per vertex, the move into the filled part that shifts both neighbouring edges by one."""
    moves = []
    for index, polygon in enumerate(outlines(shape)):
        edges = np.roll(polygon, -1, axis=0) - polygon
        edges = edges / np.linalg.norm(edges, axis=1, keepdims=True)
        normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
        before = np.roll(normals, 1, axis=0)
        mitre = (before + normals) / (1 + (before * normals).sum(axis=1, keepdims=True))
        length = np.linalg.norm(mitre, axis=1, keepdims=True)
        mitre = mitre * np.minimum(1.0, 3.0 / length)
        moves.append(mitre if index == 0 else -mitre)
    return tuple(moves)


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """An object as it is painted.

    Attributes:
        shape: a member of `SHAPES`.
        rgb: colour in 0..255.
        centre: (x, y) in units.
        radius: outer half-extent in units, outline included.
    """

    shape: str
    rgb: tuple[float, float, float]
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A scene with its variation decided: what `paint` paints, in this order.

    Attributes:
        ground: colour of the background in 0..255.
        sprites: one per object of the scene.
    """

    ground: tuple[float, float, float]
    sprites: tuple[Sprite, ...]


def paint_sprite(
    canvas: NDArray[np.float32],
    *,
    sprite: Sprite,
    outline: float = OUTLINE_BRIGHTNESS,
    shading: float = SHADING,
) -> None:
    """Paint one object into a canvas, in place: shaded fill and thin dark outline, antialiased.

    Args:
        canvas: (size, size, 3) picture in 0..255, changed in place; what lies outside it is cut off.
        sprite: what to paint.
        outline: brightness of the outline relative to the colour; 1 makes it vanish.
        shading: relative rise of brightness towards the top left; 0 makes the filling flat.

    Raises:
        ValueError: when the shape is unknown.
    """
    size = canvas.shape[0]
    scale = size / UNITS
    x, y, r = sprite.centre[0] * scale, sprite.centre[1] * scale, sprite.radius * scale
    left, top = int(np.floor(x - r)) - 1, int(np.floor(y - r)) - 1
    side = int(np.ceil(2 * r)) + 3
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, size), min(top + side, size)
    if x0 >= x1 or y0 >= y1:
        return
    offset = np.array([x - left, y - top])
    whole = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING))
    fill = Image.new("L", whole.size)
    draw_whole, draw_fill = ImageDraw.Draw(whole), ImageDraw.Draw(fill)
    for index, (polygon, inward) in enumerate(
        zip(outlines(sprite.shape), _inward(sprite.shape), strict=True)
    ):
        line = (HOLE_OUTLINE_WIDTH if index else OUTLINE_WIDTH) * scale
        # Pillow rounds to pixel centres, hence the half.
        edge = (polygon * r + offset) * _SUPERSAMPLING - 0.5
        inner = (polygon * r + inward * line + offset) * _SUPERSAMPLING - 0.5
        draw_whole.polygon(edge.ravel().tolist(), fill=0 if index else 255)
        draw_fill.polygon(inner.ravel().tolist(), fill=0 if index else 255)
    crop = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    cover = np.asarray(whole.reduce(_SUPERSAMPLING), dtype=np.float32)[crop] / 255
    inside = np.asarray(fill.reduce(_SUPERSAMPLING), dtype=np.float32)[crop] / 255
    down = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    across = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - x)
    light = 1 - np.float32(shading / (2 * r)) * 1.4 * (down + across)
    tone = inside * light + (cover - inside) * np.float32(outline)
    region = canvas[y0:y1, x0:x1]
    region *= (1 - cover)[..., None]
    region += tone[..., None] * np.asarray(sprite.rgb, dtype=np.float32)


def lay_out(scene: Scene, *, rng: np.random.Generator) -> Layout:
    """Decide the variation of a scene.

    Every object is moved by up to one unit within its cell, scaled by up to 4% and tinted by a few levels;
    the background is tinted as a whole. Objects never overlap nor leave the canvas.
    """
    ground = _tinted(BACKGROUNDS[scene.background], rng=rng, reach=3)
    sprites = []
    for thing in scene.things:
        radius = SIZES[thing.size] * (1 + float(rng.uniform(-0.04, 0.04)))
        reach = min(1.0, _CELL_HALF - _CELL_MARGIN - radius)
        dx, dy = rng.uniform(-reach, reach, size=2).tolist()
        x, y = PLACES[thing.place]
        rgb = _tinted(COLOURS[thing.colour], rng=rng, reach=5)
        sprites.append(Sprite(shape=thing.shape, rgb=rgb, centre=(x + dx, y + dy), radius=radius))
    return Layout(ground=ground, sprites=tuple(sprites))


def _tinted(rgb: Rgb, *, rng: np.random.Generator, reach: float) -> tuple[float, float, float]:
    r, g, b = np.clip(np.add(rgb, rng.uniform(-reach, reach, size=3)), 0, 255).tolist()
    return r, g, b


def paint(layout: Layout, *, size: int = UNITS) -> NDArray[np.uint8]:
    """Paint a layout.

    Args:
        layout: what to paint.
        size: width and height in pixels, at least 16.

    Returns:
        (size, size, 3) picture.

    Raises:
        ValueError: when the size is below 16.
    """
    if size < 16:
        raise ValueError(f"A picture of {size} pixels cannot show a scene: ask for a size of at least 16.")
    canvas = np.empty((size, size, 3), dtype=np.float32)
    canvas[:] = layout.ground
    for sprite in layout.sprites:
        paint_sprite(canvas, sprite=sprite)
    return (np.clip(canvas, 0, 255) + 0.5).astype(np.uint8)


def render(scene: Scene, *, rng: np.random.Generator, size: int = UNITS) -> NDArray[np.uint8]:
    """Lay a scene out and paint it.

    Args:
        scene: what to paint.
        rng: source of the variation; equal states give equal pictures.
        size: width and height in pixels, at least 16.

    Returns:
        (size, size, 3) picture.

    Raises:
        ValueError: when the size is below 16.
    """
    return paint(lay_out(scene, rng=rng), size=size)


# --- captions --------------------------------------------------------------------------------------------

_COLOUR_WORDS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "lemon", "lemon yellow"),
    "green": ("green", "green", "green", "emerald", "grass green"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "blue": ("blue", "blue", "blue", "cobalt", "royal blue"),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "hot pink", "magenta"),
}
_BACKGROUND_WORDS: Mapping[str, tuple[str, ...]] = {
    "white": ("white", "white", "plain white", "pure white"),
    "black": ("black", "black", "plain black", "jet black"),
    "gray": ("gray", "grey", "medium gray"),
    "beige": ("beige", "beige", "sand coloured", "tan"),
    "navy": ("navy", "navy blue", "dark blue"),
    "mint": ("mint", "mint green", "pale green", "light green"),
    "lavender": ("lavender", "lavender", "lilac", "light purple"),
    "sky blue": ("sky blue", "sky blue", "light blue", "pale blue"),
}
_SHAPE_WORDS: Mapping[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc", "disk", "round dot"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle", "triangle", "triangle", "triangle shape"),
    "star": ("star", "star", "star", "five pointed star", "star shape"),
    "heart": ("heart", "heart", "heart", "heart shape", "love heart"),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring", "ring", "doughnut", "donut", "hoop"),
    "crescent": ("crescent", "crescent", "crescent moon", "moon"),
}
_SIZE_WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge"),
}


def _corner_phrases(high: Sequence[str], side: str) -> tuple[str, ...]:
    return tuple(
        phrase
        for word in high
        for phrase in (
            f"in the {word} {side}",
            f"at the {word} {side}",
            f"in the {word} {side} corner",
            f"at {word} {side}",
        )
    )


def _edge_phrases(high: str, other: str) -> tuple[str, ...]:
    return (
        f"at the {high}",
        f"at the {high}",
        f"in the {high} middle",
        f"at the {high} centre",
        f"at the {high} center",
        f"in the {other} middle",
        f"along the {high}",
        f"near the {high} edge",
    )


def _side_phrases(side: str) -> tuple[str, ...]:
    return (
        f"on the {side}",
        f"on the {side}",
        f"on the {side} side",
        f"at the {side}",
        f"in the middle {side}",
        f"at the centre {side}",
        f"at the {side} edge",
    )


_PLACE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "top left": _corner_phrases(("top", "upper"), "left"),
    "top": _edge_phrases("top", "upper"),
    "top right": _corner_phrases(("top", "upper"), "right"),
    "left": _side_phrases("left"),
    "middle": (
        "in the middle",
        "in the middle",
        "in the centre",
        "in the center",
        "at the centre",
        "at the center",
        "in the very middle",
    ),
    "right": _side_phrases("right"),
    "bottom left": _corner_phrases(("bottom", "lower"), "left"),
    "bottom": _edge_phrases("bottom", "lower"),
    "bottom right": _corner_phrases(("bottom", "lower"), "right"),
}
_BARE_PLACES: Mapping[str, tuple[str, ...]] = {
    "top left": ("top left", "upper left"),
    "top": ("top", "top middle", "top centre", "top center", "upper middle"),
    "top right": ("top right", "upper right"),
    "left": ("left", "middle left", "left side"),
    "middle": ("middle", "centre", "center"),
    "right": ("right", "middle right", "right side"),
    "bottom left": ("bottom left", "lower left"),
    "bottom": ("bottom", "bottom middle", "bottom centre", "bottom center", "lower middle"),
    "bottom right": ("bottom right", "lower right"),
}
_NUMBER_WORDS: Mapping[int, str] = {2: "two", 3: "three", 4: "four", 5: "five"}
_FRAMES = (
    "",
    "",
    "",
    "a picture of",
    "a picture with",
    "a drawing of",
    "a drawing showing",
    "an image of",
    "an image with",
    "an illustration of",
    "simple illustration of",
    "flat illustration of",
    "please draw",
    "draw",
    "draw me",
    "paint",
    "show me",
    "i want to see",
    "i would like",
    "make a picture of",
    "create an image of",
    "generate an image with",
    "a scene with",
    "a simple scene of",
    "clip art of",
)
_GROUPS = ("shapes", "objects", "things", "figures")
_OPENERS = ("there is", "there is", "we see", "you can see", "it has", "the picture shows", "the image shows")
_VERBS = ("is", "is", "sits", "is placed", "can be seen", "appears")
_PAIR_LINKS = (" and ", " and ", " with ", " together with ", " plus ", ", ", "; ")
_TAIL_BACKGROUNDS = (
    " on a {} background",
    " on a {} background",
    " on a {} canvas",
    " on a {} backdrop",
    " against a {} background",
    " against a {} backdrop",
    ", on a {} background",
    ", {} background",
    ", with a {} background",
    ", all on a {} background",
    ", the background is {}",
    "; the background is {}",
    ". the background is {}",
    ". the backdrop is {}",
    ". use a {} background",
    ". {} background",
)
_HEAD_BACKGROUNDS = (
    "on a {} background, ",
    "on a {} background: ",
    "on a {} background ",
    "against a {} backdrop, ",
    "a {} background with ",
    "{} background with ",
    "{} canvas with ",
    "a {} canvas with ",
    "{} background, ",
    "the background is {}, with ",
)
_SENTENCE_BACKGROUNDS = (
    "the background is {}",
    "the backdrop is {}",
    "everything is on a {} background",
    "{} background",
)
_TAG_BACKGROUNDS = ("{} background", "background {}", "background: {}", "on {}", "{} backdrop")
_LOOKS = (
    "{size}{colour} {shape}",
    "{size}{colour} {shape}",
    "{size}{colour} {shape}",
    "{size}{colour} {shape}",
    "{size}bright {colour} {shape}",
    "{size}{shape} in {colour}",
    "{size}{shape} that is {colour}",
    "{size}{shape} coloured {colour}",
    "{size}{shape} of {colour} color",
)
_LOOKS_SIZE_LAST = (
    "{colour} {shape} that is {size}",
    "{colour} {shape} of {size} size",
    "{colour} {size} {shape}",
)
_ARTICLES = ("a", "a", "a", "a", "a", "a", "a", "a", "a", "one")

_WORD = re.compile(r"[a-z]+")
_TABLE_WORDS = re.compile(r"\{\w*\}")


def words(text: str) -> tuple[str, ...]:
    """Split a text into its lower-case words; everything but the letters a to z separates words."""
    return tuple(_WORD.findall(text.lower()))


@cache
def vocabulary() -> frozenset[str]:
    """Return every lower-case word (letters a to z only) that a caption of this module can contain."""
    tables: list[str] = [
        "and",
        "an",
        *_NUMBER_WORDS.values(),
        *_GROUPS,
        *_FRAMES,
        *_OPENERS,
        *_VERBS,
        *_PAIR_LINKS,
    ]
    tables += [*_TAIL_BACKGROUNDS, *_HEAD_BACKGROUNDS, *_SENTENCE_BACKGROUNDS, *_TAG_BACKGROUNDS]
    tables += [*_LOOKS, *_LOOKS_SIZE_LAST, *_ARTICLES]
    named = (_COLOUR_WORDS, _BACKGROUND_WORDS, _SHAPE_WORDS, _SIZE_WORDS, _PLACE_PHRASES, _BARE_PLACES)
    for table in named:
        for phrases in table.values():
            tables += phrases
    return frozenset(word for phrase in tables for word in words(_TABLE_WORDS.sub(" ", phrase)))


@dataclass(frozen=True, kw_only=True)
class _Mention:
    """What a caption says of one object."""

    thing: Thing
    size: bool
    place: bool

    def look(self, *, rng: np.random.Generator, article: bool) -> str:
        colour = _pick(_COLOUR_WORDS[self.thing.colour], rng=rng)
        shape = _pick(_SHAPE_WORDS[self.thing.shape], rng=rng)
        size = _pick(_SIZE_WORDS[self.thing.size], rng=rng) if self.size else ""
        if size and rng.random() < 0.12:
            text = _pick(_LOOKS_SIZE_LAST, rng=rng).format(colour=colour, shape=shape, size=size)
        else:
            template = _LOOKS[0] if not article else _pick(_LOOKS, rng=rng)
            text = template.format(colour=colour, shape=shape, size=size and size + " ")
        return f"{_pick(_ARTICLES, rng=rng)} {text}" if article else text

    def clause(self, *, rng: np.random.Generator, place_first: float, verb: bool = False) -> str:
        look = self.look(rng=rng, article=True)
        if not self.place:
            return look
        place = _pick(_PLACE_PHRASES[self.thing.place], rng=rng)
        if rng.random() < place_first:
            return f"{place} {look}"
        return f"{look} {_pick(_VERBS, rng=rng)} {place}" if verb else f"{look} {place}"


def _listed(items: Sequence[str], *, rng: np.random.Generator) -> str:
    if len(items) == 1:
        return items[0]
    if len(items) == 2:
        return _pick(_PAIR_LINKS, rng=rng).join(items)
    draw = rng.random()
    if draw < 0.4:
        return f"{', '.join(items[:-1])} and {items[-1]}"
    if draw < 0.6:
        return f"{', '.join(items[:-1])}, and {items[-1]}"
    if draw < 0.8:
        return ", ".join(items)
    if draw < 0.92:
        return "; ".join(items)
    return " and ".join(items)


def _spelled(text: str, *, rng: np.random.Generator) -> str:
    """Fix articles, then vary case and final punctuation."""
    text = re.sub(r"\ba(?= [aeiou])", "an", re.sub(r" +", " ", text).strip())
    draw = rng.random()
    if draw < 0.5:
        text = re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text)
    elif draw < 0.53:
        text = text.upper()
    draw = rng.random()
    return text + ("." if draw < 0.5 else "!" if draw < 0.53 else "")


def _compose(mentions: Sequence[_Mention], *, background: str | None, rng: np.random.Generator) -> str:
    colour = _pick(_BACKGROUND_WORDS[background], rng=rng) if background else ""
    style = rng.random()
    if style < 0.15:
        return _tags(mentions, colour=colour, rng=rng)
    if style < 0.3:
        return _sentences(mentions, colour=colour, rng=rng)
    place_first = 0.0 if rng.random() < 0.7 else 0.5
    clauses = [mention.clause(rng=rng, place_first=place_first) for mention in mentions]
    body = _listed(clauses, rng=rng)
    counted = len(mentions) > 1 and rng.random() < 0.15
    if counted:
        body = f"{_NUMBER_WORDS[len(mentions)]} {_pick(_GROUPS, rng=rng)}: {body}"
    head = bool(colour) and rng.random() < 0.35
    if head:
        opening = _pick(_HEAD_BACKGROUNDS, rng=rng).format(colour)
        if opening.endswith(("with ", ": ")) or rng.random() < 0.5:
            return opening + body
        return f"{opening}{_pick(_OPENERS, rng=rng)} {body}"
    lead = _pick(_OPENERS if rng.random() < 0.2 else _FRAMES, rng=rng)
    tail = _pick(_TAIL_BACKGROUNDS, rng=rng).format(colour) if colour else ""
    return f"{lead} {body}{tail}"


def _tags(mentions: Sequence[_Mention], *, colour: str, rng: np.random.Generator) -> str:
    labelled = rng.random() < 0.4
    items = []
    for mention in mentions:
        look = mention.look(rng=rng, article=False)
        if mention.place:
            place = _pick(_BARE_PLACES[mention.thing.place], rng=rng)
            items.append(f"{place}: {look}" if labelled else f"{look} {place}")
        else:
            items.append(look)
    if colour:
        items.insert(0 if rng.random() < 0.3 else len(items), _pick(_TAG_BACKGROUNDS, rng=rng).format(colour))
    return ("; " if labelled or rng.random() < 0.2 else ", ").join(items)


def _sentences(mentions: Sequence[_Mention], *, colour: str, rng: np.random.Generator) -> str:
    cut = int(rng.integers(1, len(mentions) + 1))
    sentences = []
    for part in (mentions[:cut], mentions[cut:]):
        if not part:
            continue
        if all(mention.place for mention in part) and rng.random() < 0.5:
            sentences.append(
                " and ".join(mention.clause(rng=rng, place_first=0.0, verb=True) for mention in part)
            )
        else:
            clauses = [mention.clause(rng=rng, place_first=0.0) for mention in part]
            sentences.append(f"{_pick(_OPENERS, rng=rng)} {_listed(clauses, rng=rng)}")
    if colour:
        sentence = _pick(_SENTENCE_BACKGROUNDS, rng=rng).format(colour)
        sentences.insert(0 if rng.random() < 0.3 else len(sentences), sentence)
    return ". ".join(sentences)


def write_caption(scene: Scene, *, rng: np.random.Generator, complete: bool = False) -> Caption:
    """Describe a scene in one of very many phrasings.

    Colour and shape of every object are always stated. A size is left out with probability 0.2, a place and
    the background with probability 0.12 each, unless `complete` is set.

    Args:
        scene: what to describe.
        rng: source of the phrasing.
        complete: state every fact.

    Returns:
        The caption of at most `MAX_WORDS` words with exactly the facts that its text states, in the order of
        `all_facts`.
    """
    draws = rng.random((len(scene.things), 2))
    sized = [complete or bool(draw >= 0.2) for draw in draws[:, 0]]
    placed = [complete or bool(draw >= 0.12) for draw in draws[:, 1]]
    grounded = complete or bool(rng.random() >= 0.12)
    facts = tuple(
        fact
        for fact in all_facts(scene)
        if (fact.kind != "background" or grounded)
        and (fact.kind != "size" or fact.thing is None or sized[fact.thing])
        and (fact.kind != "place" or fact.thing is None or placed[fact.thing])
    )
    order = rng.permutation(len(scene.things)).tolist()
    mentions = [_Mention(thing=scene.things[i], size=sized[i], place=placed[i]) for i in order]
    while True:
        text = _compose(mentions, background=scene.background if grounded else None, rng=rng)
        if len(words(text)) <= MAX_WORDS:
            return Caption(text=_spelled(text, rng=rng), scene=scene, facts=facts)


def sample_prompts(*, seed: int, count: int, objects: int | None = None) -> list[Caption]:
    """Sample scenes and describe each of them once.

    Args:
        seed: non-negative; equal seeds give equal lists, and a longer list starts with the shorter one.
        count: number of captions.
        objects: number of objects of every scene, uniform in 1..5 when None.

    Raises:
        ValueError: when `count` or `seed` is negative or `objects` is not in 1..5.
    """
    if count < 0 or seed < 0:
        raise ValueError("Give a count and a seed of 0 or more.")
    rng = np.random.default_rng(seed)
    return [write_caption(sample_scene(rng, objects=objects), rng=rng) for _ in range(count)]


# --- near misses -----------------------------------------------------------------------------------------


def altered(scene: Scene, *, rng: np.random.Generator) -> Scene:
    """Return a near miss of a scene: the same scene with one thing exchanged.

    One object gets another colour, shape, size or a free place, or two objects swap colours or places. The
    ways that this scene allows are equally likely; the order of the objects is kept.
    """
    things = scene.things
    ways: dict[str, list[tuple[Thing, ...]]] = {}

    def offer(way: str, changes: Mapping[int, Thing]) -> None:
        candidate = tuple(changes.get(index, thing) for index, thing in enumerate(things))
        if len({(thing.colour, thing.shape) for thing in candidate}) == len(things):
            ways.setdefault(way, []).append(candidate)

    taken = {thing.place for thing in things}
    for i, thing in enumerate(things):
        for colour in COLOURS:
            if colour != thing.colour:
                offer("colour", {i: replace(thing, colour=colour)})
        for shape in SHAPES:
            if shape != thing.shape:
                offer("shape", {i: replace(thing, shape=shape)})
        for size in SIZES:
            if size != thing.size:
                offer("size", {i: replace(thing, size=size)})
        for place in PLACES:
            if place not in taken:
                offer("place", {i: replace(thing, place=place)})
        for j in range(i):
            other = things[j]
            offer("swap places", {i: replace(thing, place=other.place), j: replace(other, place=thing.place)})
            if other.colour != thing.colour:
                changes = {i: replace(thing, colour=other.colour), j: replace(other, colour=thing.colour)}
                offer("swap colours", changes)
    return replace(scene, things=_pick(ways[_pick(sorted(ways), rng=rng)], rng=rng))


_FOREIGN_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Words that users write and captions do not: recognised, never written.
    "colour": {"brown": ("brown",), "gold": ("gold", "golden"), "silver": ("silver",), "teal": ("teal",)},
    "size": {
        "small": ("miniature", "minuscule"),
        "large": ("giant", "gigantic", "enormous", "massive"),
    },
    "number": {word: (word,) for word in ("six", "seven", "eight", "nine", "ten")},
}
_RELATIONS: Mapping[str, tuple[str, ...]] = {
    "above": ("above", "on top of", "over"),
    "below": ("below", "under", "beneath", "underneath"),
}


def _plural(phrase: str) -> str:
    return phrase + ("es" if phrase.endswith(("s", "x")) else "s")


@cache
def _exchanges() -> tuple[
    re.Pattern[str], Mapping[str, tuple[str, str]], Mapping[str, Mapping[str, tuple[str, ...]]]
]:
    """The pattern of all known phrases, phrase to (kind, name), and kind to the phrases by name."""
    kinds: dict[str, Mapping[str, tuple[str, ...]]] = {
        "bare place": _BARE_PLACES,
        "place": _PLACE_PHRASES,
        "colour": _COLOUR_WORDS,
        "background": _BACKGROUND_WORDS,
        "shape": _SHAPE_WORDS,
        "shapes": {name: tuple(map(_plural, phrases)) for name, phrases in _SHAPE_WORDS.items()},
        "size": _SIZE_WORDS,
        "number": {word: (word,) for word in _NUMBER_WORDS.values()},
        "relation": _RELATIONS,
    }
    known: dict[str, tuple[str, str]] = {}
    for source in (kinds, _FOREIGN_WORDS):
        for kind, table in source.items():
            for name, phrases in table.items():
                for phrase in phrases:
                    known.setdefault(phrase, (kind, name))
    longest_first = sorted(known, key=lambda phrase: (-len(phrase), phrase))
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b", re.IGNORECASE)
    return pattern, known, kinds


def _cased(phrase: str, *, like: str) -> str:
    if len(like) > 1 and like.isupper():
        return phrase.upper()
    return phrase[0].upper() + phrase[1:] if like[0].isupper() else phrase


@dataclass(frozen=True)
class Altered:
    """Near misses of a prompt: `texts` with `exchanges` phrases exchanged in all of them together."""

    texts: tuple[str, ...]
    exchanges: int


def altered_prompts(text: str, *, rng: np.random.Generator, most: int) -> Altered:
    """Exchange every recognised phrase of a prompt for another of its kind, spread over a few texts.

    Kinds are colours, background colours, shapes (also in the plural), sizes, places, above or below, and
    number words. No text means the same as the prompt: a synonym is no exchange. The case of a phrase and
    the article before it are kept right.

    Args:
        text: any prompt.
        rng: source of the choices; equal states give equal results.
        most: texts at most, 1 or more; with fewer phrases there is one text for each.

    Returns:
        Texts in each of which another part of the phrases is exchanged; none when nothing is recognised.
    """
    pattern, known, kinds = _exchanges()
    matches = list(pattern.finditer(text))
    phrases = []
    for match in matches:
        kind, name = known[match[0].lower()]
        others = [phrases for other, phrases in kinds[kind].items() if other != name]
        phrases.append(_cased(_pick(_pick(others, rng=rng), rng=rng), like=match[0]))
    order = rng.permutation(len(matches)).tolist()
    return Altered(
        texts=tuple(
            _exchanged(text, [(matches[place], phrases[place]) for place in sorted(order[part::most])])
            for part in range(min(most, len(matches)))
        ),
        exchanges=len(matches),
    )


def _exchanged(text: str, exchanges: Sequence[tuple[re.Match[str], str]]) -> str:
    """Return a text with phrases in the place of matches, in their order, behind the right articles."""
    done, end = "", 0
    for match, phrase in exchanges:
        before = text[end : match.start()]
        article = re.search(r"\b(a)n?(\s+)$", before, re.IGNORECASE)
        if article:
            n = "" if phrase[0].lower() not in "aeiou" else "N" if match[0].isupper() else "n"
            before = before[: article.start()] + article[1] + n + article[2]
        done, end = done + before + phrase, match.end()
    return done + text[end:]
