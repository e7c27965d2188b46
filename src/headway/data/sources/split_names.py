"""The names of the parts of a data set: training, test and validation, however they are commonly spelled."""

from __future__ import annotations

import re

_SPLITS = {
    "train": "train training trn",
    "test": "test testing tests tst",
    "validation": "val valid validation validate validating dev eval evaluation",
}
_WORDS = {word: part for part, words in _SPLITS.items() for word in words.split()}
_FILLERS = frozenset({"", "set", "data", "dataset", "images", "image", "imgs", "img", "pictures", "split", "part"})


def part_named(name: str) -> str | None:
    """The part of the data that a name stands for: "train", "test" or "validation"; None for another name.

    >>> [part_named(name) for name in ("Training", "test_set", "seg_train", "valid", "trains", "cat")]
    ['train', 'test', 'train', 'validation', None, None]
    """
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    words = [word for word in words if word not in _FILLERS]
    parts = {_WORDS[word] for word in words if word in _WORDS}
    if not parts and len(words) == 1:
        parts = {part for word, part in _WORDS.items() for end in _FILLERS - {""} if words[0] == word + end}
    return parts.pop() if len(parts) == 1 and len(words) <= 2 else None
