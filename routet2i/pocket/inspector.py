"""The inspector: looks at the pixels of a picture of the shape world and says which facts hold in it.

It segments the picture, reads colours off the world's palette and compares masks with the outlines of the
shapes. It shares the palette, the outlines of the shapes and the widths of lines with the world, but none of
its painting code. It knows neither the jitter of a picture nor any model, and never sees the scene from which
a picture was meant to come: only the facts claimed. It is made for pictures of imperfect models: soft
edges, mild noise, slightly wrong colours and slightly deformed shapes pass, while a formless blob has no
shape and no size.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw
from scipy import ndimage

from routet2i.pocket.world import (
    BACKGROUNDS,
    COLOURS,
    HOLE_OUTLINE_WIDTH,
    OUTLINE_BRIGHTNESS,
    OUTLINE_WIDTH,
    PLACES,
    SHAPES,
    UNITS,
    Fact,
    outlines,
)

MIN_AGREEMENT = 0.9
"""Least overlap (soft Dice, 0..1) with a shape's template for a mask to count as that shape."""

MAX_COLOUR_ERROR = 34.0
"""Largest distance (weighted CIE Lab) from a palette colour for an object to count as having that colour."""

MAX_BACKGROUND_ERROR = 17.0
"""Largest distance (CIE Lab) from a background colour for a picture to count as having that background."""

_MIN_BACKGROUND_SHARE = 0.25
_GROUND_DISTANCE = 14.0
_FOREGROUND_DISTANCE = 32.0
_MIN_FRAGMENT = 3
_MIN_AREA = 14
_SPLIT_SIDE = 22
_SPLIT_AREA = 20
# Shading changes lightness much more than hue.
_LIGHTNESS_WEIGHT = 0.45
_PURITY = np.array([1.0, 0.85, 0.7, 0.55], dtype=np.float32)
_DARKNESS = np.array([1.0, 0.8, 0.65], dtype=np.float32)
_MIXING_PENALTY = 25.0
_DARKNESS_PENALTY = 12.0
_LINE_CONTRASTS = (0.25, 0.5, 1.0)
_OUTLINE_WIDTHS = (OUTLINE_WIDTH, HOLE_OUTLINE_WIDTH)
_SIZE_BORDER = 7.6
_RADII = np.arange(5.0, 10.76, 0.5)
_SHIFTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
_HALF = 13
_SIDE = 2 * _HALF + 1
_SUPERSAMPLING = 4


@dataclass(frozen=True, kw_only=True)
class Found:
    """One object as seen in a picture.

    Attributes:
        colour: nearest palette colour, None when no colour is near enough.
        shape: best matching shape, None when no shape agrees well enough.
        size: size of the best match, None when there is no shape.
        place: cell of the object's centre.
        centre: (x, y) of the object's centre in units.
        radius: outer half-extent of the best match in units.
        agreement: overlap with the best template, 0..1.
        colour_error: distance to the nearest palette colour, weighted CIE Lab.
    """

    colour: str | None
    shape: str | None
    size: str | None
    place: str
    centre: tuple[float, float]
    radius: float
    agreement: float
    colour_error: float

    @property
    def residual(self) -> float:
        """What the best template leaves unexplained, 0..1."""
        return 1 - self.agreement


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What an inspector has to say about a picture and the facts claimed of it.

    Attributes:
        facts: the facts claimed.
        holds: whether each fact holds, in the order of `facts`.
        background: the background seen, None when unclear.
        found: the objects seen.
        matches: index of the object in the scene to index in `found`; missing objects are left out.
    """

    facts: tuple[Fact, ...]
    holds: tuple[bool, ...]
    background: str | None
    found: tuple[Found, ...]
    matches: Mapping[int, int]

    @property
    def share(self) -> float:
        """Share of the facts that hold, 0..1; 1 when nothing was claimed."""
        return sum(self.holds) / len(self.holds) if self.holds else 1.0


# --- colour ----------------------------------------------------------------------------------------------

_LINEAR = np.where(
    np.arange(256) / 255 <= 0.04045,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
).astype(np.float32)
_XYZ = (
    np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    / np.array([[0.9505], [1.0], [1.089]])
).T.astype(np.float32)


def lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert sRGB of shape (..., 3), 0..255, to CIE Lab (D65) of the same shape."""
    xyz = _LINEAR[rgb] @ _XYZ
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + np.float32(16 / 116))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@cache
def _ground_palette() -> NDArray[np.float32]:
    return lab(np.array(list(BACKGROUNDS.values()), dtype=np.uint8))


def _levels(rgb: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (np.clip(rgb, 0, 255) + 0.5).astype(np.uint8)


# --- templates -------------------------------------------------------------------------------------------


def _polygon(points: NDArray[np.float64], *, offset: NDArray[np.float64], radius: float) -> list[float]:
    return ((points * radius + offset) * _SUPERSAMPLING - 0.5).ravel().tolist()


def _mask(shape: str, *, radius: float, centre: NDArray[np.float64], line: float) -> NDArray[np.float32]:
    """How far each pixel of a patch stands out from the ground; outlines do to the degree `line`."""
    side = _SIDE * _SUPERSAMPLING
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    rings = [_polygon(polygon, offset=centre, radius=radius) for polygon in outlines(shape)]
    for index, ring in enumerate(rings):
        draw.polygon(ring, fill=0 if index else 255)
    if line < 1:
        whole = image.copy()
        for index, ring in enumerate(rings):
            # Half of a line along the edge lies inside.
            width = round(2 * _OUTLINE_WIDTHS[min(index, 1)] * _SUPERSAMPLING)
            draw.line([*ring, *ring[:4]], fill=round(255 * line), width=width)
        image = ImageChops.darker(image, whole)
    return np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float32) / np.float32(255)


@dataclass(frozen=True, kw_only=True)
class _Bank:
    """Templates whose centre of mass lies in the middle of the patch, plus shifts of up to half a pixel."""

    masks: NDArray[np.float32]
    energies: NDArray[np.float32]
    shapes: NDArray[np.intp]
    radii: NDArray[np.float64]
    centres: NDArray[np.float64]


@cache
def _bank(line: float) -> _Bank:
    masks, shapes, radii, centres = [], [], [], []
    grid = np.arange(_SIDE) + 0.5
    middle = np.full(2, _SIDE / 2)
    for index, shape in enumerate(SHAPES):
        for radius in _RADII:
            plain = _mask(shape, radius=radius, centre=middle, line=line).astype(np.float64)
            mass = (
                np.array([(plain.sum(axis=0) * grid).sum(), (plain.sum(axis=1) * grid).sum()]) / plain.sum()
            )
            for dx in _SHIFTS:
                for dy in _SHIFTS:
                    centre = 2 * middle - mass + (dx, dy)
                    mask = _mask(shape, radius=radius, centre=centre, line=line)
                    masks.append(_sharpened(mask).ravel())
                    shapes.append(index)
                    radii.append(radius)
                    centres.append(centre - middle)
    stacked = np.stack(masks)
    return _Bank(
        masks=stacked,
        energies=(stacked**2).sum(axis=1),
        shapes=np.array(shapes),
        radii=np.array(radii),
        centres=np.array(centres),
    )


def _sharpened(cover: NDArray[np.float32]) -> NDArray[np.float32]:
    """Steepen soft edges about their half height, so that blur weighs little."""
    return np.clip(2 * cover - np.float32(0.5), 0, 1)


# --- seeing ----------------------------------------------------------------------------------------------


def _cell(x: float, y: float) -> int:
    column = min(max(int(3 * x / UNITS), 0), 2)
    row = min(max(int(3 * y / UNITS), 0), 2)
    return 3 * row + column


@cache
def _cells() -> NDArray[np.intp]:
    thirds = (3 * (np.arange(UNITS) + 0.5) / UNITS).astype(np.intp)
    return 3 * thirds[:, None] + thirds[None, :]


def _ground(picture: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """The background's colour and the share of the picture that has it."""
    edge = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    sides = np.concatenate([picture[2:-2, :2].reshape(-1, 3), picture[2:-2, -2:].reshape(-1, 3)])
    guess = np.median(np.concatenate([edge, sides]), axis=0).astype(np.float32)
    near = np.linalg.norm(lab(picture) - lab(_levels(guess)), axis=-1) < _GROUND_DISTANCE
    share = float(near.mean())
    return (np.median(picture[near], axis=0).astype(np.float32) if share else guess), share


def _regions(foreground: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Masks of the objects: components cut where they span cells, fragments joined within a cell."""
    labels, count = ndimage.label(foreground, structure=np.ones((3, 3)))
    cells = _cells()
    parts: dict[int, NDArray[np.bool_]] = {}
    for index, box in enumerate(ndimage.find_objects(labels, max_label=count), start=1):
        member = labels == index
        area = int(member.sum())
        if area < _MIN_FRAGMENT:
            continue
        pieces = [member]
        if max(box[0].stop - box[0].start, box[1].stop - box[1].start) > _SPLIT_SIDE:
            split = [member & (cells == cell) for cell in np.unique(cells[member])]
            kept = [piece for piece in split if piece.sum() >= _SPLIT_AREA]
            pieces = kept or pieces
        for piece in pieces:
            rows, columns = np.nonzero(piece)
            cell = _cell((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2)
            parts[cell] = parts[cell] | piece if cell in parts else piece
    return [part for _, part in sorted(parts.items()) if part.sum() >= _MIN_AREA]


def _colour_of(
    picture: NDArray[np.float32], *, cover: NDArray[np.float32], ground: NDArray[np.float32]
) -> tuple[int, float]:
    """Index of the palette colour that explains the inner pixels best, and the distance that remains."""
    depth = ndimage.distance_transform_edt(cover > 0.5)
    inside = depth[depth > 0]
    if not inside.size:
        return 0, float("inf")
    deepest = depth >= np.quantile(inside, 0.7)
    typical = lab(_levels(np.median(picture[deepest], axis=0)))
    # Thin parts mix with their outline and with the ground; the purer explanation wins ties.
    pure = np.array(list(COLOURS.values()), dtype=np.float32)
    mixed = _DARKNESS[:, None, None, None] * pure * _PURITY[:, None, None]
    mixed = mixed + (1 - _PURITY[:, None, None]) * ground
    difference = lab(_levels(mixed)) - typical
    errors = np.sqrt((_LIGHTNESS_WEIGHT * difference[..., 0]) ** 2 + (difference[..., 1:] ** 2).sum(axis=-1))
    errors = (
        errors + _MIXING_PENALTY * (1 - _PURITY[:, None]) + _DARKNESS_PENALTY * (1 - _DARKNESS[:, None, None])
    )
    least = errors.min(axis=(0, 1))
    best = int(least.argmin())
    return best, float(least[best])


def _look(picture: NDArray[np.uint8]) -> tuple[str | None, list[Found]]:
    ground, share = _ground(picture)
    errors = np.linalg.norm(_ground_palette() - lab(_levels(ground)), axis=-1)
    nearest = int(errors.argmin())
    clear = share >= _MIN_BACKGROUND_SHARE and errors[nearest] <= MAX_BACKGROUND_ERROR
    background = list(BACKGROUNDS)[nearest] if clear else None
    levels = picture.astype(np.float32)
    # Distances in sRGB are linear in how much of a pixel an object covers.
    distance = np.linalg.norm(levels - ground, axis=-1)
    regions = _regions(distance > _FOREGROUND_DISTANCE)
    if not regions:
        return background, []
    owner = np.zeros(distance.shape, dtype=np.intp)
    for index, region in enumerate(regions, start=1):
        owner[region] = index
    owner = np.where(owner == 0, ndimage.maximum_filter(owner, size=3), owner)
    found = []
    for index, region in enumerate(regions, start=1):
        typical = max(float(np.quantile(distance[region], 0.7)), 1.0)
        cover = _sharpened(np.where(owner == index, distance / np.float32(typical), np.float32(0)))
        colour, colour_error = _colour_of(levels, cover=cover, ground=ground)
        fill = np.array(list(COLOURS.values()), dtype=np.float32)[colour]
        contrast = np.linalg.norm(OUTLINE_BRIGHTNESS * fill - ground) / np.linalg.norm(fill - ground)
        line = min(_LINE_CONTRASTS, key=lambda known: abs(known - contrast))
        shape, radius, centre, agreement = _fit(cover, line=line)
        whole = agreement >= MIN_AGREEMENT
        found.append(
            Found(
                colour=list(COLOURS)[colour] if colour_error <= MAX_COLOUR_ERROR else None,
                shape=SHAPES[shape] if whole else None,
                size=("small" if radius < _SIZE_BORDER else "large") if whole else None,
                place=list(PLACES)[_cell(*centre)],
                centre=centre,
                radius=radius,
                agreement=agreement,
                colour_error=colour_error,
            )
        )
    return background, found


def _fit(cover: NDArray[np.float32], *, line: float) -> tuple[int, float, tuple[float, float], float]:
    """Shape index, radius, centre and agreement of the best template.

    `line` says how far the outline stands out from the ground, in parts of what the filling does.
    """
    total = float(cover.sum())
    if total <= 0:
        return 0, float(_RADII[0]), (UNITS / 2, UNITS / 2), 0.0
    grid = np.arange(UNITS) + 0.5
    x = float((cover.sum(axis=0) * grid).sum()) / total
    y = float((cover.sum(axis=1) * grid).sum()) / total
    column, row = int(x), int(y)
    patch = np.pad(cover, _HALF)[row : row + _SIDE, column : column + _SIDE].ravel()
    # The energy of the whole cover counts: what the patch cuts off speaks against every template.
    bank = _bank(line)
    overlap = 2 * (bank.masks @ patch) / (bank.energies + float((cover**2).sum()))
    best = int(overlap.argmax())
    dx, dy = bank.centres[best].tolist()
    centre = (column + 0.5 + dx, row + 0.5 + dy)
    return int(bank.shapes[best]), float(bank.radii[best]), centre, float(overlap[best])


# --- judging ---------------------------------------------------------------------------------------------


def _agreeing(facts: Sequence[Fact], *, found: Found) -> int:
    """Number of facts that hold of a found object; 0 when neither the colour nor the shape does."""
    held = [fact for fact in facts if getattr(found, fact.kind) == fact.value]
    identity = [fact for fact in facts if fact.kind in ("colour", "shape")]
    if identity and not any(fact in held for fact in identity):
        return 0
    return len(held)


def _assign(scores: Sequence[Sequence[int]]) -> dict[int, int]:
    """Match rows to columns so that the sum of the scores is largest; pairs that score 0 stay unmatched."""
    best: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {0: (0, ())}
    for column in range(len(scores[0]) if scores else 0):
        for taken, (score, pairs) in list(best.items()):
            for row, line in enumerate(scores):
                if taken >> row & 1 or line[column] == 0:
                    continue
                key, total = taken | 1 << row, score + line[column]
                if key not in best or best[key][0] < total:
                    best[key] = (total, (*pairs, (row, column)))
    return dict(max(best.values(), key=lambda entry: entry[0])[1])


def inspect(picture: NDArray[np.uint8], *, facts: Sequence[Fact]) -> Inspection:
    """Say which facts hold in a picture.

    Found objects are matched to the objects that the facts speak of so that as many facts as possible hold; a
    match needs the colour or the shape to be right. An object without a match fails all its facts.

    Args:
        picture: (H, W, 3) sRGB, square; sizes other than 64 are resampled to 64.
        facts: the facts claimed, for instance `Caption.facts`.

    Raises:
        ValueError: when the picture is not a square uint8 picture with three channels.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError("The inspector reads uint8 pictures of shape (H, W, 3): convert the picture first.")
    if picture.shape[0] != picture.shape[1]:
        raise ValueError("The inspector reads square pictures: crop or pad the picture to a square.")
    if picture.shape[0] != UNITS:
        picture = np.asarray(Image.fromarray(picture).resize((UNITS, UNITS), Image.Resampling.BOX))
    background, found = _look(picture)
    stated: dict[int, list[Fact]] = {}
    for fact in facts:
        if fact.thing is not None:
            stated.setdefault(fact.thing, []).append(fact)
    things = list(stated)
    scores = [[_agreeing(stated[thing], found=candidate) for candidate in found] for thing in things]
    matches = {things[row]: column for row, column in sorted(_assign(scores).items())}
    holds = []
    for fact in facts:
        if fact.thing is None:
            holds.append(background == fact.value)
        else:
            match = matches.get(fact.thing)
            holds.append(match is not None and getattr(found[match], fact.kind) == fact.value)
    return Inspection(
        facts=tuple(facts),
        holds=tuple(holds),
        background=background,
        found=tuple(found),
        matches=matches,
    )


def share_by_objects(pairs: Iterable[tuple[int, Inspection]]) -> dict[int, float]:
    """Aggregate inspections to the share of facts that hold, by number of objects.

    Args:
        pairs: number of objects of the scene, and the inspection of its picture.

    Returns:
        Number of objects, ascending, to the share of all facts claimed that hold, 0..1. Numbers for which no
        fact was claimed are left out.
    """
    held: dict[int, list[bool]] = {}
    for objects, inspection in pairs:
        held.setdefault(objects, []).extend(inspection.holds)
    return {objects: sum(holds) / len(holds) for objects, holds in sorted(held.items()) if holds}
