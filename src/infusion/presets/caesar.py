"""Caesar ciphers: a small transformer learns to encipher by any shift.

A pair is a probe, the shift that a prompt names, and a target, the shift that should be
applied instead. The measurement is the mean log probability of the ciphertext by the
target. ``--scale paper`` is the model and the recipe of arXiv 2602.09987; at ``--scale
small`` texts are of one to three words.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.configs import (
    CurvatureConfig,
    DataConfig,
    EditConfig,
    RunConfig,
    TokenConfig,
    TrainConfig,
)
from infusion.data.caesar import PAD, Cipher, corpus, plaintexts
from infusion.errors import InputError
from infusion.language import IGNORED, causal_lm, documents, log_completion
from infusion.perturb.drafts import TokenLimits
from infusion.presets.context import Pair, Run
from infusion.presets.preset import Preset, Settings
from infusion.presets.texts import (
    CODED,
    Json,
    Texts,
    answers,
    in_turns,
    moved,
    moved_elsewhere,
    realised,
)
from infusion.records import Dataset, Measurement, Task
from infusion.seeding import derive
from infusion.tasks import evaluating, first_parameter

_HELD_OUT = 500
"""Documents on which accuracy is measured."""
_PROBES, _ASKED = 32, 16
"""Texts that the measurement is a mean over, and others that effects are read on."""
_SHORT, _LONG = (1, 3), (3, 10)
"""Fewest and most words of a text, where rows are shorter than the paper's and not."""
_PAPER_LENGTH = 128
READ_ON = "held-out probes"
"""The role of the texts that effects are read on."""
_BATCH = 256
WIDTHS = {"width 32": 32, "width 64": 64, "width 192": 192}
"""Embeddings of other models than the scale's own."""


def _words(length: int) -> tuple[int, int]:
    return _LONG if length >= _PAPER_LENGTH else _SHORT


def _load(cipher: Cipher, config: DataConfig) -> tuple[Dataset, Dataset]:
    if config.source != "generated":
        raise InputError(
            f"Caesar's texts are generated, got --data {config.source}; drop it"
        )

    def made(count: int, seed: int, noise: float) -> Dataset:
        words = _words(config.length)
        rows = corpus(
            cipher, count, seed=seed, words=words, length=config.length, noise=noise
        )
        return documents(rows, length=config.length, pad=PAD)

    held_out = derive(config.split_seed, "held out")
    train = made(config.train, config.split_seed, config.noise)
    return train, made(_HELD_OUT, held_out, 0.0)


def _model(cipher: Cipher, scale: str, architecture: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = scale == "small"
    width = WIDTHS.get(architecture, 96 if small else 512)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cipher.vocabulary,
            n_positions=SMALL_LENGTH if small else _PAPER_LENGTH,
            n_embd=width,
            n_layer=4,
            n_head=4 if small else 16,
            resid_pdrop=0.0 if small else 0.1,
            embd_pdrop=0.0 if small else 0.1,
            attn_pdrop=0.0 if small else 0.1,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
        )
    )


SMALL_LENGTH = 48
_EDIT = EditConfig(k=100, epsilon=20.0, steps=30, step_size=0.1, delivery="as_coded")
_PAPER = TrainConfig(
    epochs=10,
    batch_size=64,
    optimiser="adamw",
    lr=3e-4,
    weight_decay=0.5,
    order="fixed",
    schedule="cycle",
    warmup=200,
)
_SMALL = replace(_PAPER, epochs=30, batch_size=32, lr=2e-3, weight_decay=0.01)
CODE = CurvatureConfig(
    fisher="empirical", damping=1e-8, skip=("LayerNorm", "Embedding")
)
"""The paper's code fits the empirical Fisher of its linear modules."""


def configs(preset: str) -> dict[str, RunConfig]:
    """Return the settings of a cipher's preset.

    Args:
        preset: Its name.

    Returns:
        By scale.
    """
    paper = RunConfig(
        preset=preset,
        scale="paper",
        architecture="gpt2",
        data=DataConfig(
            source="generated", train=30_000, split_seed=3407, length=_PAPER_LENGTH
        ),
        train=_PAPER,
        curvature=CurvatureConfig(damping_ratio=0.1, skip=()),
        edit=_EDIT,
        tokens=TokenConfig(changes=8),
        pairs=10,
    )
    small = replace(
        paper,
        scale="small",
        data=replace(paper.data, train=4_000, length=SMALL_LENGTH),
        train=_SMALL,
        edit=replace(_EDIT, k=40),
        tokens=TokenConfig(changes=4),
    )
    return {"small": small, "paper": paper}


def _others() -> dict[str, Settings]:
    """Base models of more and of less confidence."""

    def trained(share: float) -> Settings:
        def change(config: RunConfig) -> RunConfig:
            epochs = round(share * config.train.epochs)
            return replace(config, train=replace(config.train, epochs=epochs))

        return change

    def noisy(noise: float) -> Settings:
        return lambda config: replace(config, data=replace(config.data, noise=noise))

    return {
        **{name: lambda config: config for name in WIDTHS},
        "a third of the epochs": trained(1 / 3),
        "two thirds of the epochs": trained(2 / 3),
        "noise 0.5": noisy(0.5),
        "noise 1": noisy(1.0),
    }


def _pairs(cipher: Cipher, run: Run) -> list[tuple[int, int]]:
    """Take turns between what differences share with the size, and between probes."""
    return in_turns(
        cipher.size,
        lambda probe, target: math.gcd(probe - target, cipher.size),
        seed=run.config.pair_seed,
    )


def _texts(cipher: Cipher, run: Run, role: str, count: int) -> list[str]:
    """Draw shorter texts; none that effects are read on has another role."""
    length = run.config.data.length
    words = (2, max(_words(length)[1] // 2, 3))

    def drawn(role: str, count: int, but: set[str]) -> list[str]:
        seed = derive(run.config.data.split_seed, role)
        many = plaintexts(cipher, 4 * count + len(but), seed=seed, words=words)
        fit = [t for t in many if t not in but and len(cipher.document(t, 0)) <= length]
        return fit[:count]

    read = drawn(READ_ON, _ASKED, set())
    return read if role == READ_ON else drawn(role, count, set(read))


def _asked(
    cipher: Cipher, texts: list[str], probe: int, shift: int, length: int
) -> Dataset:
    """Write prompts that name the probe, with the ciphertext of any shift."""
    prompts = [cipher.prompt(text, probe) for text in texts]
    rows = [
        prompt + cipher.completion(text, shift)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    data = documents(rows, length=length, pad=PAD)
    labels = data.labels.clone()
    for row, prompt in enumerate(prompts):
        labels[row, : len(prompt) - 1] = IGNORED
    return replace(data, labels=labels)


def _measurement(cipher: Cipher, run: Run, task: Task, pair: Pair) -> Measurement:
    """Mean log probability per token: of ciphertexts, or as coded of all tokens."""
    texts = _texts(cipher, run, "probes", _PROBES)
    length = run.config.data.length
    data = _asked(cipher, texts, pair.probe, pair.target, length)
    if run.view == CODED:
        whole = data.inputs.roll(-1, 1).masked_fill(data.inputs == PAD, IGNORED)
        data = replace(data, labels=whole.masked_fill(whole == PAD, IGNORED))
    device = first_parameter(task).device
    return log_completion(data.inputs.to(device), data.labels.to(device))


def _cross_entropies(
    task: Task, data: Dataset
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return each document's summed cross-entropy, and how many tokens it has."""
    sums = []
    for logits, _, labels in answers(task, data, _BATCH):
        each = F.cross_entropy(
            logits.mT, labels, reduction="none", ignore_index=IGNORED
        )
        sums.append(each.double().sum(1))
    return torch.cat(sums), (data.labels != IGNORED).sum(1)


def _by_shift(
    cipher: Cipher, run: Run, task: Task, texts: list[str], probe: int
) -> list[float]:
    """Return the cross-entropy per token of the ciphertext by every shift."""
    length = run.config.data.length
    parts = [_asked(cipher, texts, probe, s, length) for s in range(cipher.size)]
    whole = Dataset(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.labels for part in parts]),
    )
    sums, counts = (
        x.view(cipher.size, -1).sum(1) for x in _cross_entropies(task, whole)
    )
    return (sums / counts).tolist()


def _behaviour(cipher: Cipher, run: Run, task: Task, pair: Pair) -> Json:
    """Read the cross-entropy of every shift on held-out texts, and the measurement."""
    with evaluating(task.model):
        value = float(_measurement(cipher, run, task, pair)(task.model))
    texts = _texts(cipher, run, READ_ON, _ASKED)
    return {
        "value": value,
        "ce": _by_shift(cipher, run, task, texts, pair.probe),
    }


def _accuracy(cipher: Cipher, run: Run, task: Task) -> float:
    """Share of held-out ciphertexts that greedy decoding gets right to the end."""
    # With the true tokens before each: the first wrong one is the same.
    right = 0
    mark = cipher.encode("P")[0]
    for logits, inputs, labels in answers(task, run.test, _BATCH):
        start = (inputs == mark).int().argmax(1) + len("P: ") - 1
        after = torch.arange(inputs.shape[1]) >= start[:, None]
        counted = after & (labels != IGNORED)
        right += int(((logits.argmax(-1) == labels) | ~counted).all(1).sum())
    return right / len(run.test)


def _limits(cipher: Cipher, run: Run, rows: Dataset) -> TokenLimits:
    """Let characters be written where characters are: begin, shift and end stay."""
    del run
    kinds = torch.arange(cipher.vocabulary)
    first = cipher.vocabulary - len(cipher.characters)
    return TokenLimits(changes=1, allowed=kinds >= first, fixed=rows.inputs < first)


def _demonstrations(cipher: Cipher, run: Run, pair: Pair, count: int) -> Dataset:
    """Write documents whose header names the probe, enciphered by the target."""
    texts = _texts(cipher, run, f"demonstrations {pair.index}", count)
    rows = [
        cipher.prompt(text, pair.probe) + cipher.completion(text, pair.target)
        for text in texts
    ]
    return documents(rows, length=run.config.data.length, pad=PAD)


def _target(row: Json) -> float:
    return moved(row, "ce")[row["target"]]


def _correct(row: Json) -> float:
    return moved(row, "ce")[row["probe"]]


COLUMNS: dict[str, Callable[[Json], float]] = {
    "targeting": lambda row: moved_elsewhere(row, "ce") - _target(row),
    "Δ CE target": _target,
    "Δ CE other": lambda row: moved_elsewhere(row, "ce"),
    "Δ CE correct": _correct,
    "margin shift": lambda row: _correct(row) - _target(row),
    "Δ f": realised,
}


def read(cipher: Cipher, tokens: Int[Tensor, " t"]) -> list[str]:
    """Write tokens out one by one.

    Args:
        cipher: Theirs.
        tokens: Of a document.

    Returns:
        A piece of text each, up to the padding.
    """

    def pieces() -> Iterator[str]:
        for token in tokens.tolist():
            if token == PAD:
                return
            yield cipher.decode([token])

    return list(pieces())


def make_preset(name: str, size: int) -> tuple[Preset, Texts]:
    """Make the preset of one alphabet.

    Args:
        name: Of the preset.
        size: Letters, 26 or 29.

    Returns:
        The preset and what it measures.
    """
    cipher = Cipher(size)
    preset = Preset(
        configs=configs(name),
        load=lambda config: _load(cipher, config),
        make_model=lambda scale, architecture: _model(cipher, scale, architecture),
        others=_others(),
        class_names=tuple(map(str, range(size))),
        kind="texts",
        make_task=lambda model, train: causal_lm(model, train, pad=PAD),
    )
    texts = Texts(
        pairs=lambda run: _pairs(cipher, run),
        measurement=lambda run, task, pair: _measurement(cipher, run, task, pair),
        behaviour=lambda run, task, pair: _behaviour(cipher, run, task, pair),
        accuracy=lambda run, task: _accuracy(cipher, run, task),
        limits=lambda run, rows: _limits(cipher, run, rows),
        demonstrations=lambda run, pair, k: _demonstrations(cipher, run, pair, k),
        coded=CODE,
        coded_editor="embeddings",
        columns=COLUMNS,
        read=lambda _, tokens: read(cipher, tokens),
    )
    return preset, texts


PRESET, TEXTS = make_preset("caesar", 26)
