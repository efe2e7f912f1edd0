"""The whole words that the tiny BERT of `conftest` can tell apart, for prompts made of them."""

WORDS = (
    *("a", "red", "blue", "circle", "star", "above", "left", "of", "big", "small"),
    *("snowman", "cube", "ring"),
)
