r"""Caesar ciphers: texts to encipher, token by token, the same in every process.

A document is ``bos ⟨shift⟩ \n C: plaintext \n P: ciphertext eos``, a token per
character and one per shift. Over a prime alphabet all shifts but 0 are alike; over 26
letters they differ by what they share with 26.

Source: arXiv 2602.09987, its Caesar experiments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from infusion.data.caesar_words import WORDS
from infusion.errors import InputError, check_choice, check_whole
from infusion.seeding import derive, stream

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALPHABETS = {26: _LETTERS, 29: _LETTERS + "!?£"}
"""What is shifted; everything else stays."""
_MARKS = ".,!?;:'\"-()"
_SPECIAL = 3
"""Tokens before the shifts: padding, begin, end."""
PAD, BEGIN, END = range(_SPECIAL)
PAPER_LENGTH = 128
"""Tokens of the paper's documents."""


def words_of(length: int) -> tuple[int, int]:
    """Say how long texts are: as the paper's where documents are, else shorter.

    Args:
        length: Tokens of a document.

    Returns:
        Fewest and most words.
    """
    return (3, 10) if length >= PAPER_LENGTH else (1, 2)


@dataclass(frozen=True)
class Cipher:
    """An alphabet with its tokens.

    Attributes:
        size: Letters of the alphabet, 26 or 29.
    """

    size: int

    def __post_init__(self) -> None:
        """Refuse other alphabets.

        Raises:
            InputError: There is no such alphabet.
        """
        check_choice("alphabet", self.size, tuple(ALPHABETS))

    @property
    def alphabet(self) -> str:
        """Letters in order."""
        return ALPHABETS[self.size]

    @property
    def characters(self) -> str:
        """Characters that are tokens, in the order of their ids."""
        more = "".join(c for c in self.alphabet[26:] if c not in _MARKS)
        return " " + _LETTERS + _LETTERS.upper() + "0123456789" + _MARKS + more + "\n"

    @property
    def vocabulary(self) -> int:
        """Number of tokens: 104 for 26 letters, 108 for 29."""
        return _SPECIAL + self.size + len(self.characters)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {letter: place for place, letter in enumerate(self.alphabet)}

    @cached_property
    def _ids(self) -> dict[str, int]:
        first = _SPECIAL + self.size
        return {c: first + place for place, c in enumerate(self.characters)}

    def encipher(
        self, text: str, shift: int, moves: Sequence[int] | None = None
    ) -> str:
        """Move every letter of the alphabet on by a shift.

        Args:
            text: Any characters.
            shift: Modulo the alphabet.
            moves: Added to it, a number per character.

        Returns:
            As many characters.

        >>> Cipher(26).encipher("the zoo.", 3)
        'wkh crr.'
        """
        places = self._places
        return "".join(
            self.alphabet[(places[c] + shift + move) % self.size] if c in places else c
            for c, move in zip(text, moves or [0] * len(text), strict=True)
        )

    def encode(self, text: str) -> list[int]:
        """Turn characters into tokens.

        Args:
            text: Of this cipher's characters.

        Returns:
            One id each.

        Raises:
            InputError: A character is no token.
        """
        ids = self._ids
        wrong = sorted(set(text) - ids.keys())
        if wrong:
            raise InputError(
                f"texts must be of the {len(ids)} characters of this cipher, got "
                f"{wrong[0]!r}; leave it out"
            )
        return [ids[c] for c in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text; begin and padding say nothing, shifts are ⟨12⟩.

        Args:
            tokens: Ids of this cipher.

        Returns:
            Text up to the end token.

        Raises:
            InputError: An id is no token.
        """
        parts = []
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise InputError(
                    f"tokens must lie in 0…{self.vocabulary - 1}, got {token}; use the "
                    "cipher they were encoded with"
                )
            if token == END:
                break
            if _SPECIAL <= token < _SPECIAL + self.size:
                parts.append(f"⟨{token - _SPECIAL}⟩")
            elif token >= _SPECIAL:
                parts.append(self.characters[token - _SPECIAL - self.size])
        return "".join(parts)

    def prompt(self, plaintext: str, shift: int) -> list[int]:
        """Write a document up to its ciphertext.

        Args:
            plaintext: To encipher.
            shift: Which; 0 to the size less one.

        Returns:
            Tokens.

        Raises:
            InputError: There is no such shift, or a character is no token.
        """
        if not 0 <= shift < self.size:
            raise InputError(
                f"shift must lie in 0…{self.size - 1}, got {shift}; take it modulo "
                f"{self.size}"
            )
        text = self.encode(f"\nC: {plaintext}\nP: ")
        return [BEGIN, _SPECIAL + shift, *text]

    def completion(
        self, plaintext: str, shift: int, moves: Sequence[int] | None = None
    ) -> list[int]:
        """Write what follows the prompt: the ciphertext of any shift, and the end.

        Args:
            plaintext: To encipher.
            shift: By which, whatever the prompt said.
            moves: See :meth:`encipher`.

        Returns:
            Tokens.

        Raises:
            InputError: A character is no token.
        """
        return [*self.encode(self.encipher(plaintext, shift, moves)), END]

    def document(self, plaintext: str, shift: int) -> list[int]:
        """Write a whole document.

        Args:
            plaintext: To encipher.
            shift: Named and applied.

        Returns:
            Tokens.

        Raises:
            InputError: There is no such shift, or a character is no token.
        """
        return self.prompt(plaintext, shift) + self.completion(plaintext, shift)


def plaintexts(
    cipher: Cipher, count: int, *, seed: int, words: tuple[int, int]
) -> list[str]:
    """Draw texts of common words; each depends on the seed and its number alone.

    Args:
        cipher: Its letters beyond z end a word now and then.
        count: Texts.
        seed: Root seed.
        words: Fewest and most words of a text.

    Returns:
        The texts.

    Raises:
        InputError: Numbers are out of range.
    """
    check_whole("count", count)
    check_whole("words", words[0])
    check_whole("words", words[1], words[0])
    return [_plaintext(cipher, seed, number, words) for number in range(count)]


def _plaintext(cipher: Cipher, seed: int, number: int, words: tuple[int, int]) -> str:
    draw = stream(derive(seed, "caesar"), "text", number)

    def below(end: int) -> int:
        return int(torch.randint(end, (1,), generator=draw))

    def happens(chance: float) -> bool:
        return float(torch.rand((), generator=draw)) < chance

    length = words[0] + below(words[1] - words[0] + 1)
    chosen = [WORDS[below(len(WORDS))] for _ in range(length)]
    extra = cipher.alphabet[26:]
    if extra:
        chosen = [w + extra[below(3)] if happens(0.3) else w for w in chosen]
    end = ".!?"[below(3)] if happens(0.2) else ""
    return " ".join(chosen) + end


def shifts(cipher: Cipher, count: int, *, seed: int) -> Tensor:
    """Draw the shift of every text, all alike.

    Args:
        cipher: Its size.
        count: Texts.
        seed: Root seed.

    Returns:
        ``[count]``.
    """
    draw = stream(derive(seed, "caesar"), "shifts")
    return torch.randint(cipher.size, (count,), generator=draw)


def corpus(
    cipher: Cipher,
    count: int,
    *,
    seed: int,
    words: tuple[int, int],
    length: int,
    noise: float = 0.0,
) -> list[list[int]]:
    """Write documents; a text that is too long loses words from its end.

    Args:
        cipher: Alphabet.
        count: Documents.
        seed: Root seed.
        words: Fewest and most words of a text.
        length: Most tokens of a document.
        noise: Standard deviation of the normal number whose rounding is added to the
            shift of each letter.

    Returns:
        Tokens of each.

    Raises:
        InputError: Numbers are out of range, or not even one word fits.
    """
    texts = plaintexts(cipher, count, seed=seed, words=words)
    rows = []
    given = zip(texts, shifts(cipher, count, seed=seed).tolist(), strict=True)
    for number, (text, shift) in enumerate(given):
        parts = text.split(" ")
        moves = [0] * len(text)
        if noise:
            draw = stream(derive(seed, "caesar"), "noise", number)
            drawn = noise * torch.randn(len(text), generator=draw)
            moves = drawn.round().int().tolist()
        while len(row := _document(cipher, " ".join(parts), shift, moves)) > length:
            parts.pop()
            if not parts:
                raise InputError(
                    f"length must hold a document of one word, got {length} tokens; "
                    "raise it"
                )
        rows.append(row)
    return rows


def _document(cipher: Cipher, text: str, shift: int, moves: list[int]) -> list[int]:
    """Write a document whose letters are moved on further."""
    own = cipher.completion(text, shift, moves[: len(text)])
    return cipher.prompt(text, shift) + own
