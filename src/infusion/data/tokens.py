"""Tokenizers: one trained on the texts at hand, or one that exists."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from infusion.errors import InputError, check_installed, check_whole

END, PAD = "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class Tokenizer:
    """Text to tokens and back.

    Attributes:
        encode: Text to ids, nothing added.
        decode: Ids to text.
        size: Number of ids, that of padding included.
        end: Id between texts.
        pad: Id of padding, which no text holds.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    size: int
    end: int
    pad: int

    def document(self, text: str, length: int) -> list[int]:
        """Write a text between two ends; what is too long loses its end.

        Args:
            text: Not empty.
            length: Most tokens.

        Returns:
            Ids.

        Raises:
            InputError: The text is empty.
        """
        if not text.strip():
            raise InputError(
                "a text must hold something, got an empty one; leave it out"
            )
        return [self.end, *self.encode(text), self.end][:length]

    def survives(self, ids: Sequence[int]) -> bool:
        """Tell whether a document is read back as it is after decoding.

        Args:
            ids: Ends included, padding left out.

        Returns:
            False where decoding and encoding give other tokens.
        """
        inner = list(ids[1:-1] if ids[-1] == self.end else ids[1:])
        return ids[0] == self.end and self.encode(self.decode(inner)) == inner

    def word(self, word: str) -> int:
        """Look up a word that follows a space.

        Args:
            word: Without the space.

        Returns:
            Its id.

        Raises:
            InputError: It is blank, or not one token.
        """
        if not word.strip():
            raise InputError(
                f"a word to measure must not be blank, got {word!r}; name one that the "
                "texts hold"
            )
        ids = self.encode(f" {word}")
        if len(ids) != 1:
            bare = len(self.encode(word))
            raise InputError(
                f"a word to measure must be one token after a space, got {len(ids)} "
                f"for {word!r} (and {bare} without the space); choose another word or "
                "a larger vocabulary"
            )
        return ids[0]


def train_tokenizer(texts: Iterable[str], *, size: int) -> Tokenizer:
    """Train byte-level pair encoding (Sennrich et al., 2016, arXiv 1508.07909).

    Args:
        texts: What it is trained on; the same texts give the same tokens.
        size: Number of ids, two of them special.

    Returns:
        The tokenizer.

    Raises:
        InputError: The size does not hold all bytes, or the extra ``text`` is missing.
    """
    check_whole("size of a vocabulary", size, 258)
    check_installed("tokenizers", "text")
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(
        texts, vocab_size=size, special_tokens=[END, PAD], show_progress=False
    )
    return _byte_level(made)


def _byte_level(made: Any) -> Tokenizer:
    """Wrap a tokenizer of bytes that knows both special tokens."""
    return Tokenizer(
        encode=lambda text: made.encode(text).ids,
        decode=lambda ids: made.decode(list(ids)),
        size=made.get_vocab_size(),
        end=made.token_to_id(END),
        pad=made.token_to_id(PAD),
    )


def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer of ``transformers``; one without padding is given a new id.

    Args:
        name: Folder, or name on the hub.

    Returns:
        The tokenizer; its padding is the last id, which no text holds.

    Raises:
        InputError: It cannot be loaded, has no token that ends a text, or the extra
            ``text`` is missing.
    """
    check_installed("transformers", "text")
    from transformers import AutoTokenizer

    files = [Path(name) / file for file in ("vocab.json", "merges.txt")]
    if (
        all(file.is_file() for file in files)
        and not (Path(name) / "tokenizer_config.json").is_file()
    ):  # bare files of GPT-2's kind, which say nothing of their class
        return _of_files(*map(str, files))
    try:
        loaded = cast("Any", AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError) as error:
        raise InputError(
            f"a tokenizer must be a folder or a name on the hub, got {name!r}: "
            f"{str(error).splitlines()[0]}; check the path"
        ) from error
    if loaded.eos_token_id is None:
        raise InputError(
            f"a tokenizer must have a token that ends a text, got none in {name}; set "
            "its eos_token"
        )
    if loaded.pad_token_id in (None, loaded.eos_token_id):
        loaded.add_special_tokens({"pad_token": PAD})
    return Tokenizer(
        encode=lambda text: loaded.encode(text, add_special_tokens=False),
        decode=lambda ids: loaded.decode(list(ids), clean_up_tokenization_spaces=False),
        size=len(loaded),
        end=loaded.eos_token_id,
        pad=cast("int", loaded.pad_token_id),
    )


def _of_files(vocabulary: str, merges: str) -> Tokenizer:
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer(vocabulary, merges)
    made.add_special_tokens([END, PAD])
    return _byte_level(made)
