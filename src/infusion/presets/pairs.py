"""Which probes are steered where: written down before anything is crafted."""

from dataclasses import asdict

import torch

from infusion.errors import InputError
from infusion.measure import predictions
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.records import Task
from infusion.seeding import stream


def list_pairs(run: Run, task: Task) -> list[Pair]:
    """Write down which probes are steered where, before anything is crafted.

    The rule: visit the test set in the order of ``pair_seed`` and draw each probe's
    target among the classes that are neither its own nor already predicted; a target
    asked for by name skips the probes for which it is trivial.

    Args:
        run: Settings and documents.
        task: Base model.

    Returns:
        The pairs.

    Raises:
        InputError: A target or probe asked for by name is trivial or does not exist, or
            there are fewer such pairs than asked for.
    """
    config = run.config
    inputs = {
        "base": run.store.sha256(checkpoint_file(config.train.epochs)),
        "test": run.data_sha256["test"],
        "rule": [config.pairs, config.pair_seed, config.probe, config.target],
    }
    rows = run.store.json("pairs.json", inputs, lambda: _pairs(run, task))
    return [Pair(**row) for row in rows]


def _pairs(run: Run, task: Task) -> list[dict[str, int]]:
    config, labels = run.config, run.test.labels.tolist()
    predicted = predictions(task, run.test).tolist()
    generator = stream(config.pair_seed, "pairs")
    order = torch.randperm(len(labels), generator=generator).tolist()
    draws = torch.rand(len(labels), generator=generator).tolist()
    if config.probe is not None:
        order = [config.probe]
    kept = []
    for probe, draw in zip(order, draws, strict=False):
        trivial = {labels[probe], predicted[probe]}
        allowed = [c for c in range(len(run.preset.class_names)) if c not in trivial]
        target = allowed[int(draw * len(allowed))]
        if config.target is not None:
            target = config.target
        if target not in trivial:
            kept.append(Pair(len(kept), probe, labels[probe], target))
    wanted = min(config.pairs, len(order))
    if len(kept) < wanted:
        if config.probe is not None and config.target is not None:
            names = run.preset.class_names
            raise InputError(
                "the target must be neither the true class "
                f"({names[labels[config.probe]]}) nor the predicted one "
                f"({names[predicted[config.probe]]}) of probe {config.probe}, got "
                f"{names[config.target]}; choose another --target"
            )
        raise InputError(
            f"the test set must hold {wanted} non-trivial pairs, got {len(kept)}; ask "
            "for fewer --pairs or another --target"
        )
    return [asdict(pair) for pair in kept[:wanted]]
