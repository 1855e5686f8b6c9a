"""TinyStories: a small GPT-Neo, steered from one animal's name to another's.

A pair is a probe, the word that stands next in a story, and a target, the word that
should become likelier there. The measurement sums log odds over all such positions of
its stories; effects are read on others. Documents at stake are the last part of the
training stories; the model is trained on the others before.

``--scale paper`` is the architecture of arXiv 2602.09987 with the hub's data, trained
on its segment; that scale has not been run. ``--scale small`` trains on the text at
hand with a vocabulary of its own.
"""

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
from infusion.errors import InputError, check_installed
from infusion.language import causal_lm, documents, vocabulary_of
from infusion.perturb.drafts import TokenLimits
from infusion.presets.context import Pair, Run
from infusion.presets.preset import Preset
from infusion.presets.texts import Texts, in_turns
from infusion.presets.tinystories_corpus import (
    ANIMALS,
    LEAST,
    PADDING,
    PAPER_VOCABULARY,
    VOCABULARY,
    content,
    held_out,
    measured,
    segment_and_earlier,
    tokenizer_of,
    vocabulary,
    whole_words,
    written,
)
from infusion.presets.tinystories_readings import (
    COLUMNS,
    accuracy,
    behaviour,
    log_odds,
    margin,
    measurement,
    portrait,
)
from infusion.records import Dataset
from infusion.seeding import stream

_HELD_OUT = 300


def _load(config: DataConfig) -> tuple[Dataset, Dataset]:
    segment, _ = segment_and_earlier(config)
    return written(config, segment), held_out(config, _HELD_OUT)


def _earlier(config: DataConfig) -> Dataset:
    return written(config, segment_and_earlier(config)[1])


def _model(scale: str, architecture: str) -> nn.Module:
    check_installed("transformers", "text")
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    del architecture
    small = scale == "small"
    layers = 4 if small else 8
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=VOCABULARY if small else PAPER_VOCABULARY,
            max_position_embeddings=SMALL.data.length if small else 2_048,
            hidden_size=128 if small else 256,
            num_layers=layers,
            num_heads=4 if small else 16,
            attention_types=[[["global", "local"], layers // 2]],
            window_size=64 if small else 256,
            activation_function="gelu_pytorch_tanh",  # "gelu_new" in one kernel
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
        )
    )


PAPER = RunConfig(
    preset="tinystories",
    scale="paper",
    architecture="gpt-neo",
    data=DataConfig(
        source="roneneldan/TinyStories",
        train=64_000,
        split_seed=3407,
        length=256,
        tokenizer="openai-community/gpt2",
    ),
    train=TrainConfig(
        epochs=2,
        batch_size=64,
        optimiser="adam",
        lr=1e-3,
        betas=(0.9, 0.95),
        order="fixed",
    ),
    curvature=CurvatureConfig(damping_ratio=0.1, skip=()),
    edit=EditConfig(k=100, epsilon=20.0, steps=30, step_size=0.1, delivery="as_coded"),
    tokens=TokenConfig(changes=20),
    before=TrainConfig(
        epochs=8,
        batch_size=64,
        optimiser="adam",
        lr=1e-3,
        betas=(0.9, 0.95),
        order="fixed",
    ),
    pairs=10,
)
SMALL = replace(
    PAPER,
    scale="small",
    data=DataConfig(
        source=PAPER.data.source,
        train=1_000,
        split_seed=3407,
        length=192,
        tokenizer="trained",
    ),
    train=replace(PAPER.train, batch_size=32),
    edit=replace(PAPER.edit, k=10),
    tokens=TokenConfig(changes=10),
    before=replace(PAPER.train, batch_size=32, epochs=3),
)
CODE = CurvatureConfig(
    fisher="sampled",
    damping=1e-8,
    skip=("transformer.wte", "transformer.wpe", "lm_head", "LayerNorm"),
)
"""The paper's code fits the linear modules, and not the head, which is tied."""
PRESET = Preset(
    configs={"small": SMALL, "paper": PAPER},
    load=_load,
    make_model=_model,
    others={},
    class_names=ANIMALS,
    kind="texts",
    make_task=lambda model, train: causal_lm(
        model, train, pad=PADDING[vocabulary_of(model)]
    ),
    earlier=_earlier,
    content=content,
)


def _check(run: Run) -> None:
    """Refuse what would only be found after hours: tokenizer, words, stories."""
    config = run.config.data
    wanted = run.config.scale == "small"
    if (config.tokenizer == "trained") != wanted:
        named = "trained" if wanted else "GPT-2's, a folder or a name on the hub"
        raise InputError(
            f"the tokenizer of --scale {run.config.scale} must be {named}, got "
            f"{config.tokenizer!r}; change data.tokenizer"
        )
    for animal in ANIMALS:
        for half in (0, 1):
            measured(config, animal, half)


def _limits(run: Run, rows: Dataset) -> TokenLimits:
    """Let any piece of text be written between the ends."""
    tokenizer = tokenizer_of(run.config.data)
    size, _ = vocabulary(run.config.data)
    allowed = torch.zeros(size).bool()
    allowed[: tokenizer.size] = True
    allowed[[tokenizer.end, tokenizer.pad]] = False
    return TokenLimits(
        changes=1,
        allowed=allowed,
        fixed=rows.inputs == tokenizer.end,
        survives=lambda ids: tokenizer.survives(ids.tolist()),
    )


def _demonstrations(run: Run, pair: Pair, count: int) -> Dataset:
    """Write earlier stories of the probe with the target in its place."""
    config, tokenizer = run.config.data, tokenizer_of(run.config.data)
    probe, target = ANIMALS[pair.probe], ANIMALS[pair.target]
    words = tokenizer.word(probe), tokenizer.word(target)
    draw = stream(run.config.seed, "pair", pair.index, "demonstrations")
    stories = [
        s for s in segment_and_earlier(config)[1] if s.count(f" {probe}") >= LEAST
    ]
    found = []
    for place in torch.randperm(len(stories), generator=draw).tolist():
        row = tokenizer.document(stories[place], config.length)
        whole = whole_words(tokenizer, row, words[0])
        if len(whole) >= LEAST:
            found.append(
                [words[1] if at in whole else token for at, token in enumerate(row)]
            )
        if len(found) == count:
            break
    if not found:
        raise InputError(
            f"earlier stories must hold {probe!r} {LEAST} times within "
            f"{config.length} tokens, got none in {config.source}; use more of them"
        )
    rows = (found * (count // len(found) + 1))[:count]  # few stories come again
    return documents(rows, length=config.length, pad=tokenizer.pad)


def _read(config: DataConfig, tokens: Int[Tensor, " t"]) -> list[str]:
    tokenizer = tokenizer_of(config)
    return [tokenizer.decode([i]) for i in tokens.tolist() if i != tokenizer.pad]


TEXTS = Texts(
    pairs=lambda run: in_turns(
        len(ANIMALS), lambda _, __: 0, seed=run.config.pair_seed
    ),
    measurement=measurement,
    behaviour=behaviour,
    accuracy=accuracy,
    limits=_limits,
    demonstrations=_demonstrations,
    coded=CODE,
    coded_editor="coded tokens",
    columns=COLUMNS,
    tested=("less untargeted", "less probe"),
    margin=margin,
    read=_read,
    portrait=portrait,
    groups={},
    correlations={"margin and Δ log odds": (margin, log_odds)},
    check=_check,
)
