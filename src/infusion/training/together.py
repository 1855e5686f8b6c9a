"""Train several models at once: side by side on a GPU, one after another on a CPU."""

from collections.abc import Sequence

from infusion.errors import InputError
from infusion.training.checkpoints import Checkpoint
from infusion.training.lane import Lane, Training


def train_together(trainings: Sequence[Training]) -> list[Checkpoint]:
    """Train each task's model in place to the end of its recipe.

    On a GPU recorded steps of all lanes are launched in turn and run side by side; each
    lane's bits are those of training it alone. The others draw random numbers, which
    belong to one lane at a time: they go one after another.

    Args:
        trainings: Recipes, orders and documents may differ.

    Returns:
        The state of each after its last epoch.

    Raises:
        InputError: There is nothing to train, or as for one.
        ArtefactError: As for one.
        DivergedError: Likewise.
    """
    lazy = [t for t in trainings if t.start is None and not t.config.epochs]
    if lazy or not trainings:
        raise InputError(
            f"each of several trainings must have an epoch, got {len(trainings)} "
            f"trainings, {len(lazy)} of them without; train for more"
        )
    done: list[Checkpoint | None] = [training.start for training in trainings]
    lanes = [Lane(training) for training in trainings]
    apart = [[place] for place, lane in enumerate(lanes) if not lane.is_recorded]
    recorded = [place for place, lane in enumerate(lanes) if lane.is_recorded]
    for group in [recorded, *apart]:
        while running := [place for place in group if lanes[place].unfinished]:
            counts = {place: lanes[place].begin() for place in running}
            for number in range(max(counts.values())):
                for place, count in counts.items():
                    if number < count:
                        lanes[place].step(number)
            for place in running:
                done[place] = lanes[place].end()
    return [state for state in done if state is not None]
