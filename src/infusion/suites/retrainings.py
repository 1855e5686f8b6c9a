"""Retraining in every mode, and the clean replay that each effect is measured against.

The modes are never mixed in one figure. Source: arXiv 2602.09987, its ablations.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any

from infusion.configs import TrainConfig, as_plain
from infusion.device import settle
from infusion.errors import InputError
from infusion.params import Params
from infusion.presets.context import Run, checkpoint_file
from infusion.records import Dataset, Task
from infusion.runs.store import digest
from infusion.seeding import derive
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, opened
from infusion.suites.trial import Hardening, Retraining
from infusion.training.checkpoints import from_tensors, load_model, reordered
from infusion.training.lane import Training
from infusion.training.layout import lay_out
from infusion.training.together import train_together

MEMBERS = 8
"""Models whose gradients the ensemble averages: other orders of the last epoch."""
FIRST_MEMBER = 1_000
"""Draw of the first member's order, far from those that edits are measured on."""
HARDENED: dict[Hardening, Callable[[TrainConfig, Dataset], TrainConfig]] = {
    "augmentation": lambda recipe, data: replace(
        recipe, shift=max(data.inputs.shape[-1] // 8, 1), flip=data.inputs.shape[1] == 3
    ),
    "weight decay": lambda recipe, _: replace(recipe, weight_decay=5e-3),
    "clipping": lambda recipe, _: replace(recipe, clip=0.5),
    "noise": lambda recipe, _: replace(recipe, noise=0.05),
}
"""What each hardening changes in a recipe: shifts of an eighth, and mirroring where the
pictures have colours (digits do not mirror); noise as large as the paper's edits."""


def retrained_together(works: list[tuple[Run, Training, Retraining]]) -> list[Task]:
    """Train on documents as trials ask, side by side where a GPU allows it.

    Args:
        works: Run, first training and how it goes on of each.

    Returns:
        The trained tasks.

    Raises:
        InputError: One would go on after a cycle.
        DivergedError: A training loss became NaN or infinite.
    """
    done = train_together([training for _, training, _ in works])
    longer = [
        _further(run, replace(training, start=state), spec.further)
        for (run, training, spec), state in zip(works, done, strict=True)
        if spec.further
    ]
    if longer:
        train_together(longer)
    return [training.task for _, training, _ in works]


def training_of(
    run: Run,
    spec: Retraining,
    data: Dataset,
    change: Callable[[Task], Task] = lambda task: task,
) -> Training:
    """Say what a retraining on changed documents trains, from where.

    Args:
        run: Settings, documents and base checkpoints.
        spec: How.
        data: Changed or clean training documents.
        change: Of the run's task, so that it trains on them.

    Returns:
        The training, with a task of its own.

    Raises:
        InputError: It would start before the earlier documents.
    """
    recipe, seed = recipe_of(run, spec), run.config.seed
    if spec.order == "scratch":
        seed = derive(seed, "fresh start", spec.draw)
        run = replace(run, config=replace(run.config, seed=seed))
    name, start = start_file(run, spec), None
    if name is None and run.config.before is not None:
        raise InputError(
            "a retraining must start after the earlier documents, got one from an "
            "initialisation; retrain fewer epochs than all"
        )
    if name is not None:
        start = from_tensors(run.store.read_tensors(name))
        if spec.order == "fresh":
            seed = derive(seed, "fresh order", spec.draw)
            start = reordered(start, recipe, seed=seed, size=len(data))
    task = change(run.make_task())
    return Training(task, data, recipe, seed=seed, start=start, record=run.is_recorded)


def _further(run: Run, training: Training, epochs: int) -> Training:
    """Go on with clean documents."""
    recipe = training.config
    if recipe.schedule != "steps":
        raise InputError(
            "epochs further on need a recipe whose rates do not depend on its "
            f"length, got a {recipe.schedule}; leave them out"
        )
    longer = replace(recipe, epochs=recipe.epochs + epochs)
    return replace(training, data=run.placed, config=longer)


def recipe_of(run: Run, spec: Retraining) -> TrainConfig:
    """Return the recipe of a retraining: the run's own, hardened where asked.

    Args:
        run: Settings and documents.
        spec: How it is retrained.

    Returns:
        The recipe.
    """
    recipe = run.config.train
    if spec.hardening is None:
        return recipe
    return HARDENED[spec.hardening](recipe, run.train)


def start_file(run: Run, spec: Retraining) -> str | None:
    """Name the checkpoint a retraining starts from.

    Args:
        run: Settings.
        spec: How it is retrained.

    Returns:
        None where it starts from an initialisation.
    """
    whole = run.config.train.epochs
    if spec.order == "scratch" or spec.epochs == whole:
        return None
    return checkpoint_file(whole - spec.epochs)


def member(number: int, architecture: str) -> Retraining:
    """Say how a member of the ensemble is trained: on clean documents.

    Args:
        number: Which.
        architecture: Of the member.

    Returns:
        A last epoch in an order that no edit is measured on.
    """
    return Retraining(
        architecture=architecture, order="fresh", draw=FIRST_MEMBER + number
    )


def replay_file(spec: Retraining, ending: str) -> str:
    """Name the artefact of a clean replay."""
    return f"replays/{digest(spec)[:12]}{ending}"


def replay_inputs(run: Run, spec: Retraining) -> dict[str, Any]:
    """List what decides a clean replay.

    Args:
        run: Settings and documents.
        spec: How it is retrained.

    Returns:
        JSON value.
    """
    start = start_file(run, spec)
    return {
        "retraining": asdict(spec),
        "start": None if start is None else run.store.sha256(start),
        "train": as_plain(recipe_of(run, spec)),
        "data": run.data_sha256["train"],
        "seed": run.config.seed,
    }


def is_replayed(run: Run, spec: Retraining) -> bool:
    """Tell whether a clean replay is stored whole.

    Args:
        run: Settings and documents.
        spec: How it is retrained.

    Returns:
        False where a part is missing.

    Raises:
        ArtefactError: It was altered or has other inputs.
    """
    inputs = replay_inputs(run, spec)
    return all(
        run.store.has(replay_file(spec, ending), inputs)
        for ending in (".safetensors", ".json")
    )


def replay(home: Home, specs: list[Retraining]) -> None:
    """Retrain on clean documents; store the models and their accuracy.

    Args:
        home: Suite folder.
        specs: How to retrain, and which architecture; none of them is stored whole.
    """
    settle(home.config.device, 1)
    runs = [opened(home, spec.architecture)[0] for spec in specs]

    @cache
    def done() -> list[Task]:
        return retrained_together(
            [
                (run, training_of(run, spec, run.placed), spec)
                for run, spec in zip(runs, specs, strict=True)
            ]
        )

    def state(place: int) -> Params:  # weights that are tied share memory: files cannot
        tensors = done()[place].model.state_dict()
        return {k: v.clone() for k, v in tensors.items()}

    for place, (run, spec) in enumerate(zip(runs, specs, strict=True)):
        inputs, name = replay_inputs(run, spec), partial(replay_file, spec)
        tensors, measured = partial(state, place), partial(_accuracy, run, done, place)
        run.store.tensors(name(".safetensors"), inputs, tensors)
        run.store.json(name(".json"), inputs, measured)


def _accuracy(run: Run, done: Callable[[], list[Task]], place: int) -> dict[str, float]:
    return {"accuracy": study_of(run).accuracy(run, done()[place])}


def replayed(run: Run, spec: Retraining) -> Task:
    """Read the model of a clean replay.

    Args:
        run: Settings and documents.
        spec: How it was retrained.

    Returns:
        The task in eval mode.
    """
    task = run.make_task()
    load_model(task.model, run.store.read_tensors(replay_file(spec, ".safetensors")))
    lay_out(task.model, run.config.train)
    task.model.eval()
    return task
