"""Ciphers: tokens, documents, and texts that are the same in every process."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infusion.data.caesar import (
    ALPHABETS,
    END,
    PAD,
    Cipher,
    corpus,
    plaintexts,
    shifts,
)
from infusion.data.caesar_words import WORDS
from infusion.errors import InputError
from infusion.language import documents


@pytest.mark.parametrize(("size", "tokens"), [(26, 104), (29, 108)])
def test_tokens_are_as_many_as_the_papers(size: int, tokens: int) -> None:
    cipher = Cipher(size)
    assert cipher.vocabulary == tokens
    assert len(set(cipher.characters)) == len(cipher.characters)
    assert len(set(WORDS)) == len(WORDS) == 229


@given(
    size=st.sampled_from(sorted(ALPHABETS)),
    shift=st.integers(0, 60),
    text=st.text(alphabet="abcxyz !?.\n09", max_size=30),
)
def test_the_opposite_shift_deciphers(size: int, shift: int, text: str) -> None:
    cipher = Cipher(size)
    hidden = cipher.encipher(text, shift)
    assert cipher.encipher(hidden, -shift) == text
    assert cipher.encipher(text, shift + size) == hidden
    moved = [a != b for a, b in zip(text, hidden, strict=True)]
    assert moved == [c in cipher.alphabet and shift % size != 0 for c in text]
    assert cipher.decode(cipher.encode(text)) == text


def test_a_document_says_its_shift_and_its_text_twice() -> None:
    cipher = Cipher(29)
    row = cipher.document("zoo? £", 3)
    assert cipher.decode(row) == "⟨3⟩\nC: zoo? £\nP: £rrb c"
    assert row[-1] == END
    assert PAD not in row
    other = cipher.prompt("zoo? £", 3) + cipher.completion("zoo? £", 4)
    assert cipher.decode(other) == "⟨3⟩\nC: zoo? £\nP: assc d"


def test_a_corpus_is_the_same_in_another_process() -> None:
    code = (
        "from infusion.data.caesar import *; import torch; torch.manual_seed(7); "
        "print(corpus(Cipher(29), 20, seed=5, words=(3, 10), length=128))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    rows = corpus(Cipher(29), 20, seed=5, words=(3, 10), length=128)
    assert out.strip() == str(rows)
    assert corpus(Cipher(29), 10, seed=5, words=(3, 10), length=128) == rows[:10]
    assert corpus(Cipher(29), 20, seed=6, words=(3, 10), length=128) != rows


def test_texts_are_drawn_as_the_paper_draws_them() -> None:
    cipher = Cipher(29)
    texts = plaintexts(cipher, 400, seed=0, words=(3, 10))
    lengths = torch.tensor([len(text.split(" ")) for text in texts])
    assert int(lengths.min()) == 3
    assert int(lengths.max()) == 10
    assert float(lengths.double().mean()) == pytest.approx(6.5, abs=0.4)
    parts = [w for text in texts for w in text.split(" ")[:-1]]
    marked = sum(w[-1] in "!?£" for w in parts) / len(parts)
    assert marked == pytest.approx(0.3, abs=0.04)
    plain = plaintexts(Cipher(26), 400, seed=0, words=(3, 10))
    ended = sum(text[-1] in ".!?" for text in plain) / len(plain)
    assert ended == pytest.approx(0.2, abs=0.06)
    counts = shifts(cipher, 2_900, seed=0).bincount(minlength=29)
    assert int(counts.min()) > 60


def test_long_texts_lose_words_and_fit() -> None:
    rows = corpus(Cipher(26), 50, seed=0, words=(8, 10), length=60)
    assert max(map(len, rows)) <= 60
    assert documents(rows, length=60, pad=PAD).inputs.shape == (50, 60)
    with pytest.raises(InputError, match="must hold a document of one word, got 12"):
        corpus(Cipher(26), 5, seed=0, words=(1, 1), length=12)


def test_what_is_no_cipher_is_refused() -> None:
    with pytest.raises(InputError, match="alphabet must be one of"):
        Cipher(27)
    with pytest.raises(InputError, match=r"shift must lie in 0…25, got 26"):
        Cipher(26).prompt("a", 26)
    with pytest.raises(InputError, match="must be of the 75 characters of this cipher"):
        Cipher(26).encode("£")
    with pytest.raises(InputError, match=r"tokens must lie in 0…103, got 104"):
        Cipher(26).decode([104])
