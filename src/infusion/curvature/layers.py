"""Which parameters the curvature covers: a layer per weight, however often it is used.

A weight that several modules share is one layer with several uses: its gradients are
summed over the uses before anything is squared.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from infusion.curvature.kinds import BIAS, LayerKind, kind_of
from infusion.curvature.layout import Form, Layout
from infusion.errors import InputError, UncoveredLayerError


@dataclass(frozen=True)
class Use:
    """A module that uses a layer's parameters.

    Attributes:
        name: Module name inside the model.
        module: The module.
        kind: How it enters the gradient.
        parameters: Names of the parameters inside the module.
    """

    name: str
    module: nn.Module
    kind: LayerKind
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Parameters that share one curvature block.

    Attributes:
        name: Name of the first module that uses them.
        uses: All modules that do.
        layout: Its parameters, and how they lie in the block's matrix.
    """

    name: str
    uses: tuple[Use, ...]
    layout: Layout

    @property
    def has_one_hot_rows(self) -> bool:
        """Whether the rows are a vocabulary: that side's factor stays diagonal."""
        return any(isinstance(use.module, nn.Embedding) for use in self.uses)


@dataclass(frozen=True)
class Coverage:
    """What the curvature would cover of a model.

    Attributes:
        layers: In module order.
        skipped: Modules left out on request, with their trainable parameters.
        refused: ``"name (Type)"`` of modules it cannot represent, likewise.
        frozen: Parameters that are not trained, hence fixed.
        unmatched: Entries of ``skip`` that match no module.
    """

    layers: list[Layer]
    skipped: dict[str, int]
    refused: dict[str, int]
    frozen: int
    unmatched: list[str]


def survey(
    model: nn.Module, skip: tuple[str, ...] = (), *, only: set[str] | None = None
) -> Coverage:
    """Sort a model's trainable parameters into covered, skipped and refused ones.

    Args:
        model: Any model.
        skip: Module types (``"BatchNorm2d"``) or module names to leave out, with all
            they hold.
        only: Names of parameters; all others count as fixed. None for all.

    Returns:
        Every trainable parameter's place.

    Raises:
        InputError: ``skip`` is no tuple, or names some but not all modules that share a
            weight.
    """
    if not isinstance(skip, (tuple, list)):
        raise InputError(
            f"skip must be a tuple of names, got {skip!r}; write e.g. ('BatchNorm2d',)"
        )
    names = {id(p): name for name, p in model.named_parameters()}
    matched: set[str] = set()
    skipped: dict[str, int] = {}
    refused: dict[str, int] = {}
    uses: dict[tuple[str, ...], list[Use]] = defaultdict(list)
    left_out: set[str] = set()
    owners = Counter(
        id(p) for module in model.modules() for p in module.parameters(recurse=False)
    )
    for name, module in model.named_modules():
        holders = [path for path in _ancestors(name) if path]
        types = {type(model.get_submodule(path)).__name__ for path in holders}
        keys = {type(module).__name__, *types, *holders} & set(skip)
        matched |= keys
        own = {
            n: p
            for n, p in module.named_parameters(recurse=False)
            if p.requires_grad and (only is None or names[id(p)] in only)
        }
        if not own:
            continue
        count = sum(p.numel() for p in own.values())
        kind = kind_of(module)
        if keys:
            skipped[name] = count
        elif kind is None or not set(own) <= {"weight", "bias"}:
            refused[f"{name} ({type(module).__name__})"] = count
        else:
            for part in _parts(
                kind, own, {n for n, p in own.items() if _tied(p, owners)}
            ):
                keyed = tuple(names[id(own[n])] for n in part[1])
                uses[keyed].append(Use(name, module, *part))
            continue
        left_out |= {names[id(p)] for p in own.values()}
    _check_ties(uses, left_out)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    layers = [_layer(model, keyed, tuple(found)) for keyed, found in uses.items()]
    assert len({layer.name for layer in layers}) == len(layers), "names must differ"
    return Coverage(
        layers, skipped, refused, frozen, [s for s in skip if s not in matched]
    )


def _tied(parameter: Tensor, owners: Counter[int]) -> bool:
    return owners[id(parameter)] > 1


def _ancestors(name: str) -> list[str]:
    """Return a module's name and those of the modules that hold it."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _parts(
    kind: LayerKind, own: Mapping[str, Tensor], tied: set[str]
) -> list[tuple[LayerKind, tuple[str, ...]]]:
    """Split a module's trainable parameters into blocks."""
    if (kind.stacks or "weight" in own) and not tied:
        return [(kind, tuple(sorted(own, reverse=True)))]  # weight before bias
    if kind.stacks:
        return [(kind, (name,)) for name in sorted(own, reverse=True)]
    parts = [(kind, ("weight",))] if "weight" in own else []
    return parts + ([(BIAS, ("bias",))] if "bias" in own else [])


def _check_ties(uses: dict[tuple[str, ...], list[Use]], left_out: set[str]) -> None:
    for names, found in uses.items():
        if left_out & set(names):
            raise InputError(
                "modules that share a weight must be skipped together, got "
                f"{', '.join(use.name for use in found)} covered while another module "
                f"with {names[0]} is not; skip all of them or none"
            )


def _layer(model: nn.Module, names: tuple[str, ...], uses: tuple[Use, ...]) -> Layer:
    first = uses[0]
    shapes = tuple(tuple(model.get_parameter(name).shape) for name in names)
    key = first.name
    is_part = first.kind.stacks and len(names) < len(list(first.module.parameters()))
    if first.kind is BIAS or is_part:
        key = f"{first.name}.{first.parameters[0]}".lstrip(".")
    form: Form = "weight"
    if first.kind.stacks:
        form = "stacked"
    elif len(names) == 2:
        form = "bias row" if first.kind.fixed_axis == "rows" else "bias column"
    return Layer(key, uses, Layout(names, shapes, form))


def cover(
    model: nn.Module, skip: tuple[str, ...]
) -> tuple[list[Layer], dict[str, int]]:
    """List the layers the curvature covers, and what was skipped on request.

    Args:
        model: Any model.
        skip: See :func:`survey`.

    Returns:
        Covered layers in module order, and the parameter count of each skipped module.

    Raises:
        UncoveredLayerError: A trainable module is neither covered nor skipped; all
            such modules are named with their parameter counts.
        InputError: An entry of ``skip`` matches no module, names some but not all
            modules that share a weight, or no layer is left.
    """
    found = survey(model, skip)
    if found.refused:
        listed = ", ".join(f"{name}: {n:,}" for name, n in found.refused.items())
        raise UncoveredLayerError(
            "every trainable layer must be a Linear, an ungrouped, zero-padded Conv1d "
            "or Conv2d, an Embedding, a norm or a Conv1D of transformers, got these "
            f"others with their parameter counts: {listed}; pass their type or name in "
            "skip to leave them out of the curvature"
        )
    if found.unmatched:
        raise InputError(
            "every entry of skip must name a module type or a module, got "
            f"{found.unmatched} which match none; remove them"
        )
    if not found.layers:
        raise InputError(
            "the model must have at least one trainable layer outside skip, got none"
        )
    return found.layers, found.skipped
