"""What an edit climbs: one model's influence, several models', or retraining itself.

=================== ==================================================================
editor              gradient of a document's inputs
=================== ==================================================================
ekfac               perturbation gradient at the base model
ensemble            its mean over models of other last-epoch orders
replay              exact derivative through the last epoch in the run's own order
held replay         the same, less the divergence of other predictions
replay over orders  as replay, through another order at every step, none of them
                    measured, with momentum: a running mean over orders
matching            of the cosine between training and measurement gradients
evading             perturbation gradient, less those of what an auditor sees
=================== ==================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.attribution.influence import gradient
from infusion.attribution.selection import select_random
from infusion.audit.pictures import quiet_directions, residuals
from infusion.audit.values import usual_values
from infusion.errors import NotApplicableError
from infusion.measure import holding
from infusion.params import Params
from infusion.perturb.gradient import InputGradient, influence_gradient
from infusion.perturb.matching import matching_gradient
from infusion.presets.context import Run, checkpoint_file
from infusion.records import Dataset, Measurement, Task
from infusion.replay.gradient import replay_gradient
from infusion.seeding import derive, stream
from infusion.suites.pictures.trials import Editor
from infusion.suites.retrainings import FIRST_MEMBER, MEMBERS
from infusion.tasks import first_parameter
from infusion.training.checkpoints import from_tensors, reordered

_HELD = 128
"""Documents held at once while the gradients of all are computed."""
_KEPT, _WEIGHT = 256, 4.0
"""Training documents whose predictions are kept, and nats that a nat of divergence
costs."""
_EVASION = 1.0
"""Weight of each of an auditor's scores beside influence."""
_SCORES = 3.0
"""How many such scores there are."""
Models = list[tuple[Task, Params]]
"""Tasks, and the IHVPs solved at them."""


@dataclass(frozen=True)
class Subject:
    """What is edited, and for what.

    Attributes:
        run: Settings and documents.
        measurement: ``log p(target | probe)``.
        chosen: Documents to edit.
        models: So many members of the ensemble, or the base model for 0.
    """

    run: Run
    measurement: Measurement
    chosen: Int[Tensor, " k"]
    models: Callable[[int], Models]

    @property
    def base(self) -> Task:
        """The task at the base model."""
        return self.models(0)[0][0]


def _influence(members: int) -> Callable[[Subject], InputGradient]:
    def climb(subject: Subject) -> InputGradient:
        models = subject.models(members)
        return influence_gradient(models, subject.run.train, subject.chosen)

    return climb


def _replay(subject: Subject) -> InputGradient:
    return _through(subject, lambda _: None)


def _held(subject: Subject) -> InputGradient:
    base, train, seed = subject.base, subject.run.train, subject.run.config.seed
    generator = stream(seed, "predictions to keep")
    kept = select_random(len(train), k=min(_KEPT, len(train)), generator=generator)
    batch = train.batch(kept, like=first_parameter(base))
    held = holding(subject.measurement, base, batch, weight=_WEIGHT)
    return _replay(replace(subject, measurement=held))


def _over_orders(subject: Subject) -> InputGradient:
    return _through(subject, lambda step: FIRST_MEMBER + step)


def _through(subject: Subject, draw: Callable[[int], int | None]) -> InputGradient:
    """Differentiate the last epoch, at each step in the order of a draw."""
    run, steps = subject.run, count()
    recipe, size = run.config.train, len(run.train)
    stored = run.store.read_tensors(checkpoint_file(recipe.epochs - 1))
    own, measurement = from_tensors(stored), subject.measurement

    def climb(inputs: Tensor) -> Tensor:
        seed, start, number = run.config.seed, own, draw(next(steps))
        if number is not None:
            seed = derive(seed, "fresh order", number)
            start = reordered(own, recipe, seed=seed, size=size)
        return replay_gradient(
            subject.base,
            run.train,
            subject.chosen,
            measurement,
            recipe,
            seed=seed,
            start=start,
            inputs=inputs,
        ).gradient

    return climb


def _matching(subject: Subject) -> InputGradient:
    wanted = gradient(subject.base, subject.measurement)
    return matching_gradient(subject.base, subject.run.train, subject.chosen, wanted)


def _evading(subject: Subject) -> InputGradient:
    """Climb influence and descend an auditor's scores, each of unit mean size."""
    climb, scores = _influence(0)(subject), _seen(subject.run.train)

    def both(inputs: Tensor) -> Tensor:
        seen = sum(_unit(_pulled(score, inputs)) for score in scores)
        return _unit(climb(inputs)) - _EVASION * seen

    return both


def _seen(data: Dataset) -> list[Callable[[Tensor], Tensor]]:
    """List what an auditor sees in the pixels, of all documents together."""
    quiet = quiet_directions(data)

    def loud(pictures: Tensor) -> Tensor:
        return quiet.energies(pictures).sum()

    def noisy(pictures: Tensor) -> Tensor:  # a quartile alone has hardly any gradient
        found = residuals(pictures)
        return (found * (found <= found.median(1, keepdim=True).values)).sum()

    try:
        usual = usual_values(data)
    except NotApplicableError:  # to the auditor neither
        return [loud, noisy]
    return [loud, noisy, lambda pictures: usual.surprise(pictures).sum()]


def _pulled(score: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.enable_grad():
        moved = inputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(moved), moved)
    return gradient


def _unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.abs().mean().clamp_min(1e-12)


@dataclass(frozen=True)
class Engine:
    """An editor: what it climbs, and what that costs.

    Attributes:
        climb: Makes the gradient of a subject's chosen documents.
        evaluations: Gradients per ascent step and document; each of a replay is a whole
            epoch, differentiated.
        momentum: Of the ascent, where each step's gradient is one draw of several.
        settings: Whatever else decides the gradient, to tell stored edits apart.
        at_once: Documents whose gradients are taken together when those of all are
            wanted; a replay gives all of them in one pass.
    """

    climb: Callable[[Subject], InputGradient]
    evaluations: int = 1
    momentum: float = 0.0
    settings: tuple[float, ...] = ()
    at_once: int | None = _HELD


ENGINES: dict[Editor, Engine] = {
    "ekfac": Engine(_influence(0)),
    "ensemble": Engine(_influence(MEMBERS), evaluations=MEMBERS),
    "replay": Engine(_replay, at_once=None),
    "held replay": Engine(_held, at_once=None, settings=(float(_KEPT), _WEIGHT)),
    "replay over orders": Engine(_over_orders, momentum=0.9, at_once=None),
    "matching": Engine(_matching, evaluations=2),
    "evading": Engine(_evading, settings=(_EVASION, _SCORES)),
}
