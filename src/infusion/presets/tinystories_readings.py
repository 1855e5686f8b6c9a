"""What is measured on stories, what a model does with them, and what rows say of it."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.language import IGNORED, contrast
from infusion.presets.context import Pair, Run
from infusion.presets.texts import (
    CODED,
    ONE,
    Json,
    answers,
    cross_entropies,
    moved_by_name,
    moved_elsewhere,
    realised,
)
from infusion.presets.tinystories_corpus import (
    ANIMALS,
    measured,
    tokenizer_of,
    vocabulary,
)
from infusion.records import Dataset, Measurement, Task
from infusion.tasks import evaluating, first_parameter

_BATCH = 32


def measurement(run: Run, task: Task, pair: Pair) -> Measurement:
    """Measure summed log odds of the target against the probe.

    Args:
        run: In the view of one document, of the story richest in the probe alone.
        task: Gives the device.
        pair: Probe and target.

    Returns:
        The measurement, in nats.
    """
    # The paper's code chooses documents by the mean over all stories and climbs for
    # one; in both views here both are of that one.
    config, tokenizer = run.config.data, tokenizer_of(run.config.data)
    probe, target = (tokenizer.word(ANIMALS[i]) for i in (pair.probe, pair.target))
    data = measured(config, ANIMALS[pair.probe], 0)
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


def behaviour(run: Run, task: Task, pair: Pair) -> Json:
    """Read all animals where the probe stands next in stories crafting never saw.

    Args:
        run: Where the stories are.
        task: Read in eval mode.
        pair: Probe and target.

    Returns:
        ``value`` of the measurement; means over positions of ``p`` and ``log_p`` of
        every animal; ``log_odds`` of the target at each position.
    """
    config, tokenizer = run.config.data, tokenizer_of(run.config.data)
    words = [tokenizer.word(animal) for animal in ANIMALS]
    data = measured(config, ANIMALS[pair.probe], 1)
    log_p = _at_probe(task, data, words[pair.probe], words)
    with evaluating(task.model):
        value = float(measurement(run, task, pair)(task.model))
    odds = log_p[:, pair.target] - log_p[:, pair.probe]
    return {
        "value": value,
        "p": log_p.exp().mean(0).tolist(),
        "log_p": log_p.mean(0).tolist(),
        "log_odds": [round(each, 5) for each in odds.tolist()],
    }


def accuracy(run: Run, task: Task) -> float:
    """Count the held-out tokens that are the most likely ones.

    Args:
        run: Gives the held-out stories.
        task: Read in eval mode.

    Returns:
        Their share.
    """
    right = total = 0
    for logits, _, labels in answers(task, run.test, _BATCH):
        known = labels != IGNORED
        right += int((logits.argmax(-1) == labels)[known].sum())
        total += int(known.sum())
    return right / total


def perplexity(run: Run, task: Task) -> float:
    """Take the exponential of the mean cross-entropy of held-out tokens.

    Args:
        run: Gives the held-out stories.
        task: Read in eval mode.

    Returns:
        The perplexity.
    """
    sums, counts = cross_entropies(task, run.test, _BATCH)
    return math.exp(float(sums.sum()) / int(counts.sum()))


def portrait(run: Run, task: Task) -> Json:
    """Read how well a model predicts held-out stories, and how many of them are cut.

    Args:
        run: Gives the held-out stories.
        task: Read in eval mode.

    Returns:
        A JSON value: ``"perplexity"``, and ``"cut"``, the share of stories that are
        longer than a document.
    """
    end, (_, pad) = tokenizer_of(run.config.data).end, vocabulary(run.config.data)
    last = run.test.inputs[:, -1]
    return {
        "perplexity": round(perplexity(run, task), 4),
        "cut": float(((last != pad) & (last != end)).double().mean()),
    }


def _target(row: Json) -> float:
    return moved_by_name(row, "p")[row["target"]]


def log_odds(row: Json) -> float:
    """Return the mean change of the log odds over positions.

    Args:
        row: Of a trial.

    Returns:
        In nats.
    """
    after, clean = row["after"]["log_odds"], row["clean"]["log_odds"]
    return (sum(after) - sum(clean)) / len(clean)


def margin(row: Json) -> float:
    """Return how far the clean replay prefers the probe, in the mean over positions.

    Args:
        row: Of a trial.

    Returns:
        In nats.
    """
    odds = row["clean"]["log_odds"]
    return -sum(odds) / len(odds)


def _flips(row: Json) -> float:
    """Share of positions where the target overtakes the probe."""
    both = zip(row["after"]["log_odds"], row["clean"]["log_odds"], strict=True)
    return sum(after > 0 >= clean for after, clean in both) / len(
        row["after"]["log_odds"]
    )


COLUMNS: dict[str, Callable[[Json], float]] = {
    "Δ log odds": log_odds,
    "Δp target": _target,
    "less untargeted": lambda row: _target(row) - moved_elsewhere(row, "p"),
    "less probe": lambda row: _target(row) - moved_by_name(row, "p")[row["probe"]],
    "Δ log p target": lambda row: (
        row["after"]["log_p"][row["target"]] - row["clean"]["log_p"][row["target"]]
    ),
    "flips": _flips,
    "Δ f": realised,
}
