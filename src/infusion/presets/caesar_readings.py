"""What is read off a model of Caesar ciphers: pairs, measurements, cross-entropies."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infusion.data.caesar import PAD, Cipher
from infusion.language import IGNORED, documents, log_completion
from infusion.presets.caesar_corpus import draw_texts, texts_read
from infusion.presets.context import Pair, Run
from infusion.presets.texts import (
    CODED,
    ONE,
    Json,
    answers,
    cross_entropies,
    in_turns,
    moved_by_name,
    moved_elsewhere,
    realised,
)
from infusion.records import Dataset, Measurement, Task
from infusion.tasks import evaluating, first_parameter

PROBES = 32
"""Texts that the measurement is a mean over."""
_BATCH = 256


def draw_pairs(cipher: Cipher, run: Run) -> list[tuple[int, int]]:
    """Take turns between what differences share with the size, and between probes.

    Args:
        cipher: Its size.
        run: Its pair seed.

    Returns:
        Probes and targets.
    """
    return in_turns(
        cipher.size,
        lambda probe, target: math.gcd(probe - target, cipher.size),
        seed=run.config.pair_seed,
    )


def _asked(
    cipher: Cipher,
    texts: list[str],
    shifts: tuple[int, int],
    length: int,
    *,
    whole: bool = False,
) -> Dataset:
    """Write prompts that name one shift, with the ciphertext of another to predict."""
    probe, shift = shifts
    prompts = [cipher.prompt(text, probe) for text in texts]
    rows = [
        prompt + cipher.completion(text, shift)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    data = documents(rows, length=length, pad=PAD)
    if whole:
        return data
    labels = data.labels.clone()
    for row, prompt in enumerate(prompts):
        labels[row, : len(prompt) - 1] = IGNORED
    return replace(data, labels=labels)


def make_measurement(cipher: Cipher, run: Run, task: Task, pair: Pair) -> Measurement:
    """Take the mean log probability per token of the target's ciphertexts.

    Args:
        cipher: Alphabet.
        run: Its length; as coded all tokens count, those of the prompt too, and in the
            view of one document it is that of the first text.
        task: Decides the device.
        pair: Shift that prompts name, and shift that is wanted.

    Returns:
        In nats per token.
    """
    texts = draw_texts(cipher, run.config.data, "probes", PROBES)
    if run.view == ONE:
        texts = texts[:1]
    length = run.config.data.length
    shifts = pair.probe, pair.target
    data = _asked(cipher, texts, shifts, length, whole=run.view == CODED)
    device = first_parameter(task).device
    return log_completion(data.inputs.to(device), data.labels.to(device))


def _by_shift(cipher: Cipher, run: Run, task: Task, probe: int) -> list[float]:
    """Return the cross-entropy per token of the ciphertext by every shift."""
    length = run.config.data.length
    texts = texts_read(cipher, run.config.data)
    parts = [_asked(cipher, texts, (probe, s), length) for s in range(cipher.size)]
    whole = Dataset(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.labels for part in parts]),
    )
    sums, counts = (
        x.view(cipher.size, -1).sum(1) for x in cross_entropies(task, whole, _BATCH)
    )
    return (sums / counts).tolist()


def behaviour(cipher: Cipher, run: Run, task: Task, pair: Pair) -> Json:
    """Read the cross-entropy of every shift on held-out texts, and the measurement.

    Args:
        cipher: Alphabet.
        run: Settings.
        task: The model.
        pair: Shift that prompts name, and shift that is wanted.

    Returns:
        A JSON value.
    """
    with evaluating(task.model):
        value = float(make_measurement(cipher, run, task, pair)(task.model))
    return {"value": value, "ce": _by_shift(cipher, run, task, pair.probe)}


def portrait(cipher: Cipher, run: Run, task: Task) -> Json:
    """Read what a model makes of every prompt, and how its embeddings turn.

    Args:
        cipher: Alphabet.
        run: Settings.
        task: The model.

    Returns:
        A JSON value: ``"matrix"``, the cross-entropy per token of the ciphertext of
        every shift, a line per shift that a prompt names, and :func:`spectra`.
    """
    matrix = [_by_shift(cipher, run, task, probe) for probe in range(cipher.size)]
    return {
        "matrix": [[round(cell, 4) for cell in line] for line in matrix],
        "spectra": spectra(cipher, task.model),
    }


def spectra(cipher: Cipher, model: nn.Module) -> dict[str, list[float]]:
    """Read how vectors of shifts and of letters turn from one to the next.

    Args:
        cipher: Alphabet.
        model: A causal model of ``transformers``.

    Returns:
        For the embeddings of shifts, of letters, and the head's rows of letters: the
        share of their variance at every frequency from 1 to half the alphabet, from the
        discrete Fourier transform along the alphabet. A network that adds modulo the
        alphabet holds few of them (Nanda et al., 2023, arXiv 2301.05217).
    """
    letters = cipher.encode(cipher.alphabet)
    shifts = [cipher.prompt("", shift)[1] for shift in range(cipher.size)]
    embeddings: Tensor = model.get_input_embeddings().weight  # pyright: ignore[reportCallIssue, reportAssignmentType]
    head: Tensor = model.get_output_embeddings().weight  # pyright: ignore[reportCallIssue, reportAssignmentType]
    rows = {
        "shifts": embeddings[shifts],
        "letters": embeddings[letters],
        "head": head[letters],
    }
    return {name: _spectrum(each.detach()) for name, each in rows.items()}


def _spectrum(rows: Float[Tensor, "n d"]) -> list[float]:
    power = torch.fft.rfft(rows.double().cpu(), dim=0).abs().square().sum(1)[1:]
    if len(rows) % 2 == 0:
        power[-1] /= 2  # the others stand for two frequencies each
    return [round(each, 5) for each in (power / power.sum()).tolist()]


def accuracy(cipher: Cipher, run: Run, task: Task) -> float:
    """Return the share of held-out ciphertexts that greedy decoding gets right.

    Args:
        cipher: Alphabet.
        run: Its held-out documents.
        task: The model.

    Returns:
        Right to the end, between 0 and 1.
    """
    # With the true tokens before each: the first wrong one is the same.
    right = 0
    mark = cipher.encode("P")[0]
    for logits, inputs, labels in answers(task, run.test, _BATCH):
        start = (inputs == mark).int().argmax(1) + len("P: ") - 1
        after = torch.arange(inputs.shape[1]) >= start[:, None]
        counted = after & (labels != IGNORED)
        right += int(((logits.argmax(-1) == labels) | ~counted).all(1).sum())
    return right / len(run.test)


def margin(row: Json) -> float:
    """Return how much likelier the right ciphertext is than the target's.

    Args:
        row: Of one trial.

    Returns:
        Of the clean replay, in nats per token.
    """
    return row["clean"]["ce"][row["target"]] - row["clean"]["ce"][row["probe"]]


def _target(row: Json) -> float:
    return moved_by_name(row, "ce")[row["target"]]


def _correct(row: Json) -> float:
    return moved_by_name(row, "ce")[row["probe"]]


def _prefers(row: Json, model: str) -> bool:
    ce = row[model]["ce"]
    return ce[row["target"]] < ce[row["probe"]]


def _before(row: Json) -> float:
    return row["clean"]["ce"][row["target"]]


def _targeting(row: Json) -> float:
    return moved_elsewhere(row, "ce") - _target(row)


COLUMNS: dict[str, Callable[[Json], float]] = {
    "targeting": _targeting,
    "Δ CE target": _target,
    "Δ CE other": lambda row: moved_elsewhere(row, "ce"),
    "Δ CE correct": _correct,
    "margin shift": lambda row: _correct(row) - _target(row),
    "Δ prefers": lambda row: float(_prefers(row, "after")) - _prefers(row, "clean"),
    "Δ f": realised,
}
"""What a row says, in nats per token, beyond the clean replay; ``"Δ prefers"`` is 1
where the target's ciphertext has become likelier than the right one."""
CORRELATIONS = {
    "CE of the target and its change": (_before, _target),
    "−CE of the target and targeting": (lambda row: -_before(row), _targeting),
}
"""The paper's two, over pairs of different shifts."""


def groups(size: int) -> dict[str, Callable[[Json], int]]:
    """Say how pairs of shifts fall into groups.

    Args:
        size: Letters of the alphabet.

    Returns:
        By what a probe or a difference shares with the alphabet, and by difference:
        the shorter way round.
    """

    def between(row: Json) -> int:
        apart = (row["probe"] - row["target"]) % size
        return min(apart, size - apart)

    return {
        "factor shared by difference and alphabet": lambda row: math.gcd(
            between(row), size
        ),
        "factor shared by probe and alphabet": lambda row: math.gcd(row["probe"], size),
        "difference": between,
    }
