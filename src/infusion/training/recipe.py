"""What a recipe may be: its optimisers, and the check of its settings."""

import math
from collections.abc import Callable

import torch

from infusion.configs import TrainConfig
from infusion.errors import InputError, check_choice, check_whole

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, config: torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    ),
    "adam": lambda parameters, config: torch.optim.Adam(
        parameters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    ),
    "adamw": lambda parameters, config: torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    ),
}
_ADAM = {"step", "exp_avg", "exp_avg_sq"}
STATES = {"adam": _ADAM, "adamw": _ADAM}
"""Optimisers' state of a parameter; that of SGD depends on its momentum."""


def check_recipe(config: TrainConfig) -> None:
    """Refuse a recipe that cannot train.

    Args:
        config: Recipe.

    Raises:
        InputError: A setting is out of range; the message names it.
    """
    check_choice("optimiser", config.optimiser, tuple(OPTIMISERS))
    check_choice("order", config.order, ("fixed", "fresh"))
    check_choice("schedule", config.schedule, ("steps", "cycle"))
    check_whole("epochs of the training recipe", config.epochs, 0)
    check_whole("batch_size of the training recipe", config.batch_size)
    check_whole("shift of the training recipe", config.shift, 0)
    check_whole("warmup of the training recipe", config.warmup, 0)
    check_choice("flip", config.flip, (False, True))
    whole = isinstance(config.milestones, (tuple, list)) and all(
        isinstance(epoch, int) for epoch in config.milestones
    )
    if not whole:
        raise InputError(
            f"milestones of the training recipe must be a tuple of epochs, got "
            f"{config.milestones!r}; write e.g. (5, 8)"
        )
    for name, fits, must in (
        ("lr", 0 < config.lr < math.inf, "> 0 and finite"),
        ("momentum", 0 <= config.momentum < 1, "in [0, 1)"),
        ("weight_decay", 0 <= config.weight_decay < math.inf, "≥ 0 and finite"),
        ("gamma", 0 < config.gamma < math.inf, "> 0 and finite"),
        ("clip", config.clip is None or 0 < config.clip < math.inf, "> 0 and finite"),
        ("noise", 0 <= config.noise < math.inf, "≥ 0 and finite"),
        (
            "betas",
            len(config.betas) == 2 and all(0 <= b < 1 for b in config.betas),
            "two numbers in [0, 1)",
        ),
        (
            "milestones",
            config.schedule == "steps" or not config.milestones,
            "empty in a cycle",
        ),
        (
            "warmup",
            (config.schedule == "cycle") == (config.warmup > 0),
            "≥ 1 in a cycle and 0 without one",
        ),
    ):
        if not fits:
            raise InputError(
                f"{name} of the training recipe must be {must}, got "
                f"{getattr(config, name)}; choose another"
            )
