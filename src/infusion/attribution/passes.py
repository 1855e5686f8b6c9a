"""What every pass that scores documents needs: its layers, its batches, its result."""

from collections.abc import Sequence

import torch
from torch import Tensor

from infusion.attribution.influence import along, at_least_float32
from infusion.curvature.hooks import shared_uses
from infusion.curvature.layers import Layer, survey
from infusion.curvature.plan import make_plan
from infusion.errors import DivergedError, InputError
from infusion.params import Params
from infusion.records import Documents, Task
from infusion.sharding import all_cat


def covered_layers(task: Task, vectors: Sequence[Params]) -> list[Layer]:
    """Return the layers whose parameters the vectors name.

    Args:
        task: Whose model.
        vectors: IHVPs, or anything of their names and shapes.

    Returns:
        The layers.

    Raises:
        InputError: The vectors name different parameters, or parts of a layer.
    """
    for vector in vectors:
        along(task, vector)
    wanted = set(vectors[0])
    if any(set(vector) != wanted for vector in vectors):
        raise InputError(
            "all IHVPs must be over the same parameters, got different ones; solve "
            "them with one curvature"
        )
    layers = survey(task.model, only=wanted).layers
    named = {name for layer in layers for name in layer.layout.names}
    if named != wanted:
        odd = sorted(named ^ wanted)
        raise InputError(
            "an IHVP must name whole layers that curvature covers, got a mismatch at "
            f"{odd[:3]}; solve it with a curvature of this model"
        )
    return layers


def fit_in(
    task: Task,
    data: Documents,
    layers: list[Layer],
    limit: int,
    asked: tuple[int, int],
) -> tuple[int, int]:
    """Choose documents and measurements at once: as many as asked, or as fit.

    Args:
        task: Whose model.
        data: Its first document is run.
        layers: Layers to read.
        limit: Bytes to stay within.
        asked: Batch size and number of measurements, at most.

    Returns:
        Batch size and group of measurements.

    Raises:
        InputError: Not even one of each fits.
    """
    plan = make_plan(task, data, layers, shared_uses(task, data, layers))
    document, measurement = plan.document(), plan.measurement()
    if limit < document + measurement:
        raise InputError(
            f"memory_limit must be at least {document + measurement:,} bytes, what one "
            f"document and one measurement need, got {limit:,}; raise it"
        )
    # Half for measurements where both are short: passes cost more than batches.
    room = max(limit // 2, limit - asked[0] * document)
    group = max(1, min(asked[1], room // measurement))
    batch = max(1, min(asked[0], (limit - group * measurement) // document))
    return batch, group


def finished(parts: list[Tensor], size: int) -> Tensor:
    """Put batches and processes together, with sign and unit.

    Args:
        parts: Of each batch, documents last.
        size: Of the whole training set, the ``n`` of ``1/n``.

    Returns:
        The negative over ``n``, float32 at least, on the CPU.

    Raises:
        DivergedError: A score is not finite.
    """
    result = at_least_float32(all_cat(torch.cat(parts, -1)).cpu()) / -size
    bad = ~torch.isfinite(result)
    if bool(bad.any()):
        raise DivergedError(
            f"influence must be finite, got NaN or infinity for {int(bad.sum())} "
            "scores; check the documents and raise the damping"
        )
    return result
