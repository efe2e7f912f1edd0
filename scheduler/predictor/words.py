"""An explanation by words, as people read a prompt, instead of by tokens, as an encoder cuts it.

It finds each token's place in the prompt and adds up what stands in one word. It knows the marks that
tokenizers leave on their pieces; it knows no network, no colour and no terminal.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scheduler.predictor.examples import Floats

FURTHEST = 1e-9  # from 0 and 1: a D beyond has no finite argument
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")  # don't and red-hot are one word, a comma is one too
_UNIT = re.compile(r"\w+|[^\w\s]")  # what a tokenizer gives up on as a whole
_MARKS = re.compile("^(?:##|[▁Ġ])|</w>$")  # WordPiece, SentencePiece, byte-level BPE, CLIP's BPE


class Explained(Protocol):
    """What is read of `routet2i.Explanation`; L tokens, N metrics."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return the L tokens' texts."""

    @property
    def weights(self) -> Floats:
        """Return (N,) weights of PRS."""

    @property
    def d(self) -> Floats:
        """Return (N,) predicted D."""

    @property
    def kept(self) -> Floats:
        """Return (N, L) shares of the experts' attention."""

    @property
    def pull(self) -> Floats:
        """Return (N, L) pulls towards the edge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """W words of one prompt, with N metrics."""

    texts: tuple[str, ...]  # (W,)
    spans: tuple[tuple[int, int], ...]  # (W,) first character in the prompt, and the one behind
    kept: Floats  # (N, W) share of an expert's attention that a word gets; 0 = not looked at
    pull: Floats  # (N, W) how far it moves the argument of D; > 0 towards edge
    effect: Floats  # (W,) how far it moves PRS, in [-1, 1]; > 0 towards edge


def by_words(explained: Explained, *, prompt: str) -> Words:
    """Return an explanation's tokens as the words of its prompt.

    A word's share and pull are the sums of its pieces'; its effect is PRS less what PRS would be without that
    pull, metric by metric. Words behind the encoder's last token have none.
    """
    found = list(_WORD.finditer(prompt))
    places = token_places(prompt, explained.tokens)
    member = np.zeros((len(places), len(found)))  # (L, W)
    for row, place in enumerate(places):
        for column, word in enumerate(found):
            member[row, column] = word.start() <= place < word.end()
    pull = explained.pull @ member
    d = np.clip(explained.d, FURTHEST, 1 - FURTHEST)[:, None]
    without = 1.0 / (1.0 + (1.0 - d) / d * np.exp(pull))  # sigmoid(logit(d) - pull)
    return Words(
        texts=tuple(word[0] for word in found),
        spans=tuple(word.span() for word in found),
        kept=explained.kept @ member,
        pull=pull,
        effect=explained.weights @ (np.clip(explained.d, FURTHEST, 1 - FURTHEST)[:, None] - without),
    )


def token_places(prompt: str, tokens: Sequence[str]) -> list[int]:
    """Return where in the prompt each token begins; -1 for tokens that are nowhere in it.

    Tokens come in the prompt's order. Case and accents are ignored, for many encoders drop them; a token that
    is not found (an unknown word's) stands for the next whole word.
    """
    letters, origin = _plain(prompt)
    places, cursor = [], 0
    for token in tokens:
        piece = _plain(_MARKS.sub("", token))[0]
        while cursor < len(letters) and letters[cursor].isspace():
            cursor += 1
        at = letters.find(piece, cursor) if piece else -1
        if at < 0:
            unit = _UNIT.match(letters, cursor)
            at, end = unit.span() if unit else (len(letters), len(letters))
        else:
            end = at + len(piece)
        places.append(origin[at] if at < len(origin) else -1)
        cursor = end
    return places


def _plain(text: str) -> tuple[str, list[int]]:
    """Return a text without case and accents, and for each of its letters the place in the original."""
    pairs = [
        (letter, place)
        for place, one in enumerate(text)
        for letter in unicodedata.normalize("NFKD", one.casefold())
        if not unicodedata.combining(letter)
    ]
    return "".join(letter for letter, _ in pairs), [place for _, place in pairs]
