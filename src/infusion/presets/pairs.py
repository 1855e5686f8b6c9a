"""Which probes are steered where: written down before anything is crafted."""

from dataclasses import asdict, replace

import torch

from infusion.errors import InputError
from infusion.measure import predictions
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.records import Task
from infusion.seeding import stream


def list_pairs(run: Run, task: Task) -> list[Pair]:
    """Write down which probes are steered where, before anything is crafted.

    The rule: visit the test set in the order of ``pair_seed``, draw a target for each
    probe, and keep the first non-trivial ones: the target is neither the true class nor
    the one the base model already predicts.

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
    classes = len(run.preset.class_names)
    targets = torch.randint(classes, (len(labels),), generator=generator).tolist()
    if config.target is not None:
        targets = [config.target] * len(labels)
    if config.probe is not None:
        order = [config.probe]
    kept = [
        Pair(0, probe, labels[probe], target)
        for probe, target in zip(order, targets, strict=False)
        if target not in (labels[probe], predicted[probe])
    ]
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
    return [asdict(replace(pair, index=i)) for i, pair in enumerate(kept[:wanted])]
