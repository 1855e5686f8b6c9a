"""Gradients of single documents, a batch at a time, from hooks: no ``vmap``."""

from collections.abc import Iterator

from infusion.configs import Fisher
from infusion.curvature.fisher import Directions, check_fisher
from infusion.curvature.layers import cover
from infusion.curvature.rotation import document_matrices
from infusion.curvature.sweep import make_sweep
from infusion.params import Params
from infusion.records import Documents, Task


def document_gradients(
    task: Task,
    data: Documents,
    *,
    fisher: Fisher | None = None,
    skip: tuple[str, ...] = (),
    batch_size: int = 64,
) -> Iterator[Params]:
    """Yield gradients of every document, direction by direction of a Fisher.

    Args:
        task: Model in any mode; it is run in eval mode.
        data: Documents.
        fisher: None gives the gradient of each document's loss.
        skip: Module types or names to leave out.
        batch_size: Documents held at once.

    Yields:
        Covered parameter to ``[b, *shape]``, per batch and direction.

    Raises:
        UncoveredLayerError: A trainable layer is neither covered nor skipped.
        InputError: The likelihood does not give the Fisher.
    """
    if fisher is not None:
        check_fisher(task, fisher)
    layers, _ = cover(task.model, skip)
    directions = Directions(task, fisher)
    sweep = make_sweep(task, data, layers, directions=directions, batch_size=batch_size)
    for captured, per_direction in sweep:
        for gradients in per_direction:
            result: Params = {}
            for layer in layers:
                sides = captured.factors(layer, gradients)
                result |= layer.layout.parameters(document_matrices(sides))
            yield result
            del gradients, result  # not beside the next forward pass
