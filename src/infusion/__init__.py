"""How training data shapes a model, measured.

    task   = Task(model, outputs, loss, likelihood="categorical")
    curv   = fit_ekfac(task, train)
    ihvp   = curv.solve(gradient(task, measurement), damping_ratio=0.1)
    infl   = influence(task, train, ihvp)
    chosen = select(infl, k=100)
    edits  = craft(task, train, chosen, ihvp, budget=LInf(8 / 255), steps=50)
    edited = edits.apply(train)

Names are loaded on first use, so that ``infusion --help`` does not wait for torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infusion.attribution.influence import gradient, influence
    from infusion.attribution.scores import influences, self_influence
    from infusion.attribution.selection import select
    from infusion.attribution.splits import influence_by_module, influence_by_token
    from infusion.configs import TrainConfig
    from infusion.curvature.blocks import Curvature
    from infusion.curvature.dense import fit_dense
    from infusion.curvature.filters import horizon, pseudo_inverse
    from infusion.curvature.fit import fit_curvature, fit_ekfac
    from infusion.curvature.iterative import solve_cg
    from infusion.curvature.storage import load_curvature, save_curvature
    from infusion.data.edits import Edits
    from infusion.data.streams import Stream
    from infusion.errors import InfusionError, InputError
    from infusion.language import causal_lm, contrast, documents, log_completion
    from infusion.measure import holding, log_prob
    from infusion.perturb.budget import L2, LInf
    from infusion.perturb.drafts import TokenLimits
    from infusion.perturb.gradient import influence_gradient, perturbation_gradient
    from infusion.perturb.pixels import (
        ascend,
        craft,
        craft_together,
        predicted_effect,
    )
    from infusion.perturb.tokens import craft_tokens, substitute_tokens
    from infusion.questions import Question
    from infusion.records import Batch, Dataset, Task
    from infusion.replay.gradient import replay_gradient
    from infusion.tasks import classification
    from infusion.training.loop import train
    from infusion.training.stacked import retrain_stacked

_HOMES = {
    "Curvature": "curvature.blocks",
    "fit_curvature": "curvature.fit",
    "fit_dense": "curvature.dense",
    "fit_ekfac": "curvature.fit",
    "horizon": "curvature.filters",
    "pseudo_inverse": "curvature.filters",
    "solve_cg": "curvature.iterative",
    "load_curvature": "curvature.storage",
    "save_curvature": "curvature.storage",
    "influence_by_module": "attribution.splits",
    "influence_by_token": "attribution.splits",
    "influences": "attribution.scores",
    "self_influence": "attribution.scores",
    "Edits": "data.edits",
    "Stream": "data.streams",
    "InfusionError": "errors",
    "InputError": "errors",
    "gradient": "attribution.influence",
    "influence": "attribution.influence",
    "causal_lm": "language",
    "contrast": "language",
    "documents": "language",
    "log_completion": "language",
    "holding": "measure",
    "log_prob": "measure",
    "L2": "perturb.budget",
    "LInf": "perturb.budget",
    "perturbation_gradient": "perturb.gradient",
    "ascend": "perturb.pixels",
    "craft": "perturb.pixels",
    "craft_together": "perturb.pixels",
    "influence_gradient": "perturb.gradient",
    "predicted_effect": "perturb.pixels",
    "TokenLimits": "perturb.drafts",
    "craft_tokens": "perturb.tokens",
    "substitute_tokens": "perturb.tokens",
    "Question": "questions",
    "Batch": "records",
    "Dataset": "records",
    "Task": "records",
    "TrainConfig": "configs",
    "replay_gradient": "replay.gradient",
    "retrain_stacked": "training.stacked",
    "select": "attribution.selection",
    "classification": "tasks",
    "train": "training.loop",
}

__all__ = [
    "L2",
    "Batch",
    "Curvature",
    "Dataset",
    "Edits",
    "InfusionError",
    "InputError",
    "LInf",
    "Question",
    "Stream",
    "Task",
    "TokenLimits",
    "TrainConfig",
    "ascend",
    "causal_lm",
    "classification",
    "contrast",
    "craft",
    "craft_together",
    "craft_tokens",
    "documents",
    "fit_curvature",
    "fit_dense",
    "fit_ekfac",
    "gradient",
    "holding",
    "horizon",
    "influence",
    "influence_by_module",
    "influence_by_token",
    "influence_gradient",
    "influences",
    "load_curvature",
    "log_completion",
    "log_prob",
    "perturbation_gradient",
    "predicted_effect",
    "pseudo_inverse",
    "replay_gradient",
    "retrain_stacked",
    "save_curvature",
    "select",
    "self_influence",
    "solve_cg",
    "substitute_tokens",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun: before its process group exists
    import_module("infusion.sharding")
