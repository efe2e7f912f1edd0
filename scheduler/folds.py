"""Split prompts into folds so that near-duplicates never stand on both sides.

Groups are connected components of prompts whose sets of words overlap; a fold is a set of whole groups.
It sees texts and numbers only: no scores, no files, no encoder.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

JACCARD = 0.7  # routing.md section 11: from here on two prompts are called one
SLACK = 1e-9  # of a product of a float and a count, so that 7 of 10 words is 0.7
LARGEST_SHARE = 0.2  # of all prompts: one of five folds; a group beyond it is a template, no duplicate
LARGEST_COUNT = 10  # prompts: a group up to here is never taken for a template

_WORD = re.compile(r"\w+")


def words_of(prompt: str) -> frozenset[str]:
    """Return the set of a prompt's words, case folded; a prompt without words is one word, itself."""
    return frozenset(_WORD.findall(prompt.casefold())) or frozenset((prompt.strip(),))


def prompt_groups(prompts: Sequence[str], *, given: Sequence[str] | None = None) -> Rows:
    """Return the group (n,) of each prompt that folds keep together, numbered from 0.

    Near-duplicates, as a rule. Prompts made from one template overlap in most words, and chains of neighbours
    then join nearly all of them into one group that no fold can hold. So, where the largest group holds more
    than a fifth of the prompts, only prompts of equal word sets, and those given one name, stay together.

    Args:
        prompts: n texts.
        given: n names of groups, as in `near_duplicates`.
    """
    groups = near_duplicates(prompts, given=given)
    largest = int(np.bincount(groups).max(initial=0))
    if largest > max(LARGEST_COUNT, LARGEST_SHARE * len(prompts)):
        return near_duplicates(prompts, jaccard=1.0, given=given)
    return groups


def near_duplicates(
    prompts: Sequence[str], *, jaccard: float = JACCARD, given: Sequence[str] | None = None
) -> Rows:
    """Return the group (n,) of each prompt, numbered from 0 in order of first appearance.

    Two prompts are neighbours if their word sets share at least `jaccard` of their union, or if they were
    given the same name; groups are the connected components.

    Args:
        prompts: n texts.
        jaccard: in (0, 1].
        given: n names of groups that somebody else knows of; prompts of one name stay together, too.
            An empty name joins nothing.
    Raises:
        ValueError: jaccard is out of range, or the lengths differ.
    """
    if not 0 < jaccard <= 1:
        raise ValueError(f"jaccard must lie in (0, 1], not {jaccard}")
    if given is not None and len(given) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(given)} given groups")
    parents = list(range(len(prompts)))
    for first, second in _overlapping([words_of(prompt) for prompt in prompts], jaccard=jaccard):
        parents[_root(parents, first)] = _root(parents, second)
    named: dict[str, int] = {}
    for row, name in enumerate(given or ()):
        if name:
            parents[_root(parents, row)] = _root(parents, named.setdefault(name, row))
    numbers: dict[int, int] = {}
    roots = (_root(parents, row) for row in range(len(prompts)))
    return np.array([numbers.setdefault(root, len(numbers)) for root in roots], dtype=np.int64)


def grouped_folds(groups: Rows, *, folds: int, seed: int) -> Rows:
    """Return the fold (n,) of each row in [0, folds): whole groups, folds of nearly equal size.

    Groups are shuffled, then given, largest first, to the smallest fold. The answer depends on the groups'
    numbers and sizes, not on the order of the rows.

    Args:
        groups: (n,) group of each row.
        folds: at least 2.
        seed: of the shuffle.
    Raises:
        ValueError: fewer than 2 folds, or fewer groups than folds.
    """
    numbers, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not 2 <= folds <= len(numbers):
        raise ValueError(
            f"cannot make {folds} folds of {len(numbers)} groups of prompts; "
            "ask for at least 2 folds and at most as many as there are groups"
        )
    order = np.random.default_rng([seed, folds]).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of = np.zeros(len(numbers), dtype=np.int64)
    filled = np.zeros(folds, dtype=np.int64)
    for group in order:
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += sizes[group]
    assigned: Rows = fold_of[index]
    return assigned


def _overlapping(sets: Sequence[frozenset[str]], *, jaccard: float) -> Iterator[tuple[int, int]]:
    """Yield each pair of sets with Jaccard >= `jaccard` once.

    With every set's words in one order, rarest first, two such sets must share a word among the first
    len - ceil(jaccard * len) + 1 of each: only those words are looked up, and most of them are rare.
    Source: prefix filtering, Bayardo, Ma, Srikant, Scaling Up All Pairs Similarity Search (2007).
    """
    frequency = Counter(word for words in sets for word in words)
    holders: dict[str, list[int]] = {}  # word -> earlier rows that have it in their prefix
    for row, words in enumerate(sets):
        ordered = sorted(words, key=lambda word: (frequency[word], word))
        prefix = ordered[: len(words) - math.ceil(jaccard * len(words) - SLACK) + 1]
        candidates = {other for word in prefix for other in holders.get(word, ())}
        for other in candidates:
            shared = len(words & sets[other])
            if shared >= jaccard * (len(words) + len(sets[other]) - shared) - SLACK:
                yield other, row
        for word in prefix:
            holders.setdefault(word, []).append(row)


def _root(parents: list[int], row: int) -> int:
    """Return the component's representative, halving the path on the way."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row
