"""Ten graded degradations of pictures of the shape world, one per quality metric.

Every degradation takes a scene and a severity and returns a damaged picture; the damage grows with the
severity from nothing at 0 to gross at 1. The module does not know how the metrics measure, only what each is
meant to be sensitive to, and it knows no model: the damage is made by plain image operations.

All randomness is drawn before the severity enters: with equal generators, two severities show the same damage
in two strengths.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from routet2i.pocket.world import (
    OUTLINE_BRIGHTNESS,
    SHADING,
    UNITS,
    Layout,
    Scene,
    Sprite,
    lay_out,
    paint,
    paint_sprite,
    sample_scene,
)

Picture = NDArray[np.uint8]
_Levels = NDArray[np.float32]


class Degradation(Protocol):
    """A damaged picture of a scene: (64, 64, 3) for a severity in 0..1."""

    def __call__(self, scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
        """Paint the scene and damage the picture."""
        ...


def _picture(levels: NDArray[np.floating]) -> Picture:
    return (np.clip(levels, 0, 255) + 0.5).astype(np.uint8)


def _clean(scene: Scene, *, rng: np.random.Generator) -> _Levels:
    return paint(lay_out(scene, rng=rng)).astype(np.float32)


def _grid() -> tuple[_Levels, _Levels]:
    """(x, y) of the pixel centres, of shapes (1, 64) and (64, 1)."""
    axis = np.arange(UNITS, dtype=np.float32) + np.float32(0.5)
    return axis[None, :], axis[:, None]


def _disc(*, x: float, y: float, radius: float) -> _Levels:
    """Antialiased disc of shape (64, 64, 1), 0..1."""
    across, down = _grid()
    distance = np.sqrt((across - x) ** 2 + (down - y) ** 2)
    return np.clip(radius + 0.5 - distance, 0, min(1.0, 2 * radius))[..., None].astype(np.float32)


def _cover(sprite: Sprite) -> _Levels:
    """Cover of one object, (64, 64), 0..1."""
    canvas = np.zeros((UNITS, UNITS, 3), dtype=np.float32)
    paint_sprite(canvas, sprite=replace(sprite, rgb=(1.0, 1.0, 1.0)), outline=1.0, shading=0.0)
    return canvas[..., 0]


def _hue(angle: float) -> _Levels:
    """A saturated colour for an angle in turns, levels 0..255."""
    phases = 2 * np.pi * (angle + np.array([0.0, 1 / 3, 2 / 3]))
    return (127.5 + 127.5 * np.clip(1.5 * np.cos(phases), -1, 1)).astype(np.float32)


def _definition(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Low resolution: sampled down to as few as 9 pixels across and up again."""
    clean = Image.fromarray(_picture(_clean(scene, rng=rng)))
    across = round(UNITS * (9 / UNITS) ** severity)
    small = clean.resize((across, across), Image.Resampling.BOX)
    return np.array(small.resize((UNITS, UNITS), Image.Resampling.NEAREST))


def _detail(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Fine structure lost at sharp edges: no outlines, no shading, rounded corners, filled gaps."""
    layout = lay_out(scene, rng=rng)
    if severity == 0:
        return paint(layout)
    fade = min(1.0, 1.6 * severity)
    plain = np.empty((UNITS, UNITS, 3), dtype=np.float32)
    plain[:] = layout.ground
    rounded = plain.copy()
    for sprite in layout.sprites:
        outline = OUTLINE_BRIGHTNESS + (1 - OUTLINE_BRIGHTNESS) * fade
        paint_sprite(plain, sprite=sprite, outline=outline, shading=SHADING * (1 - fade))
        soft = ndimage.gaussian_filter(_cover(sprite), 0.5 * severity * sprite.radius)
        # Rescaled by its peak so that small objects turn into blobs and do not vanish.
        melted = np.clip((soft / max(float(soft.max()), 1e-6) - 0.4) * 4 + 0.5, 0, 1)[..., None]
        rounded += melted * (np.asarray(sprite.rgb, dtype=np.float32) - rounded)
    share = np.float32(min(1.0, 2 * severity))
    return _picture((1 - share) * plain + share * rounded)


def _clarity(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Fog: a Gaussian veil and a pull towards light gray."""
    clean = _clean(scene, rng=rng)
    haze = np.float32(rng.uniform(165, 205))
    if severity == 0:
        return _picture(clean)
    soft = ndimage.gaussian_filter(clean, (2.5 * severity, 2.5 * severity, 0), mode="nearest")
    return _picture(soft + np.float32(0.75 * severity) * (haze - soft))


def _sharpness(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Out of focus (a disc) or shaken (a line), with equal chances."""
    clean = _clean(scene, rng=rng)
    shaken, angle = rng.random() < 0.5, rng.uniform(0, np.pi)
    if severity == 0:
        return _picture(clean)
    margin = 10
    axis = np.arange(-margin, margin + 1)
    x, y = axis[None, :], axis[:, None]
    if shaken:
        half = 8.5 * severity
        along = np.clip(x * np.cos(angle) + y * np.sin(angle), -half, half)
        distance = np.hypot(x - along * np.cos(angle), y - along * np.sin(angle))
        kernel = np.clip(1 - distance, 0, 1)
    else:
        radius = 0.5 + 4.7 * severity
        kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    padded = np.pad(clean, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    shape = (padded.shape[0], padded.shape[1])
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel / kernel.sum(), s=shape)[..., None]
    return _picture(np.fft.irfft2(spectrum, s=shape, axes=(0, 1))[2 * margin :, 2 * margin :])


def _harmony(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Clashing colours: a gradient between two hues and soft patches of random hues over everything."""
    levels = _clean(scene, rng=rng)
    across, down = _grid()
    turn, start = rng.uniform(0, 2 * np.pi), rng.random()
    slope = 0.5 + ((across - UNITS / 2) * np.cos(turn) + (down - UNITS / 2) * np.sin(turn)) / (1.4 * UNITS)
    slope = np.clip(slope, 0, 1)[..., None].astype(np.float32)
    gradient = _hue(start) * (1 - slope) + _hue(start + 0.45) * slope
    levels = levels + np.float32(0.35 * severity) * (gradient - levels)
    for x, y, radius, hue in rng.uniform((0, 0, 6, 0), (UNITS, UNITS, 15, 1), size=(9, 4)).tolist():
        levels = levels + np.float32(0.8 * severity) * _disc(x=x, y=y, radius=radius) * (_hue(hue) - levels)
    return _picture(levels)


def _realism(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Grain and banding: noise per pixel, then few levels per channel."""
    clean = _clean(scene, rng=rng)
    grain = rng.normal(size=clean.shape).astype(np.float32)
    if severity == 0:
        return _picture(clean)
    noisy = clean + np.float32(42 * severity) * grain
    step = np.float32(1 + 80 * severity)
    return _picture(np.round(noisy / step) * step)


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def _color(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Wrong colours: hues turned, saturation lost, the same everywhere."""
    clean = _clean(scene, rng=rng)
    turn = rng.uniform(1.4, 2.2) * (1 if rng.random() < 0.5 else -1) * severity
    if severity == 0:
        return _picture(clean)
    cosine, sine = (1 - 0.65 * severity) * np.cos(turn), (1 - 0.65 * severity) * np.sin(turn)
    turned = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ _TO_YIQ
    return _picture(clean @ (np.linalg.inv(_TO_YIQ) @ turned).T)


def _consistency(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Two pictures in one: the ghost of another scene, and patches cut from it."""
    clean = _clean(scene, rng=rng)
    other = sample_scene(rng, objects=int(rng.integers(3, 6)))
    while other.background == scene.background:
        other = sample_scene(rng, objects=int(rng.integers(3, 6)))
    foreign = _clean(other, rng=rng)
    levels = clean + np.float32(0.45 * severity) * (foreign - clean)
    across, down = _grid()
    for x, y in rng.uniform(8, UNITS - 8, size=(3, 2)).tolist():
        half = 13 * severity
        inside = np.clip(half + 0.5 - np.maximum(np.abs(across - x), np.abs(down - y)), 0, min(1.0, 2 * half))
        levels = levels + inside[..., None].astype(np.float32) * (foreign - levels)
    return _picture(levels)


def _layout(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Disorder: objects leave their cells, swell, overlap, are cut by the border, and copies crowd in."""
    layout = lay_out(scene, rng=rng)
    turns = rng.uniform(0, 2 * np.pi, size=len(layout.sprites)).tolist()
    reaches = rng.uniform(14, 26, size=len(layout.sprites)).tolist()
    swellings = rng.uniform(0.1, 0.5, size=len(layout.sprites)).tolist()
    spots = rng.uniform(2, UNITS - 2, size=(4, 2)).tolist()
    if severity == 0:
        return paint(layout)
    moved = [
        replace(
            sprite,
            centre=(
                sprite.centre[0] + severity * reach * float(np.cos(turn)),
                sprite.centre[1] + severity * reach * float(np.sin(turn)),
            ),
            radius=sprite.radius * (1 + severity * swelling),
        )
        for sprite, turn, reach, swelling in zip(layout.sprites, turns, reaches, swellings, strict=True)
    ]
    copies = []
    for index, (x, y) in enumerate(spots):
        # Copies grow one after the other so that the crowd thickens over the whole range.
        growth = np.clip(1.6 * severity - 0.2 * index, 0, 1)
        if growth > 0.15:
            model = layout.sprites[index % len(layout.sprites)]
            copies.append(replace(model, centre=(x, y), radius=8 * float(growth)))
    return paint(Layout(ground=layout.ground, sprites=(*moved, *copies)))


def _integrity(scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Broken objects: bites out of them, and their fragments strewn about."""
    layout = lay_out(scene, rng=rng)
    levels = paint(layout).astype(np.float32)
    ground = np.asarray(layout.ground, dtype=np.float32)
    bites = rng.uniform((0, 0.35, 0.35), (1, 0.8, 0.9), size=(len(layout.sprites), 4, 3))
    strewn = rng.uniform((0, 0.8, 0.12), (1, 2.2, 0.3), size=(len(layout.sprites), 5, 3))
    if severity == 0:
        return _picture(levels)
    # The damaged area grows with the square of the size.
    size = severity**0.6
    for sprite, holes in zip(layout.sprites, bites.tolist(), strict=True):
        for turn, reach, radius in holes:
            x = sprite.centre[0] + reach * sprite.radius * float(np.cos(2 * np.pi * turn))
            y = sprite.centre[1] + reach * sprite.radius * float(np.sin(2 * np.pi * turn))
            bite = _disc(x=x, y=y, radius=size * radius * sprite.radius)
            levels = levels + bite * (ground - levels)
    for sprite, pieces in zip(layout.sprites, strewn.tolist(), strict=True):
        for turn, reach, radius in pieces:
            x = sprite.centre[0] + reach * sprite.radius * float(np.cos(2 * np.pi * turn))
            y = sprite.centre[1] + reach * sprite.radius * float(np.sin(2 * np.pi * turn))
            piece = _disc(x=x, y=y, radius=size * radius * sprite.radius)
            levels = levels + piece * (np.asarray(sprite.rgb, dtype=np.float32) - levels)
    return _picture(levels)


DEGRADATIONS: Mapping[str, Degradation] = MappingProxyType(
    {
        "definition": _definition,
        "detail": _detail,
        "clarity": _clarity,
        "sharpness": _sharpness,
        "harmony": _harmony,
        "realism": _realism,
        "color": _color,
        "consistency": _consistency,
        "layout": _layout,
        "integrity": _integrity,
    }
)
"""Metric name to the degradation it is meant to notice."""


def degrade(name: str, scene: Scene, severity: float, *, rng: np.random.Generator) -> Picture:
    """Paint a scene with one kind of damage.

    Args:
        name: a key of `DEGRADATIONS`.
        scene: what to paint.
        severity: strength in 0..1; 0 gives exactly the picture that `render` gives for an equal generator.
        rng: source of the variation and of the damage.

    Returns:
        (64, 64, 3) picture.

    Raises:
        ValueError: when the name is unknown or the severity is out of range.
    """
    if name not in DEGRADATIONS:
        raise ValueError(f"Unknown degradation {name!r}: choose one of {', '.join(DEGRADATIONS)}.")
    if not 0 <= severity <= 1:
        raise ValueError(f"Severity {severity} is out of range: give a number from 0 to 1.")
    return DEGRADATIONS[name](scene, severity, rng=rng)
