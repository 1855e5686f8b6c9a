"""Texts of ciphers as documents: drawn, split, and none read on that is trained on."""

from collections.abc import Callable
from dataclasses import replace

from infusion.configs import DataConfig
from infusion.data.caesar import PAD, Cipher, corpus, plaintexts, words_of
from infusion.errors import InputError
from infusion.language import documents
from infusion.records import Dataset
from infusion.seeding import derive

Tokens = list[int]
_HELD_OUT = 500
"""Documents on which accuracy is measured; no shift of theirs is trained on with the
same text, and texts that effects are read on are not trained on at all."""
_ASKED, _READ_ON = 16, "held-out probes"
"""Texts that effects are read on, and their role."""
_MOST_DRAWN = 10


def load(cipher: Cipher, config: DataConfig) -> tuple[Dataset, Dataset]:
    """Write documents to train on and others.

    Args:
        cipher: Its alphabet.
        config: Size, length, noise and split seed.

    Returns:
        Tokens ``[n, length]`` and the next ones as labels, of each part.

    Raises:
        InputError: Data are asked for that are not generated, or there are too few
            texts.
    """
    if config.source != "generated":
        raise InputError(
            f"Caesar's texts are generated, got --data {config.source}; drop it"
        )
    read = {tuple(cipher.prompt(text, 0)[2:]) for text in texts_read(cipher, config)}
    train = _new(
        cipher,
        config,
        lambda row: _prompt(cipher, row)[2:] not in read,
        "that effects are not read on",
    )
    trained_on = {_prompt(cipher, row) for row in train}
    held_out = replace(
        config,
        train=_HELD_OUT,
        split_seed=derive(config.split_seed, "held out"),
        noise=0.0,
    )
    test = _new(
        cipher,
        held_out,
        lambda row: _prompt(cipher, row) not in trained_on,
        "that are not trained on",
    )
    written = [documents(rows, length=config.length, pad=PAD) for rows in (train, test)]
    return written[0], written[1]


def _new(
    cipher: Cipher,
    config: DataConfig,
    is_new: Callable[[Tokens], bool],
    wanted: str,
) -> list[Tokens]:
    """Draw until there are as many new documents as the config asks for."""
    count = config.train
    found: list[Tokens] = []
    tried = count
    while len(found) < count:
        tried += count // 8 + 1
        if tried > _MOST_DRAWN * count:
            raise InputError(
                f"there must be {count} documents of texts {wanted}, got "
                f"{len(found)}; lower data.train"
            )
        rows = corpus(
            cipher,
            tried,
            seed=config.split_seed,
            words=words_of(config.length),
            length=config.length,
            noise=config.noise,
        )
        found = [row for row in rows if is_new(row)]
    return found[:count]


def _prompt(cipher: Cipher, row: Tokens) -> tuple[int, ...]:
    """Return a document up to its ciphertext: shift and plaintext."""
    mark = cipher.encode("P")[0]  # texts are in small letters
    return tuple(row[: row.index(mark) + len("P: ")])


def texts_read(cipher: Cipher, config: DataConfig) -> list[str]:
    """Draw the texts that effects are read on.

    Args:
        cipher: Its letters.
        config: Length of a document, and split seed.

    Returns:
        The texts.

    Raises:
        InputError: Too few fit into a document.
    """
    return _drawn(cipher, config, _READ_ON, _ASKED, set())


def draw_texts(cipher: Cipher, config: DataConfig, role: str, count: int) -> list[str]:
    """Draw texts of two words, or up to five; none that effects are read on recurs.

    Args:
        cipher: Its letters.
        config: Length of a document, and split seed.
        role: What they are for.
        count: Texts.

    Returns:
        The texts.

    Raises:
        InputError: Too few fit into a document.
    """
    return _drawn(cipher, config, role, count, set(texts_read(cipher, config)))


def _drawn(
    cipher: Cipher, config: DataConfig, role: str, count: int, but: set[str]
) -> list[str]:
    length, seed = config.length, derive(config.split_seed, role)
    words = (2, max(words_of(length)[1] // 2, 2))
    many = plaintexts(cipher, 4 * count + len(but), seed=seed, words=words)
    fit = [t for t in many if t not in but and len(cipher.document(t, 0)) <= length]
    if len(fit) < count:
        raise InputError(
            f"documents must hold texts of {words[0]} words, got {len(fit)} of "
            f"{count} that fit into {length} tokens; raise data.length"
        )
    return fit[:count]
