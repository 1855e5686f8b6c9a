"""Make a trial's edits: which documents, by which editor, or the control it beats."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.attribution.selection import select, select_random
from infusion.configs import EditConfig
from infusion.data.edits import Edits
from infusion.params import Params
from infusion.perturb.budget import BUDGETS
from infusion.perturb.controls import noise_like
from infusion.perturb.gradient import InputGradient
from infusion.perturb.pixels import ascend, craft_together
from infusion.presets.context import Pair, Run
from infusion.records import Task
from infusion.seeding import derive, stream
from infusion.suites.pictures.editors import ENGINES, Engine, Subject
from infusion.suites.pictures.trials import Change, Selection
from infusion.tasks import first_parameter
from infusion.training.steps import epoch_order

_TOGETHER = 1_600
"""Documents of several pairs held at once: 9 GiB of a GPU at the paper's width."""


def choose(
    run: Run,
    pair: Pair,
    scores: Float[Tensor, " n"],
    gains: Callable[[], Float[Tensor, " n"]],
    *,
    selection: Selection,
    k: int,
) -> Int[Tensor, " k"]:
    """Choose the documents to change.

    Args:
        run: Settings and documents.
        pair: Its index names the stream of a random choice.
        scores: Influence of every document.
        gains: Largest attainable gain of every document, computed when asked.
        selection: ``"supporting"``, ``"opposing"`` or ``"absolute"`` influence,
            ``"random"``, the ``"last"`` ones that the last epoch visits, or those of
            the largest ``"gain"`` by the editor's own gradient.
        k: How many.

    Returns:
        Positions in the training set.
    """
    recipe, seed = run.config.train, run.config.seed
    if selection == "random":
        generator = stream(seed, "pair", pair.index, "random documents")
        return select_random(len(run.train), k=k, generator=generator)
    if selection == "last":
        return epoch_order(seed, recipe.epochs - 1, len(run.train), recipe)[-k:]
    by: dict[str, Callable[[], Tensor]] = {
        "supporting": lambda: scores,
        "opposing": lambda: -scores,
        "absolute": scores.abs,
        "gain": gains,
    }
    return select(by[selection](), k=k)


def attainable_gains(
    engine: Engine, subject: Subject, edit: EditConfig
) -> Float[Tensor, " n"]:
    """First-order gain of every document within the budget: ``ε`` times a dual norm.

    Args:
        engine: Whose gradient it is of.
        subject: What is edited, and for what; whichever documents it chose.
        edit: Gives the budget.

    Returns:
        ``ε ‖G‖₁`` for a budget in L∞, ``ε ‖G‖₂`` for one in L2.
    """
    run, size = subject.run, len(subject.run.train)
    order = 1 if edit.norm == "linf" else 2
    like = first_parameter(subject.base)
    gains = []
    for documents in torch.arange(size).split(engine.at_once or size):
        climb = engine.climb(replace(subject, chosen=documents))
        gradient = climb(run.train.batch(documents, like=like).inputs)
        gains.append(gradient.flatten(1).norm(order, dim=1).cpu())
    return edit.epsilon * torch.cat(gains)


def climbed(
    run: Run, change: Change, chosen: Int[Tensor, " k"], climb: InputGradient
) -> Edits:
    """Edit the chosen documents by ascent.

    Args:
        run: Settings and documents of the architecture it is crafted on.
        change: Budget and steps.
        chosen: Documents.
        climb: Gradient of their inputs.

    Returns:
        The edits.
    """
    made = ascend(
        run.train,
        chosen,
        climb,
        like=first_parameter(run.make_task()),
        momentum=ENGINES[change.editor].momentum,
        **_asked(change.edit),
    )
    return _named(made, change)


def climbed_together(
    run: Run,
    change: Change,
    chosen: list[Int[Tensor, " k"]],
    model: tuple[Task, list[Params]],
) -> list[Edits]:
    """Do what :func:`climbed` does for several pairs and one model, in one pass.

    Args:
        run: As there.
        change: Likewise, of the plain editor.
        chosen: Documents of each pair.
        model: The task, and the IHVP of each pair.

    Returns:
        Edits per pair; they differ from those climbed alone by rounding.
    """
    task, ihvps = model
    made = craft_together(
        task,
        run.train,
        chosen,
        ihvps,
        batch_size=_TOGETHER,
        **_asked(change.edit),
    )
    return [_named(each, change) for each in made]


def _asked(edit: EditConfig) -> dict[str, Any]:
    return {
        "budget": BUDGETS[edit.norm](edit.epsilon),
        "steps": edit.steps,
        "step_size": edit.step_size,
        "ascent": edit.ascent,
        "delivery": edit.delivery,
    }


def _named(edits: Edits, change: Change) -> Edits:
    return replace(edits, asked={**edits.asked, "editor": change.editor})


def noise_of(run: Run, pair: Pair, change: Change, ascent: Edits) -> Edits:
    """Draw noise as large as an ascent's edits, on the same documents.

    Args:
        run: Gives the seed.
        pair: Names the stream.
        change: In which norm it is matched.
        ascent: What to match.

    Returns:
        Noise on the same storage.
    """
    match = "linf" if change.operator == "noise_linf" else "l2"
    seed = derive(run.config.seed, "pair", pair.index, "noise", match)
    return noise_like(ascent, match=match, seed=seed)


def reach(edits: Edits) -> dict[str, float]:
    """Say how far an edit went.

    Args:
        edits: Any.

    Returns:
        Largest change in each norm, over documents, and their means.
    """
    delta = edits.delta.flatten(1)
    linf, length = delta.abs().amax(1), delta.double().norm(dim=1)
    return {
        "linf": float(linf.max()),
        "l2": float(length.max()),
        "mean_linf": float(linf.mean()),
        "mean_l2": float(length.mean()),
    }
