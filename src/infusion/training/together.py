"""Train several models at once: side by side on a GPU, one after another on a CPU."""

from collections.abc import Sequence

from infusion.errors import DivergedError, InputError, check_type
from infusion.training.checkpoints import Checkpoint
from infusion.training.lane import Lane, Training, can_record


def train_together(trainings: Sequence[Training]) -> list[Checkpoint]:
    """Train each task's model in place to the end of its recipe.

    Recorded steps of all lanes are launched in turn and run side by side; each lane's
    bits are those of training it alone. The others draw random numbers, which belong to
    one training at a time: they go one after another.

    Args:
        trainings: Recipes, orders and documents may differ.

    Returns:
        The state of each after its last epoch.

    Raises:
        InputError: There is nothing to train, or as for one.
        ArtefactError: As for one.
        DivergedError: Likewise; its note says which of several it was.
    """
    _check(trainings)
    done = {place: training.start for place, training in enumerate(trainings)}
    beside = [place for place, training in enumerate(trainings) if can_record(training)]
    apart = [[place] for place in done if place not in beside]
    for group in [beside, *apart]:
        lanes = {place: Lane(trainings[place]) for place in group}
        while running := {p: lane for p, lane in lanes.items() if lane.has_epochs_left}:
            done |= _epoch(running, len(trainings))
    finished = [state for state in done.values() if state is not None]
    if len(finished) < len(trainings):
        raise InputError(
            "each training must have an epoch or a start, got "
            f"{len(trainings) - len(finished)} of {len(trainings)} with neither; train "
            "for more epochs"
        )
    return finished


def _check(trainings: Sequence[Training]) -> None:
    """Refuse what is no list of trainings, or would train one model twice."""
    if not isinstance(trainings, (list, tuple)) or not trainings:
        raise InputError(
            "trainings must be a list of at least one Training, got "
            f"{'an empty one' if trainings == [] else type(trainings).__name__}; write "
            "[Training(…), …]"
        )
    for training in trainings:
        check_type("trainings", training, Training)
    owned = [{id(p) for p in t.task.model.parameters()} for t in trainings]
    if sum(map(len, owned)) > len(set().union(*owned)):
        raise InputError(
            "each training must have a model of its own, got one parameter in several; "
            "build a task for each"
        )


def _epoch(lanes: dict[int, Lane], count: int) -> dict[int, Checkpoint]:
    """Train an epoch of every lane, step by step in turn."""
    steps = {place: lane.begin() for place, lane in lanes.items()}
    for number in range(max(steps.values())):
        for place, lane in lanes.items():
            if number < steps[place]:
                lane.step(number)
    for lane in lanes.values():
        lane.wait()
    done = {}
    for place, lane in lanes.items():
        try:
            done[place] = lane.end()
        except DivergedError as error:
            error.add_note(f"in training {place + 1} of {count}")
            raise
    return done
