"""EK-FAC to tensors and back."""

from torch import nn

from infusion.configs import Fisher
from infusion.curvature.capture import cover
from infusion.curvature.ekfac import EKFAC, Block
from infusion.params import Params

_PARTS = ("input_basis", "output_basis", "eigenvalues")


def to_tensors(curvature: EKFAC) -> Params:
    """Lay out a curvature as named tensors.

    Args:
        curvature: Fitted.

    Returns:
        ``"{module}/{part}"`` to tensor.
    """
    return {
        f"{name}/{part}": getattr(block, part)
        for name, block in curvature.blocks.items()
        for part in _PARTS
    }


def from_tensors(
    tensors: Params,
    model: nn.Module,
    *,
    skip: tuple[str, ...],
    fisher: Fisher,
    num_documents: int,
) -> EKFAC:
    """Undo :func:`to_tensors` for the model the curvature was fitted on.

    Args:
        tensors: As stored.
        model: Gives parameter names and shapes.
        skip: As in the fit.
        fisher: As in the fit.
        num_documents: As in the fit.

    Returns:
        The curvature.

    Raises:
        UncoveredLayerError: ``skip`` is not that of the fit.
        InputError: Likewise.
    """
    layers, skipped = cover(model, skip)
    blocks = {
        layer.name: Block(
            names=tuple(layer.parameters()),
            shape=tuple(layer.module.get_parameter("weight").shape),
            **{part: tensors[f"{layer.name}/{part}"] for part in _PARTS},
        )
        for layer in layers
    }
    return EKFAC(blocks, fisher, num_documents, skipped)
