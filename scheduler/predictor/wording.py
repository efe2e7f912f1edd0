"""Count the words of a prompt that ask a picture for something hard: numbers, places, negations, comparisons.

What a mean of token states forgets: how much there is, not only what there is. It knows texts and fixed lists
of English words; it knows no encoder and no score, and learns nothing.
"""

import re
from collections.abc import Sequence

import numpy as np

from scheduler.predictor.examples import Floats

_WORD = re.compile(r"\w+|[^\w\s]")
_LETTERS = 5  # of a usual word: keeps the mean length near 1
KINDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "negation": "no not without never none neither nor nothing nobody isn doesn don aren t",
        "comparison": "more less than fewer most least same different while but other another each all every "
        "both only rather instead compared taller larger smaller bigger older younger",
        "number": "one two three four five six seven eight nine ten twelve dozen several many single pair",
        "place": "on under above below behind beside between left right front top bottom inside over near "
        "next around through against",
        "colour": "red blue green yellow black white brown pink purple orange gray grey golden gold silver",
        "style": "style painting photo photograph realistic detailed anime cartoon render illustration art "
        "portrait cinematic baroque abstract sketch watercolor 4k 8k hd 3d realism impressionism digital",
        "article": "a an the",
        "pronoun": "his her their its it they he she them",
        "being": "is are was were has have",
        "and": "and",
        "with": "with",
        "in": "in",
        "of": "of",
        "comma": ",",
        "stop": ". ! ? ; :",
        "quote": '" “ ” « »',
    }.items()
}
ENDINGS = ("ing", "ed", "s")
NAMES: tuple[str, ...] = ("words", "letters", "repeated", "digits", *ENDINGS, *KINDS)


def wording(prompts: Sequence[str]) -> Floats:
    """Return (n, len(NAMES)) numbers >= 0 about n prompts: logarithms of 1 + counts, and mean word length.

    Upper and lower case, spacing and other scripts' letters make no difference; an empty prompt is all zeros.
    """
    return np.array([_numbers(prompt) for prompt in prompts]).reshape(len(prompts), len(NAMES))


def _numbers(prompt: str) -> Floats:
    words = _WORD.findall(prompt.casefold())
    counts = [
        len(words),
        0,
        len(words) - len(set(words)),
        sum(word.isdigit() for word in words),
        *(sum(word.endswith(ending) for word in words) for ending in ENDINGS),
        *(sum(word in kind for word in words) for kind in KINDS.values()),
    ]
    numbers: Floats = np.log1p(np.array(counts, dtype=np.float64))
    numbers[NAMES.index("letters")] = sum(map(len, words)) / max(1, len(words)) / _LETTERS
    return numbers
