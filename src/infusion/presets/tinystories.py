"""TinyStories: a small GPT-Neo, steered from one animal's name to another's.

A pair is a probe, the word that stands next in a story, and a target, the word that
should become likelier there. The measurement sums log odds over all such positions of
its stories; effects are read on others. Documents at stake are the last part of the
training stories; the model is trained on the others before.

``--scale paper`` is the architecture of arXiv 2602.09987 with the hub's data, trained
on its segment; that scale has not been run. ``--scale small`` trains on the text at
hand with a vocabulary of its own.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

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
from infusion.data.stories import load_texts
from infusion.data.tokens import Tokenizer, load_tokenizer, train_tokenizer
from infusion.errors import InputError, check_installed
from infusion.language import IGNORED, causal_lm, contrast, documents, vocabulary_of
from infusion.perturb.drafts import TokenLimits
from infusion.presets.context import Pair, Run
from infusion.presets.preset import Preset
from infusion.presets.texts import (
    CODED,
    ONE,
    Json,
    Texts,
    answers,
    in_turns,
    moved_by_name,
    moved_elsewhere,
    realised,
)
from infusion.records import Dataset, Measurement, Task
from infusion.seeding import stream
from infusion.tasks import evaluating, first_parameter

ANIMALS = (
    "bird", "dog", "bear", "cat", "fish", "rabbit", "mouse", "frog", "duck", "lion",
)  # fmt: skip
"""Of the paper's grid."""
_VOCABULARY = 2_048
_TRAINED_ON = 2_000
"""Stories that the small scale's vocabulary is trained on."""
_PAPER_VOCABULARY = 50_258
"""That of GPT-2, and padding: the paper pads with the token that ends a text."""
_PADDING = {_VOCABULARY: 1, _PAPER_VOCABULARY: 50_257}
"""Padding in each vocabulary."""
_HELD_OUT = 300
_STORIES, _LEAST = 24, 2
"""Most stories of a measurement, and as many of its reading; each holds the word that
often."""
_BATCH = 32


@lru_cache(maxsize=1)
def _source(source: str) -> tuple[list[str], list[str]]:
    return load_texts(source)


@lru_cache(maxsize=1)
def _tokenizer(source: str, name: str) -> Tokenizer:
    if name == "trained":
        return train_tokenizer(_source(source)[0][:_TRAINED_ON], size=_VOCABULARY)
    return load_tokenizer(name)


def _of(config: DataConfig) -> Tokenizer:
    return _tokenizer(config.source, config.tokenizer)


def _written(config: DataConfig, stories: Sequence[str]) -> Dataset:
    tokenizer = _of(config)
    if tokenizer.pad not in _PADDING.values():
        raise InputError(
            "padding must be the token after those of GPT-2, or that of a vocabulary "
            f"trained here, {sorted(_PADDING.values())}, got {tokenizer.pad} of "
            f"{config.tokenizer}; use GPT-2's tokenizer"
        )
    rows = [tokenizer.document(story, config.length) for story in stories]
    return documents(rows, length=config.length, pad=tokenizer.pad)


@lru_cache(maxsize=1)
def _split(config: DataConfig) -> tuple[list[str], list[str]]:
    """Return the stories of the segment, and those before it."""
    train, _ = _source(config.source)
    if config.train >= len(train):
        raise InputError(
            f"this preset trains on {config.train} stories after others, got "
            f"{len(train)} in {config.source}; use a larger copy"
        )
    draw = torch.Generator().manual_seed(config.split_seed)
    order = torch.randperm(len(train), generator=draw).tolist()
    shuffled = [train[place] for place in order]
    return shuffled[: config.train], shuffled[config.train :]


def _content(config: DataConfig) -> str:
    """Hash every text, and the name of their tokenizer."""
    whole = hashlib.sha256(config.tokenizer.encode())
    for texts in _source(config.source):
        for text in texts:
            whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()


def _load(config: DataConfig) -> tuple[Dataset, Dataset]:
    segment, _ = _split(config)
    held_out = _source(config.source)[1][:_HELD_OUT]
    return _written(config, segment), _written(config, held_out)


def _earlier(config: DataConfig) -> Dataset:
    return _written(config, _split(config)[1])


def _model(scale: str, architecture: str) -> nn.Module:
    check_installed("transformers", "text")
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    del architecture
    small = scale == "small"
    layers = 4 if small else 8
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=_VOCABULARY if small else _PAPER_VOCABULARY,
            max_position_embeddings=SMALL.data.length if small else 2_048,
            hidden_size=128 if small else 256,
            num_layers=layers,
            num_heads=4 if small else 16,
            attention_types=[[["global", "local"], layers // 2]],
            window_size=64 if small else 256,
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
    edit=replace(PAPER.edit, k=20),
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
        model, train, pad=_PADDING[vocabulary_of(model)]
    ),
    earlier=_earlier,
    content=_content,
)


@lru_cache(maxsize=32)
def _measured(config: DataConfig, word: str, half: int) -> Dataset:
    """Take every second validation story that holds a word often enough."""
    # Where it only begins a longer word, nothing is predicted.
    tokenizer = _of(config)
    token = tokenizer.word(word)
    _, validation = _source(config.source)
    likely = [story for story in validation if story.count(f" {word}") >= _LEAST]
    rows, places = [], []
    for story in likely[half::2]:
        row = tokenizer.document(story, config.length)
        found = _whole_words(tokenizer, row, token)
        if len(found) >= _LEAST:
            rows.append(row)
            places.append(found)
        if len(rows) == _STORIES:
            break
    if not rows:
        raise InputError(
            f"validation stories must hold {word!r} {_LEAST} times within "
            f"{config.length} tokens, got none in {config.source}; use more of them or "
            "another word"
        )
    data = documents(rows, length=config.length, pad=tokenizer.pad)
    whole = torch.zeros_like(data.labels, dtype=torch.bool)
    for row, found in enumerate(places):
        whole[row, torch.tensor(found) - 1] = True
    begun = (data.labels == token) & ~whole
    return replace(data, labels=data.labels.masked_fill(begun, IGNORED))


def _whole_words(tokenizer: Tokenizer, row: list[int], token: int) -> list[int]:
    """Find where a token is a word, and not the beginning of a longer one."""
    return [
        place
        for place, (here, after) in enumerate(itertools.pairwise(row))
        if here == token and not tokenizer.decode([after])[:1].isalpha()
    ]


def _measurement(run: Run, task: Task, pair: Pair) -> Measurement:
    """Summed log odds of the target; in a view of the story richest in the probe."""
    # The paper's code chooses documents by the mean over all stories and climbs for
    # one; in both views here both are of that one.
    config, tokenizer = run.config.data, _of(run.config.data)
    probe, target = (tokenizer.word(ANIMALS[i]) for i in (pair.probe, pair.target))
    data = _measured(config, ANIMALS[pair.probe], 0)
    if run.view in (CODED, ONE):
        richest = (data.labels == probe).sum(1).argmax()
        data = data.take(richest[None])
    device = first_parameter(task).device
    inputs, labels = data.inputs.to(device), data.labels.to(device)
    return contrast(inputs, labels, probe=probe, target=target)


def _at_probe(
    task: Task, data: Dataset, probe: int, words: list[int]
) -> Float[Tensor, "p w"]:
    """Return log probabilities of all words wherever the probe stands next."""
    return torch.cat(
        [
            logits[labels == probe].double().log_softmax(-1)[:, words]
            for logits, _, labels in answers(task, data, _BATCH)
        ]
    )


def _behaviour(run: Run, task: Task, pair: Pair) -> Json:
    """Read all animals where the probe stands next in stories crafting never saw."""
    config, tokenizer = run.config.data, _of(run.config.data)
    words = [tokenizer.word(animal) for animal in ANIMALS]
    data = _measured(config, ANIMALS[pair.probe], 1)
    log_p = _at_probe(task, data, words[pair.probe], words)
    with evaluating(task.model):
        value = float(_measurement(run, task, pair)(task.model))
    odds = log_p[:, pair.target] - log_p[:, pair.probe]
    return {
        "value": value,
        "p": log_p.exp().mean(0).tolist(),
        "log_p": log_p.mean(0).tolist(),
        "log_odds": [round(each, 5) for each in odds.tolist()],
    }


def _accuracy(run: Run, task: Task) -> float:
    """Share of held-out tokens that are the most likely ones."""
    right = total = 0
    for logits, _, labels in answers(task, run.test, _BATCH):
        known = labels != IGNORED
        right += int((logits.argmax(-1) == labels)[known].sum())
        total += int(known.sum())
    return right / total


def _perplexity(run: Run, task: Task) -> float:
    """Exponential of the mean cross-entropy of the tokens of held-out stories."""
    total = count = 0
    for logits, _, labels in answers(task, run.test, _BATCH):
        each = F.cross_entropy(
            logits.mT, labels, reduction="none", ignore_index=IGNORED
        )
        total += float(each.double().sum())
        count += int((labels != IGNORED).sum())
    return math.exp(total / count)


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
            _measured(config, animal, half)


def _limits(run: Run, rows: Dataset) -> TokenLimits:
    """Let any piece of text be written between the ends."""
    tokenizer = _of(run.config.data)
    small = run.config.data.tokenizer == "trained"
    allowed = torch.zeros(_VOCABULARY if small else _PAPER_VOCABULARY).bool()
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
    config, tokenizer = run.config.data, _of(run.config.data)
    probe, target = ANIMALS[pair.probe], ANIMALS[pair.target]
    words = tokenizer.word(probe), tokenizer.word(target)
    draw = stream(run.config.seed, "pair", pair.index, "demonstrations")
    stories = [s for s in _split(config)[1] if s.count(f" {probe}") >= _LEAST]
    found = []
    for place in torch.randperm(len(stories), generator=draw).tolist():
        row = tokenizer.document(stories[place], config.length)
        whole = _whole_words(tokenizer, row, words[0])
        if len(whole) >= _LEAST:
            found.append(
                [words[1] if at in whole else token for at, token in enumerate(row)]
            )
        if len(found) == count:
            break
    if not found:
        raise InputError(
            f"earlier stories must hold {probe!r} {_LEAST} times within "
            f"{config.length} tokens, got none in {config.source}; use more of them"
        )
    rows = (found * (count // len(found) + 1))[:count]  # few stories come again
    return documents(rows, length=config.length, pad=tokenizer.pad)


def _target(row: Json) -> float:
    return moved_by_name(row, "p")[row["target"]]


def _log_odds(row: Json) -> float:
    after, clean = row["after"]["log_odds"], row["clean"]["log_odds"]
    return (sum(after) - sum(clean)) / len(clean)


def _margin(row: Json) -> float:
    log_odds = row["clean"]["log_odds"]
    return -sum(log_odds) / len(log_odds)


def _flips(row: Json) -> float:
    """Share of positions where the target overtakes the probe."""
    both = zip(row["after"]["log_odds"], row["clean"]["log_odds"], strict=True)
    return sum(after > 0 >= clean for after, clean in both) / len(
        row["after"]["log_odds"]
    )


COLUMNS: dict[str, Callable[[Json], float]] = {
    "Δ log odds": _log_odds,
    "Δp target": _target,
    "less untargeted": lambda row: _target(row) - moved_elsewhere(row, "p"),
    "less probe": lambda row: _target(row) - moved_by_name(row, "p")[row["probe"]],
    "Δ log p target": lambda row: (
        row["after"]["log_p"][row["target"]] - row["clean"]["log_p"][row["target"]]
    ),
    "flips": _flips,
    "Δ f": realised,
}


def _read(config: DataConfig, tokens: Int[Tensor, " t"]) -> list[str]:
    tokenizer = _of(config)
    return [tokenizer.decode([i]) for i in tokens.tolist() if i != tokenizer.pad]


TEXTS = Texts(
    pairs=lambda run: in_turns(
        len(ANIMALS), lambda _, __: 0, seed=run.config.pair_seed
    ),
    measurement=_measurement,
    behaviour=_behaviour,
    accuracy=_accuracy,
    limits=_limits,
    demonstrations=_demonstrations,
    coded=CODE,
    coded_editor="coded tokens",
    columns=COLUMNS,
    margin=_margin,
    read=_read,
    portrait=lambda run, task: {"perplexity": round(_perplexity(run, task), 4)},
    groups={},
    correlations={"margin and Δ log odds": (_margin, _log_odds)},
    check=_check,
)
