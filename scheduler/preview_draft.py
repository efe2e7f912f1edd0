"""The lines of a preview between two readings: what a plan weighs in memory, their words in a temporary file.

It keeps prices and gains as arrays, some forty bytes a line, and hands the lines out again in their order, a
block at a time. It chooses nothing and writes nothing that outlives the command.
"""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self, cast

import numpy as np
import orjson

from routet2i.contracts import GenerationRequest, Prediction, Yardstick
from routet2i.tiers import Tiers
from scheduler.allocation.hulls import floors
from scheduler.allocation.options import Floats, Mask, Money, Options
from scheduler.gains import options_of

ROWS = 1024  # lines handed out at once


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftLine:
    """What a preview needs of a request once its prompt was judged."""

    line_no: int
    custom_id: str
    prompt: str
    n: int
    width: int | None
    height: int | None
    tier: str | None  # that must draw it; None = any


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Lines that follow each other, with what was predicted for each."""

    start: int  # row of the first one
    lines: tuple[DraftLine, ...]
    predictions: tuple[Prediction, ...]

    @property
    def rows(self) -> slice:
        """Return where they stand in arrays with a row per line."""
        return slice(self.start, self.start + len(self.lines))


class Draft:
    """Lines that were predicted and not yet planned; leave it to remove its temporary file."""

    def __init__(self, *, tiers: Tiers, yardstick: Yardstick | None) -> None:
        """Begin without a line.

        Args:
            yardstick: of the predictor; None = it has none.
        """
        self.tiers = tiers
        self.pictures = 0  # of all lines
        self._yardstick = yardstick
        self._micro_usd, self._gain, self._rank = array("q"), array("d"), array("q")
        self._allowed = array("B")
        self._words = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by `__exit__`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._words.close()

    def __len__(self) -> int:
        return len(self._rank)

    @property
    def floor_micro_usd(self) -> int:
        """Return what all lines cost on the cheapest tier that may draw each."""
        return int(floors(self.options())[1].sum())

    def add(self, requests: Sequence[GenerationRequest], predictions: Sequence[Prediction]) -> None:
        """Take some lines, in file order, before `options` is first asked for.

        Args:
            predictions: one per request.
        """
        options = options_of(
            requests,
            predictions,
            tiers=self.tiers,
            yardstick=self._yardstick,
            rank=[one.line_no for one in requests],
        )
        allowed = np.ones(options.gain.shape, np.bool_) if options.allowed is None else options.allowed
        self._micro_usd.frombytes(options.micro_usd.tobytes())
        self._gain.frombytes(options.gain.tobytes())
        self._rank.frombytes(options.rank.tobytes())
        self._allowed.frombytes(allowed.tobytes())
        self.pictures += sum(one.n for one in requests)
        for one, told in zip(requests, predictions, strict=True):
            self._words.write(
                orjson.dumps(
                    (
                        one.line_no,
                        one.custom_id,
                        one.prompt,
                        one.n,
                        one.width,
                        one.height,
                        one.tier,
                        told.prs,
                        told.scores,
                    ),
                    option=orjson.OPT_APPEND_NEWLINE,
                )
            )

    def options(self) -> Options:
        """Return prices and gains of all lines; they are views, and no line can be added from now on."""
        shape = (len(self), len(self.tiers.routed))
        micro_usd: Money = np.frombuffer(self._micro_usd, np.int64).reshape(shape)
        gain: Floats = np.frombuffer(self._gain, np.float64).reshape(shape)
        allowed: Mask = np.frombuffer(self._allowed, np.bool_).reshape(shape)
        return Options(
            micro_usd=micro_usd,
            gain=gain,
            rank=np.frombuffer(self._rank, np.int64),
            allowed=None if allowed.all() else allowed,
        )

    def blocks(self) -> Iterator[Block]:
        """Yield all lines again, in order."""
        self._words.seek(0)
        for start in range(0, len(self), ROWS):
            told = [orjson.loads(self._words.readline()) for _ in range(min(ROWS, len(self) - start))]
            yield Block(
                start=start,
                lines=tuple(
                    DraftLine(
                        line_no=no, custom_id=name, prompt=prompt, n=n, width=width, height=height, tier=tier
                    )
                    for no, name, prompt, n, width, height, tier, _, _ in told
                ),
                predictions=tuple(Prediction(prs=one[7], scores=one[8]) for one in told),
            )
