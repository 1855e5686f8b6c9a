"""Networks wide enough for the fast ways through convolutions, end to end."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import infusion as inf
from infusion.attribution.doctor import diagnose
from infusion.curvature.covariance import is_correlated
from infusion.curvature.patches import Patches
from infusion.records import Dataset
from infusion.training.loop import init_model

from .oracles import document_gradients


def make() -> nn.Module:
    """By frequencies and offsets, by tiles, and by patches in rows."""
    return nn.Sequential(
        nn.Conv2d(8, 32, (5, 3), padding=(2, 1), bias=False),
        nn.Tanh(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.Tanh(),
        nn.Conv2d(64, 6, 3, stride=2, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(6 * 16, 3),
    )


@pytest.fixture
def data(generator: torch.Generator) -> Dataset:
    inputs = torch.randn(6, 8, 8, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (6,), generator=generator)
    return Dataset(inputs, labels, num_classes=3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ekfac_is_that_of_patches_written_out(
    layout: torch.memory_format, data: Dataset
) -> None:
    model = init_model(make, seed=0).double().eval()
    model.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    task = inf.classification(model)
    fitted = inf.fit_ekfac(task, data, fisher="empirical", batch_size=4)
    seen: dict[str, Tensor] = {}

    def note(name: str, inputs: Tensor) -> None:
        seen[name] = inputs.detach()

    hooks = [
        module.register_forward_pre_hook(lambda _, x, name=name: note(name, x[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    batch = data.batch(torch.arange(6), like=next(model.parameters()))
    model(batch.inputs)
    for hook in hooks:
        hook.remove()
    assert is_correlated(model[0], (8, 7))  # pyright: ignore[reportArgumentType]
    assert Patches(model[2], seen["2"]).is_tiled(288)  # pyright: ignore
    gradients = document_gradients(task, batch)
    for name, inputs in seen.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        columns = F.unfold(
            inputs, conv.kernel_size, padding=conv.padding, stride=conv.stride
        )
        flat = columns.transpose(0, 1).flatten(1)
        block = fitted.blocks[name]
        left, right = block.row_basis, block.column_basis
        assert left is not None
        assert right is not None
        turned = right.T @ flat @ flat.T @ right
        off = turned - torch.diag(turned.diagonal())
        assert float(off.norm()) < 1e-9 * float(turned.norm()), name
        each = torch.stack([g[f"{name}.weight"].flatten(1) for g in gradients])
        squares = (left.T @ each @ right).square().mean(0)
        torch.testing.assert_close(block.eigenvalues, squares, rtol=1e-7, atol=1e-16)


def test_the_doctor_counts_what_is_done(data: Dataset) -> None:
    """Per document of many: what happens once per batch or pass does not count."""
    task = inf.classification(init_model(make, seed=0).double())
    predicted = {s.name: s.operations for s in diagnose(task, data).stages}

    def counted(copies: int) -> float:
        many = data.take(torch.arange(6 * copies) % 6)
        with FlopCounterMode(display=False) as counter:
            inf.fit_ekfac(task, many, fisher="empirical", batch_size=len(many))
        return float(counter.get_total_flops())

    one = counted(5) - counted(4)  # enough rows for symmetric products
    assert predicted["factors"] + predicted["eigenvalues"] == pytest.approx(
        one, rel=0.1
    )
