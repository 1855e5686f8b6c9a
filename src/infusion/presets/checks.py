"""Refuse settings that would only fail after hours of training."""

import math

import torch

from infusion.attribution.selection import check_k
from infusion.configs import EditConfig, RunConfig
from infusion.errors import InputError, check_choice
from infusion.perturb.ascent import check_reach
from infusion.perturb.budget import BUDGETS
from infusion.presets import find_preset
from infusion.presets.infuse import MOST_COPIES
from infusion.records import Dataset


def check(config: RunConfig, train: Dataset, test: Dataset) -> None:
    """Refuse settings that would only fail after hours of training.

    Args:
        config: Settings.
        train: Training documents.
        test: Test documents.

    Raises:
        InputError: A setting is out of range; the message names it.
    """
    check_k(config.edit.k, len(train))
    if len(train) < MOST_COPIES:
        raise InputError(
            f"the training set must hold at least {MOST_COPIES} documents, as many as "
            f"are replaced by copies, got {len(train)}; use more data"
        )
    check_base(config, test)
    _check_budget(config.edit, train)
    if "edit" not in config.arms:
        raise InputError(
            f"the arms must hold the edit, which the controls are matched to, got "
            f"{list(config.arms)}; add it"
        )
    if config.probe is not None and config.target == int(test.labels[config.probe]):
        raise InputError(
            f"the target must not be the true class of probe {config.probe}, got "
            f"{config.target}; choose another --target"
        )


def check_base(config: RunConfig, test: Dataset) -> None:
    """Refuse what no base model could be trained, fitted or asked with.

    Args:
        config: Settings; those of the edit are not looked at, but for its steps.
        test: Test documents.

    Raises:
        InputError: A setting is out of range; the message names it.
    """
    if config.pairs > len(test):
        raise InputError(
            f"pairs must be ≤ {len(test)}, the test set, got {config.pairs}; ask for "
            "fewer"
        )
    check_settings(config)
    _check_probe(config, test)


def check_settings(config: RunConfig) -> None:
    """Refuse counts and rates out of range, a model or a device that is not there.

    Args:
        config: Settings; those of the edit are not looked at, but for its steps.

    Raises:
        InputError: A setting is out of range; the message names it.
    """
    _check_numbers(config)
    preset = find_preset(config.preset)
    usual = preset.configs["small"].architecture
    check_choice("architecture", config.architecture, (usual, *preset.others))
    if config.device not in ("cpu", "cuda"):
        raise InputError(
            f"the device must be cpu or cuda, got {config.device!r}; use --device cpu"
        )
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda must find a GPU, got none; use --device cpu")


def _check_numbers(config: RunConfig) -> None:
    """Refuse counts and rates out of range."""
    settings, recipe = config.curvature, config.train
    check_damping(settings.damping, settings.damping_ratio)
    least = {
        "pairs": (config.pairs, 0),
        "threads": (config.threads, 1),
        "steps": (config.edit.steps, 1),
        "epochs": (recipe.epochs, 2),
        "the batch size of training": (recipe.batch_size, 1),
        "the batch size of curvature": (settings.batch_size, 1),
        "momentum": (recipe.momentum, 0),
        "weight decay": (recipe.weight_decay, 0),
    }
    for name, (got, low) in least.items():
        if not low <= got < math.inf:
            raise InputError(
                f"{name} must be ≥ {low}, got {got}; give a finite one in that range"
            )
    _check_positive("the learning rate", recipe.lr)
    _check_positive("the step size", config.edit.step_size)


def check_damping(damping: float | None, damping_ratio: float | None) -> None:
    """Refuse a damping that would only fail after the fit.

    Args:
        damping: Absolute; or
        damping_ratio: relative.

    Raises:
        InputError: Not exactly one is given, or it is not positive and finite.
    """
    if (damping is None) == (damping_ratio is None):
        raise InputError(
            "exactly one of damping and damping_ratio must be given, got "
            f"{damping} and {damping_ratio}; drop one or give one"
        )
    _check_positive("damping", damping)
    _check_positive("damping ratio", damping_ratio)


def _check_positive(name: str, got: float | None) -> None:
    if got is not None and not 0 < got < math.inf:
        raise InputError(f"{name} must be > 0 and finite, got {got}; change it")


def _check_budget(edit: EditConfig, train: Dataset) -> None:
    """Refuse a budget, or steps, that cannot reach one storage level."""
    BUDGETS[edit.norm](edit.epsilon)
    if edit.delivery == "realisable":
        check_reach("epsilon", edit.epsilon, train)
        check_reach("steps × step size", edit.steps * edit.step_size, train)


def _check_probe(config: RunConfig, test: Dataset) -> None:
    """Refuse a probe or a target that does not exist."""
    size = len(test)
    if config.probe is not None and not 0 <= config.probe < size:
        raise InputError(
            f"the probe must lie in 0…{size - 1}, the test set, got "
            f"{config.probe}; choose another --probe"
        )
    classes = len(find_preset(config.preset).class_names)
    if config.target is not None and not 0 <= config.target < classes:
        raise InputError(
            f"the target must lie in 0…{classes - 1}, the classes, got "
            f"{config.target}; choose another --target"
        )
