"""Texts: probes and targets of a language preset, edits in tokens or embeddings."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.attribution.selection import check_k, select, select_random
from infusion.audit.evidence import Report
from infusion.audit.texts import least_expected
from infusion.configs import TokenConfig
from infusion.data.edits import Edits
from infusion.errors import InputError, check_whole
from infusion.language import IGNORED
from infusion.perturb.budget import BUDGETS
from infusion.perturb.controls import offsets_like, substitutions_like
from infusion.perturb.drafts import Price
from infusion.perturb.embeddings import (
    craft_embeddings,
    offset_training,
    predicted_offset_effect,
)
from infusion.perturb.pixels import predicted_effect
from infusion.perturb.tokens import (
    craft_tokens,
    craft_tokens_as_coded,
    substitute_tokens,
)
from infusion.presets.checks import check_settings
from infusion.presets.context import Pair, Run
from infusion.presets.texts import CODED, ONE, Texts, answers, texts_of
from infusion.records import Dataset, Measurement, Task
from infusion.seeding import derive, stream
from infusion.suites.study import Desk, Json, Study
from infusion.suites.texts.trials import OFFSETS, Change, Coded, Operator, trials
from infusion.suites.trial import Trial
from infusion.training.loop import init_model
from infusion.training.recipe import check_recipe

TOKEN_EDITORS: dict[Operator, tuple[Callable[..., Edits], tuple[str, ...]]] = {
    "tokens": (craft_tokens, ("steps", "step_size", "gini")),
    "coded tokens": (craft_tokens_as_coded, ("steps",)),
    "substitution": (substitute_tokens, ("candidates",)),
    "evading": (substitute_tokens, ("candidates",)),
}
"""Editors of real documents, with the settings each takes."""
_UNNOTICED = 0.84
"""Share of documents that are no more surprising than an evading edit may be."""
_SHOWN_PAIRS, _SHOWN_DOCUMENTS = 1, 2
"""Edits whose tokens are written into their rows."""


def _texts(run: Run) -> Texts:
    return texts_of(run.config.preset)


def _trials(suite: str, run: Run) -> list[Trial]:
    texts, others = _texts(run), dict(run.preset.others)
    source = texts.coded_source
    if source is not None and others[source](run.config) == run.config:
        del others[source]  # the settings are the paper's already
        source = None
    coded = Coded(cast("Operator", texts.coded_editor), source)
    return trials(suite, run.config, tuple(others), coded)


def _check(run: Run, wanted: list[Trial]) -> None:
    config = run.config
    if config.probe is not None or config.target is not None:
        raise InputError(
            "a suite draws its own pairs, got probe "
            f"{config.probe} and target {config.target}; drop --probe and --target"
        )
    check_settings(config)
    _check_tokens(config.tokens)
    if config.before is not None:
        check_recipe(config.before)
    BUDGETS[config.edit.norm](config.edit.epsilon)
    preset, other = run.preset, run.preset.others.get(config.architecture)
    if other is not None and other(config) != config:
        raise InputError(
            "settings of a base model with a recipe or documents of its own must be "
            f"those, got others with architecture {config.architecture!r}; use the "
            "suite confidence, or the preset's architecture"
        )
    _texts(run).check(run)
    model = init_model(lambda: preset.make_model(config.scale, config.architecture), 0)
    preset.make_task(model, run.train)  # refuses rows that the model is too short for
    for trial in wanted:
        check_k(cast("Change", trial.change).edit.k, len(run.train))


def _check_tokens(settings: TokenConfig | None) -> None:
    if settings is None:
        raise InputError(
            "settings of texts must say how tokens are changed, got none; use the "
            "config.yaml of a run folder"
        )
    for name in ("changes", "steps", "candidates", "memory_limit"):
        check_whole(f"tokens.{name}", getattr(settings, name))
    gini = settings.gini
    if gini is not None and not (len(gini) == 2 and all(0 <= g < 1 for g in gini)):
        raise InputError(
            f"tokens.gini must be two numbers in [0, 1), or none, got {list(gini)}; "
            "[0.9, 0.0] is usual"
        )
    if not 0 < settings.step_size < math.inf:
        raise InputError(
            f"tokens.step_size must be > 0 and finite, got {settings.step_size}; 1.0 "
            "is usual"
        )


def _pairs(run: Run, task: Task) -> list[Pair]:
    del task
    inputs = {"test": run.data_sha256["test"], "pair_seed": run.config.pair_seed}

    def make() -> list[dict[str, int]]:
        return [
            asdict(Pair(index, probe, probe, target))
            for index, (probe, target) in enumerate(_texts(run).pairs(run))
        ]

    return [Pair(**row) for row in run.store.json("pairs.json", inputs, make)]


def _measurement(run: Run, task: Task, pair: Pair) -> Measurement:
    return _texts(run).measurement(run, task, pair)


def _view(run: Run, view: str) -> Run:
    if view == CODED:
        coded = replace(run.config, curvature=_texts(run).coded)
        return replace(run, config=coded, view=view, fitted=view)
    assert view == ONE, view
    return replace(run, view=view)


def _chosen(desk: Desk, change: Change) -> Int[Tensor, " k"]:
    run, k = desk.run, change.edit.k
    if change.selection == "random":
        generator = stream(run.config.seed, "pair", desk.pair.index, "random documents")
        return select_random(len(run.train), k=k, generator=generator)
    return select(desk.scores, k=k)


def _like(change: Change) -> Change | None:
    if change.operator == "random tokens":
        return replace(change, operator="tokens")
    noise = change.operator in OFFSETS and change.operator != "embeddings"
    return replace(change, operator="embeddings") if noise else None


def _crafted(desks: list[Desk], change: Change) -> list[Edits]:
    price = None
    if change.operator == "evading":  # all desks are of one base model
        price = _noticed(desks[0].run, desks[0].models(0)[0][0])
    return [_craft(desk, change, price) for desk in desks]


def _craft(desk: Desk, change: Change, price: Price | None) -> Edits:
    """Change tokens or embeddings, or make what that is compared with."""
    run, pair = desk.run, desk.pair
    chosen = _chosen(desk, change)
    if change.operator == "demonstrations":
        rows = _texts(run).demonstrations(run, pair, len(chosen))
        return Edits(chosen, run.train.take(chosen), rows, "demonstrations", {})
    limits = _texts(run).limits(run, run.train.take(chosen))
    limits = replace(limits, changes=change.tokens.changes, price=price)
    like = _like(change)
    if like is not None and like.operator == "tokens":
        seed = derive(run.config.seed, "pair", pair.index, "random tokens")
        return substitutions_like(desk.made(like), limits=limits, seed=seed)
    if change.operator == "embeddings":
        return _offsets(desk, change, chosen)
    if like is not None:
        seed = derive(run.config.seed, "pair", pair.index, change.operator)
        match = "l2" if change.operator == "noise_l2" else "linf"
        return offsets_like(desk.made(like), match=match, seed=seed)
    make, settings = TOKEN_EDITORS[change.operator]
    task, ihvp = desk.models(0)[0]
    return make(
        task,
        run.train,
        chosen,
        ihvp,
        limits=limits,
        memory_limit=change.tokens.memory_limit,
        **{name: getattr(change.tokens, name) for name in settings},
    )


def _noticed(run: Run, task: Task) -> Price:
    """Forbid documents that an auditor finds more surprising than most others."""

    def seen(data: Dataset) -> Tensor:
        asked = answers(task, data, run.config.curvature.batch_size)
        return torch.cat([least_expected(logits, own) for logits, _, own in asked])

    most = seen(run.train).quantile(_UNNOTICED)

    def price(inputs: Tensor, labels: Tensor) -> Tensor:
        loud = seen(Dataset(inputs.cpu(), labels.cpu())) > most
        return torch.where(loud, math.inf, 0).to(inputs.device)

    return price


def _offsets(desk: Desk, change: Change, chosen: Tensor) -> Edits:
    (task, ihvp), edit = desk.models(0)[0], change.edit
    return craft_embeddings(
        task,
        desk.run.train,
        chosen,
        ihvp,
        budget=BUDGETS[edit.norm](edit.epsilon),
        steps=edit.steps,
        step_size=edit.step_size,
        ascent=edit.ascent,
    )


def _facts(desk: Desk, change: Change, edits: Edits) -> Json:
    """Say how many tokens changed, what that is predicted to do, and what it cost."""
    run, (task, ihvp) = desk.run, desk.models(0)[0]
    if edits.are_offsets:
        predicted = predicted_offset_effect(task, run.train, edits, ihvp)
        reached = {"linf": max(each["linf"] for each in edits.reached)}
    else:
        predicted = predicted_effect(task, run.train, edits, ihvp)
        changed = [each["tokens"] for each in edits.reached]
        known = int((edits.before.labels != IGNORED).sum())
        reached = {
            "tokens": sum(changed) / len(changed),
            "most": max(changed),
            "share": sum(changed) / known,
        }
        if change.operator == "demonstrations":  # other documents, not changed ones
            reached = {}
    evaluations = {
        "tokens": change.tokens.steps,
        "coded tokens": change.tokens.steps,
        "substitution": change.tokens.changes,
        "evading": change.tokens.changes,
        "embeddings": change.edit.steps,
    }
    return {
        "reached": reached,
        "predicted": predicted,
        "evaluations": evaluations.get(change.operator, 0),
        "examples": _examples(desk, change, edits),
    }


def _examples(desk: Desk, change: Change, edits: Edits) -> list[Json]:
    """Write out the most changed documents, or the whole of what took their place."""
    if edits.are_offsets or desk.pair.index >= _SHOWN_PAIRS:
        return []
    read, config = _texts(desk.run).read, desk.run.config.data
    changed = (edits.before.inputs != edits.after.inputs).sum(1)
    shown = changed.argsort(descending=True, stable=True)[:_SHOWN_DOCUMENTS]
    whole = change.operator == "demonstrations"
    before = edits.after if whole else edits.before
    return [
        {
            "document": int(edits.documents[row]),
            "whole": whole,
            "after": read(config, edits.after.inputs[row]),
            "before": read(config, before.inputs[row]),
        }
        for row in shown.tolist()
    ]


def _training(run: Run, edits: Edits) -> tuple[Callable[[Task], Task], Dataset]:
    if edits.are_offsets:
        return offset_training(run.train, edits)
    return lambda task: task, edits.apply(run.train)


def _report(run: Run, task: Task, change: Change, pair: Pair) -> Report:
    """Report what one prompt or story is continued with."""
    del change
    alone = replace(run, view=ONE)
    return Report(_texts(run).measurement(alone, task, pair))


def _behaviour(run: Run, task: Task, pair: Pair) -> Json:
    with torch.no_grad():
        return _texts(run).behaviour(run, task, pair)


STUDY = Study(
    trials=_trials,
    check=_check,
    pairs=_pairs,
    measurement=_measurement,
    view=_view,
    members=lambda _: [],
    decides=lambda *_: {},
    like=_like,
    craft=_crafted,
    facts=_facts,
    training=_training,
    behaviour=_behaviour,
    accuracy=lambda run, task: _texts(run).accuracy(run, task),
    portrait=lambda run, task: _texts(run).portrait(run, task),
    told=lambda _: "one document",
    report=_report,
    success=lambda *_: {},
)
