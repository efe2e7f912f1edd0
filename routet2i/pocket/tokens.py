"""The pocket family's tokenizer: CLIP's byte-pair encoding with a vocabulary of shape-world words.

Every word of the grammar and of the metric texts becomes one token; anything else falls back to bytes, so any
text can be encoded. It knows words, neither pictures nor models.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

CONTEXT_LENGTH = 77  # as in Stable Diffusion
START, END = "<|startoftext|>", "<|endoftext|>"
_SUFFIX = "</w>"


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Return a tokenizer in which each of `words` is one token.

    The two special tokens get the highest ids: open_clip finds the end of a text as the largest id.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,  # more than can be needed: merging ends when every word is one token
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=_SUFFIX,
        show_progress=False,
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix=_SUFFIX))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.train_from_iterator(sorted(set(words)), trainer)
    merges = _merges(learner)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(letter + _SUFFIX for letter in letters)]
    entries += [left + right for left, right in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(entries))}
    vocabulary[START] = len(vocabulary)
    vocabulary[END] = len(vocabulary)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # it takes pairs; its annotation says otherwise
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
    )


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer's files in the standard layout."""
    tokenizer.save_pretrained(str(folder))
