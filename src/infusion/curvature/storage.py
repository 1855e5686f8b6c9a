"""A curvature to bytes and back: safetensors, what produced it in the header."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from infusion.curvature.blocks import Block, Curvature
from infusion.curvature.layout import Layout
from infusion.errors import ArtefactError, InputError, check_type
from infusion.params import Params, params_sha256

_PARTS = ("row_basis", "column_basis", "eigenvalues")
_OWN = (
    "kind",
    "fisher",
    "num_documents",
    "skipped",
    "weights_sha256",
    "sampling_error",
)
_FORMAT = "infusion curvature 3"
_LENGTH = 8
"""Bytes of the header's length at the start of a safetensors file."""


def to_bytes(curvature: Curvature, *, origin: Any = None) -> bytes:
    """Lay out a curvature as a safetensors file.

    Args:
        curvature: Fitted.
        origin: JSON value of what produced it: hashes of model and data, settings.

    Returns:
        Tensors ``"{block}/{part}"``, bases that are the identity left out; everything
        else as JSON in the header.
    """
    tensors: Params = {
        f"{name}/{part}": getattr(block, part).cpu().contiguous()
        for name, block in curvature.blocks.items()
        for part in _PARTS
        if getattr(block, part) is not None
    }
    blocks = {name: asdict(block.layout) for name, block in curvature.blocks.items()}
    facts = {name: getattr(curvature, name) for name in _OWN}
    header = facts | {"format": _FORMAT, "blocks": blocks, "origin": origin}
    sealed = {"facts": header, "sha256": _sha256(header, tensors)}
    # One entry: safetensors writes several in an order that changes between processes.
    return save(tensors, metadata={"infusion": json.dumps(sealed, sort_keys=True)})


def from_bytes(content: bytes, model: nn.Module) -> Curvature:
    """Undo :func:`to_bytes`.

    Args:
        content: A safetensors file.
        model: The model it was fitted on; tensors go to its device.

    Returns:
        The curvature.

    Raises:
        ArtefactError: It is truncated, altered, or not a curvature of this format.
        InputError: It is of another model, or of other weights.
    """
    try:
        tensors, header = _read(content)
        blocks = {
            name: Block(
                layout=Layout(
                    names=tuple(block["names"]),
                    shapes=tuple(tuple(shape) for shape in block["shapes"]),
                    form=block["form"],
                ),
                row_basis=tensors.get(f"{name}/row_basis"),
                column_basis=tensors.get(f"{name}/column_basis"),
                eigenvalues=tensors[f"{name}/eigenvalues"],
            )
            for name, block in header["blocks"].items()
        }
        found = Curvature(blocks, **{name: header[name] for name in _OWN})
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"a stored curvature must be a whole file of the format {_FORMAT!r}, got "
            f"{type(error).__name__}: {error}; fit it again"
        ) from error
    _check_model(found, model)
    device = next(model.parameters()).device
    return found.to(device)


def _read(content: bytes) -> tuple[Params, dict[str, Any]]:
    tensors = load(content)
    length = int.from_bytes(content[:_LENGTH], "little")
    metadata = json.loads(content[_LENGTH : _LENGTH + length])["__metadata__"]
    sealed = json.loads(metadata["infusion"])
    header = sealed["facts"]
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']!r}")
    if sealed["sha256"] != _sha256(header, tensors):
        raise ValueError("it was altered")
    return tensors, header


def _sha256(header: dict[str, Any], tensors: Params) -> str:
    """Hash all that a file says, and its numbers."""
    text = json.dumps(header, sort_keys=True)
    return hashlib.sha256((text + params_sha256(tensors)).encode()).hexdigest()


def _check_model(curvature: Curvature, model: nn.Module) -> None:
    own = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for block in curvature.blocks.values():
        for name, shape in zip(block.names, block.layout.shapes, strict=True):
            if own.get(name) != shape:
                raise InputError(
                    f"a curvature must be of the model it is used with, got {shape} "
                    f"for {name} where the model has {own.get(name)}; fit it again"
                )
    curvature.check_weights(model)


def save_curvature(
    curvature: Curvature, path: Path | str, *, origin: Any = None
) -> None:
    """Write a curvature to one file.

    Args:
        curvature: Fitted.
        path: Ends in ``.safetensors``; replaced if it exists.
        origin: See :func:`to_bytes`.

    Raises:
        InputError: The file cannot be written, or it is no curvature.
    """
    check_type("curvature", curvature, Curvature)
    try:
        Path(path).write_bytes(to_bytes(curvature, origin=origin))
    except OSError as error:
        raise InputError(
            f"a curvature must be saved to a file that can be written, got {path}: "
            f"{error.strerror}; make its folder or choose another"
        ) from error


def load_curvature(path: Path | str, model: nn.Module) -> Curvature:
    """Read a curvature from one file.

    Args:
        path: Written by :func:`save_curvature`.
        model: The model it was fitted on.

    Returns:
        The curvature.

    Raises:
        ArtefactError: The file is missing, truncated, altered or not a curvature.
        InputError: It is of another model, or of other weights.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtefactError(
            f"{path} must be a file, got none; fit and save the curvature first"
        )
    return from_bytes(path.read_bytes(), model)
