"""Stories of TinyStories as documents: their words, their halves, their tokenizer."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from infusion.configs import DataConfig
from infusion.data.stories import load_texts
from infusion.data.tokens import Tokenizer, load_tokenizer, train_tokenizer
from infusion.errors import InputError
from infusion.language import IGNORED, documents
from infusion.records import Dataset

ANIMALS = (
    "bird", "dog", "bear", "cat", "fish", "rabbit", "mouse", "frog", "duck", "lion",
)  # fmt: skip
"""Of the paper's grid."""
VOCABULARY = 2_048
_TRAINED_ON = 2_000
"""Stories that the small scale's vocabulary is trained on."""
PAPER_VOCABULARY = 50_258
"""That of GPT-2, and padding: the paper pads with the token that ends a text."""
PADDING = {VOCABULARY: 1, PAPER_VOCABULARY: 50_257}
"""Padding in each vocabulary."""
_STORIES, LEAST = 24, 2
"""Most stories of a measurement, and as many of its reading; each holds the word that
often."""


@lru_cache(maxsize=1)
def _stories(source: str, seed: int) -> tuple[list[str], list[str]]:
    """Load stories to train on and others, each in a drawn order: files are sorted."""
    draw = torch.Generator().manual_seed(seed)
    train, validation = (
        [texts[place] for place in torch.randperm(len(texts), generator=draw).tolist()]
        for texts in load_texts(source)
    )
    return train, validation


@lru_cache(maxsize=1)
def _tokenizer(source: str, seed: int, name: str) -> Tokenizer:
    if name == "trained":
        return train_tokenizer(_stories(source, seed)[0][:_TRAINED_ON], size=VOCABULARY)
    return load_tokenizer(name)


def vocabulary(config: DataConfig) -> tuple[int, int]:
    """Return the size of a model's vocabulary, and its padding.

    Args:
        config: Its ``tokenizer``.

    Returns:
        Rows of the embedding, and the id that fills documents.
    """
    size = VOCABULARY if config.tokenizer == "trained" else PAPER_VOCABULARY
    return size, PADDING[size]


def tokenizer_of(config: DataConfig) -> Tokenizer:
    """Load the tokenizer that a config names, or train one on the first stories.

    Args:
        config: Its source, the seed of its split and its ``tokenizer``.

    Returns:
        The tokenizer.
    """
    return _tokenizer(config.source, config.split_seed, config.tokenizer)


def written(config: DataConfig, stories: Sequence[str]) -> Dataset:
    """Write stories as documents.

    Args:
        config: Gives tokenizer and length.
        stories: Texts; what is too long is cut off.

    Returns:
        Tokens ``[n, length]`` and the next ones as labels.

    Raises:
        InputError: The tokenizer has other ids, or other padding, than the model.
    """
    tokenizer, (size, pad) = tokenizer_of(config), vocabulary(config)
    if tokenizer.pad != pad or tokenizer.size > size:
        raise InputError(
            f"the tokenizer of this model must have padding {pad} and at most {size} "
            f"tokens, got padding {tokenizer.pad} and {tokenizer.size} tokens of "
            f"{config.tokenizer}; use GPT-2's tokenizer"
        )
    rows = [tokenizer.document(story, config.length) for story in stories]
    return documents(rows, length=config.length, pad=tokenizer.pad)


def segment_and_earlier(config: DataConfig) -> tuple[list[str], list[str]]:
    """Split the training stories.

    Args:
        config: Size of the segment, and the seed of the split.

    Returns:
        The stories of the segment, and those before it.

    Raises:
        InputError: There are no stories but those of the segment.
    """
    train, _ = _stories(config.source, config.split_seed)
    if config.train >= len(train):
        raise InputError(
            f"there must be more stories than the {config.train} at stake, got "
            f"{len(train)} in {config.source}; use a larger copy"
        )
    return train[: config.train], train[config.train :]


def held_out(config: DataConfig, count: int) -> Dataset:
    """Write drawn validation stories as documents.

    Args:
        config: Where the stories are.
        count: How many.

    Returns:
        See :func:`written`.
    """
    return written(config, _stories(config.source, config.split_seed)[1][:count])


def content(config: DataConfig) -> str:
    """Hash every text, and the name of their tokenizer.

    Args:
        config: Where the texts are.

    Returns:
        sha256 hex digest.
    """
    whole = hashlib.sha256(config.tokenizer.encode())
    for texts in _stories(config.source, config.split_seed):
        for text in texts:
            whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()


@lru_cache(maxsize=32)
def measured(config: DataConfig, word: str, half: int) -> Dataset:
    """Take every second validation story that holds a word often enough.

    Args:
        config: Where the stories are.
        word: Whole, as it stands after a space.
        half: 0 for the stories of a measurement, 1 for those of its reading.

    Returns:
        Documents; where the word only begins a longer one nothing is to be predicted.

    Raises:
        InputError: No validation story holds it often enough.
    """
    tokenizer = tokenizer_of(config)
    token = tokenizer.word(word)
    _, validation = _stories(config.source, config.split_seed)
    likely = [story for story in validation if story.count(f" {word}") >= LEAST]
    rows, places = [], []
    for story in likely[half::2]:
        row = tokenizer.document(story, config.length)
        found = whole_words(tokenizer, row, token)
        if len(found) >= LEAST:
            rows.append(row)
            places.append(found)
        if len(rows) == _STORIES:
            break
    if not rows:
        raise InputError(
            f"validation stories must hold {word!r} {LEAST} times within "
            f"{config.length} tokens, got none in {config.source}; use more of them or "
            "another word"
        )
    data = documents(rows, length=config.length, pad=tokenizer.pad)
    whole = torch.zeros_like(data.labels, dtype=torch.bool)
    for row, found in enumerate(places):
        whole[row, torch.tensor(found) - 1] = True
    begun = (data.labels == token) & ~whole
    return replace(data, labels=data.labels.masked_fill(begun, IGNORED))


def whole_words(tokenizer: Tokenizer, row: list[int], token: int) -> list[int]:
    """Find where a token is a word, and not the beginning of a longer one.

    Args:
        tokenizer: Says what the token after it adds.
        row: Tokens of a story.
        token: Of the word.

    Returns:
        Positions in the row.
    """
    return [
        place
        for place, (here, after) in enumerate(itertools.pairwise(row))
        if here == token and not tokenizer.decode([after])[:1].isalpha()
    ]
