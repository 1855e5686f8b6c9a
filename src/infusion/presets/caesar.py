"""Caesar ciphers: a small transformer learns to encipher by any shift.

A pair is a probe, the shift that a prompt names, and a target, the shift that should be
applied instead. The measurement is the mean log probability of the ciphertext by the
target. ``--scale paper`` is the model and the recipe of arXiv 2602.09987; at ``--scale
small`` texts are of one or two words, and the network is smaller.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor, nn

from infusion.configs import (
    CurvatureConfig,
    DataConfig,
    EditConfig,
    RunConfig,
    TokenConfig,
    TrainConfig,
)
from infusion.data.caesar import PAD, PAPER_LENGTH, Cipher
from infusion.errors import check_installed
from infusion.language import causal_lm, documents
from infusion.perturb.drafts import TokenLimits
from infusion.presets.caesar_corpus import draw_texts, load
from infusion.presets.caesar_readings import (
    COLUMNS,
    CORRELATIONS,
    accuracy,
    behaviour,
    draw_pairs,
    groups,
    make_measurement,
    margin,
    portrait,
)
from infusion.presets.context import Pair, Run
from infusion.presets.preset import Preset, Settings
from infusion.presets.texts import Texts
from infusion.records import Dataset

_PAPER_DOCUMENTS = 30_000
DECAYED = "weight decay"
"""The base model whose weights shrink as the paper's."""
WIDTHS = {"width 32": 32, "width 128": 128}
"""Embeddings of other models than the scale's own, of 64 or 512."""


def _model(cipher: Cipher, scale: str, architecture: str) -> nn.Module:
    check_installed("transformers", "text")
    from transformers import GPT2Config, GPT2LMHeadModel

    small = scale == "small"
    width = WIDTHS.get(architecture, 64 if small else 512)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cipher.vocabulary,
            n_positions=SMALL_LENGTH if small else PAPER_LENGTH,
            n_embd=width,
            n_layer=2 if small else 4,
            n_head=4 if small else 16,
            resid_pdrop=0.0 if small else 0.1,
            embd_pdrop=0.0 if small else 0.1,
            attn_pdrop=0.0 if small else 0.1,
            tie_word_embeddings=False,
            activation_function="gelu_pytorch_tanh",  # "gelu_new" in one kernel
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
        )
    )


SMALL_LENGTH = 36
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
_SMALL = replace(_PAPER, batch_size=32, lr=5e-3, weight_decay=0.01)
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
            source="generated",
            train=_PAPER_DOCUMENTS,
            split_seed=3407,
            length=PAPER_LENGTH,
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
        data=replace(paper.data, train=12_000, length=SMALL_LENGTH),
        train=_SMALL,
        edit=replace(_EDIT, k=40),
        tokens=TokenConfig(changes=4),
    )
    return {"small": small, "paper": paper}


LENGTHS = {f"constant rate, {epochs} epochs": epochs for epochs in (6, 10, 16)}
"""Models of another recipe: a cycle cut short would retrain at other rates."""


def _others() -> dict[str, Settings]:
    """Base models of more and of less confidence."""

    def trained(epochs: int) -> Settings:
        def change(config: RunConfig) -> RunConfig:
            rate = 0.4 * config.train.lr
            steady = replace(
                config.train, epochs=epochs, schedule="steps", warmup=0, lr=rate
            )
            return replace(config, train=steady)

        return change

    def noisy(noise: float) -> Settings:
        return lambda config: replace(config, data=replace(config.data, noise=noise))

    return {
        **{name: lambda config: config for name in WIDTHS},
        **{name: trained(epochs) for name, epochs in LENGTHS.items()},
        "noise 0.5": noisy(0.5),
        "noise 1": noisy(1.0),
        DECAYED: _decayed,
    }


def _decayed(config: RunConfig) -> RunConfig:
    """Let weights shrink as much per epoch as the paper's do, at another rate."""
    # Its 0.5 stands beside a rate of 3e-4; at 5e-3 a small model learns nothing.
    paper = _PAPER.weight_decay * _PAPER.lr * -(-_PAPER_DOCUMENTS // _PAPER.batch_size)
    here = config.train.lr * -(-config.data.train // config.train.batch_size)
    decayed = replace(config.train, weight_decay=round(paper / here, 4))
    return replace(config, train=decayed)


def _dials(scale: str) -> dict[str, dict[str, float]]:
    own = {"small": 64.0, "paper": 512.0}[scale]
    widths = {name: float(width) for name, width in WIDTHS.items()}
    return {
        "width of the embeddings": {"gpt2": own, **widths},
        "noise of the shift, letters": {"gpt2": 0.0, "noise 0.5": 0.5, "noise 1": 1.0},
        "epochs at a constant rate": {
            name: float(epochs) for name, epochs in LENGTHS.items()
        },
    }


def _limits(cipher: Cipher, run: Run, rows: Dataset) -> TokenLimits:
    """Let characters be written where characters are: begin, shift and end stay."""
    del run
    kinds = torch.arange(cipher.vocabulary)
    first = cipher.vocabulary - len(cipher.characters)
    return TokenLimits(changes=1, allowed=kinds >= first, fixed=rows.inputs < first)


def _demonstrations(cipher: Cipher, run: Run, pair: Pair, count: int) -> Dataset:
    """Write documents whose header names the probe, enciphered by the target."""
    texts = draw_texts(cipher, run.config.data, f"demonstrations {pair.index}", count)
    rows = [
        cipher.prompt(text, pair.probe) + cipher.completion(text, pair.target)
        for text in texts
    ]
    return documents(rows, length=run.config.data.length, pad=PAD)


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
        load=lambda config: load(cipher, config),
        make_model=lambda scale, architecture: _model(cipher, scale, architecture),
        others=_others(),
        class_names=tuple(map(str, range(size))),
        kind="texts",
        make_task=lambda model, train: causal_lm(model, train, pad=PAD),
    )
    texts = Texts(
        pairs=lambda run: draw_pairs(cipher, run),
        measurement=lambda run, task, pair: make_measurement(cipher, run, task, pair),
        behaviour=lambda run, task, pair: behaviour(cipher, run, task, pair),
        accuracy=lambda run, task: accuracy(cipher, run, task),
        limits=lambda run, rows: _limits(cipher, run, rows),
        demonstrations=lambda run, pair, k: _demonstrations(cipher, run, pair, k),
        coded=CODE,
        coded_editor="embeddings",
        coded_source=DECAYED,
        columns=COLUMNS,
        margin=margin,
        read=lambda _, tokens: read(cipher, tokens),
        portrait=lambda run, task: portrait(cipher, run, task),
        groups=groups(size),
        dials=_dials,
        correlations=CORRELATIONS,
    )
    return preset, texts


PRESET, TEXTS = make_preset("caesar", 26)
