"""EK-FAC against dense oracles where it is exact, against curvlinops elsewhere."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import infusion as inf
from infusion.curvature.blocks import Block, Curvature
from infusion.curvature.hooks import capturing
from infusion.curvature.kinds import dense as dense_side
from infusion.curvature.layers import cover
from infusion.errors import DivergedError, InputError, UncoveredLayerError
from infusion.params import Params
from infusion.records import Batch, Dataset, call_model
from infusion.seeding import uniforms
from infusion.tasks import cross_entropy
from infusion.training.loop import init_model

from .oracles import (
    document_gradients,
    empirical_fisher,
    gauss_newton,
    gaussian_loss,
    layer_matrix,
)

FLOAT64: dict[str, Any] = {"dtype": torch.float64}


def dense(block: Block) -> Tensor:
    """``(Q_G ⊗ Q_A) diag(Λ) (Q_G ⊗ Q_A)ᵀ``, rows of the weight matrix one by one."""
    basis = kron(block)
    return basis @ torch.diag(block.eigenvalues.flatten()) @ basis.T


def kron(block: Block) -> Tensor:
    """``R ⊗ C``, identities where a side has no basis."""
    sides = [
        torch.eye(size, **FLOAT64) if basis is None else basis
        for size, basis in zip(
            block.eigenvalues.shape, (block.row_basis, block.column_basis), strict=True
        )
    ]
    return torch.kron(*sides)


def regression(model: nn.Module, size: int, generator: torch.Generator) -> tuple:
    """A model on noise with Gaussian likelihood, four inputs and three outputs."""
    inputs = torch.randn(size, 4, generator=generator, **FLOAT64)
    labels = torch.randn(size, 3, generator=generator, **FLOAT64)
    task = inf.Task(model, call_model, gaussian_loss, "gaussian")
    return task, Dataset(inputs, labels)


def classes(model: nn.Module, size: int, generator: torch.Generator) -> tuple:
    """A model on noise with categorical likelihood, four inputs and three classes."""
    inputs = torch.randn(size, 4, generator=generator, **FLOAT64)
    labels = torch.randint(0, 3, (size,), generator=generator)
    return inf.classification(model), Dataset(inputs, labels, num_classes=3)


def everything(task: inf.Task, data: Dataset) -> Batch:
    return data.batch(torch.arange(len(data)), like=next(task.model.parameters()))


def linear_net() -> nn.Module:
    return init_model(
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.Linear(5, 2, bias=False), nn.Linear(2, 3)
        ),
        seed=0,
    ).double()


def tanh_net() -> nn.Module:
    return init_model(
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
        ),
        seed=0,
    ).double()


# Where EK-FAC is exact


def test_ekfac_is_the_gauss_newton_matrix_of_a_deep_linear_net(
    generator: torch.Generator,
) -> None:
    """Output gradients are the same for every document, so each block is ``G ⊗ A``."""
    task, data = regression(linear_net(), 9, generator)
    curvature = inf.fit_ekfac(task, data, fisher="exact")
    assert list(curvature.blocks) == ["0", "1", "2"]
    for name, block in curvature.blocks.items():
        expected = gauss_newton(task, everything(task, data), name)
        torch.testing.assert_close(dense(block), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("make", [regression, classes])
def test_ekfac_is_the_gauss_newton_matrix_of_one_document(
    make: Callable[..., tuple], generator: torch.Generator
) -> None:
    """With one document ``A`` has rank one, so each block is ``G ⊗ A``."""
    task, data = make(tanh_net(), 1, generator)
    for name, block in inf.fit_ekfac(task, data, fisher="exact").blocks.items():
        expected = gauss_newton(task, everything(task, data), name)
        torch.testing.assert_close(dense(block), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_eigenvalues_are_the_diagonal_of_the_true_block_in_the_basis(
    fisher: Any, pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    """True of EK-FAC on any model: the correction is exact, only the basis is not."""
    task = inf.classification(make_cnn(batch_norm=False))
    curvature = inf.fit_ekfac(task, pictures, fisher=fisher, batch_size=5)
    oracle = gauss_newton if fisher == "exact" else empirical_fisher
    for name, block in curvature.blocks.items():
        true = oracle(task, everything(task, pictures), name)
        basis = kron(block)
        expected = (basis.T @ true @ basis).diagonal().reshape(block.eigenvalues.shape)
        torch.testing.assert_close(block.eigenvalues, expected, rtol=1e-10, atol=1e-15)


def test_solve_is_the_damped_inverse_in_parameter_layout(
    pictures: Dataset, make_cnn: Callable[..., nn.Module], generator: torch.Generator
) -> None:
    task = inf.classification(make_cnn(batch_norm=False))
    curvature = inf.fit_ekfac(task, pictures)
    vector = noise(task.model, generator)
    solved = curvature.solve(vector, damping=0.01)
    assert list(solved) == list(vector)
    for name, block in curvature.blocks.items():
        identity = torch.eye(block.eigenvalues.numel(), **FLOAT64)
        right = layer_matrix(vector, name).flatten()
        expected = torch.linalg.solve(dense(block) + 0.01 * identity, right)
        got = layer_matrix(solved, name).flatten()
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def noise(model: nn.Module, generator: torch.Generator) -> Params:
    return {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for n, p in model.named_parameters()
    }


# Sampled labels


@pytest.mark.parametrize(
    ("make", "model", "size"), [(regression, linear_net, 4), (classes, tanh_net, 1)]
)
def test_sampled_fisher_converges_to_the_exact_one(
    make: Callable[..., tuple],
    model: Callable[[], nn.Module],
    size: int,
    generator: torch.Generator,
) -> None:
    """Root mean square error falls as ``1/√draws``: by 4 for 16 times the draws."""
    task, data = make(model(), size, generator)
    true = {n: gauss_newton(task, everything(task, data), n) for n in ("0", "2")}
    size_of_true = torch.stack([t.square().sum() for t in true.values()]).sum()

    def error(draws: int, seed: int) -> Tensor:
        blocks = inf.fit_ekfac(task, data, draws=draws, seed=seed).blocks
        off = [(dense(blocks[n]) - t).square().sum() for n, t in true.items()]
        return torch.stack(off).sum() / size_of_true

    few, many = (
        float(torch.stack([error(draws, seed) for seed in range(8)]).mean().sqrt())
        for draws in (4, 64)
    )
    assert 0.2 < few < 0.8
    assert 2.5 < few / many < 6.4


@pytest.mark.parametrize("make", [regression, classes])
def test_sampled_labels_do_not_depend_on_the_batch(
    make: Callable[..., tuple], generator: torch.Generator
) -> None:
    task, data = make(tanh_net(), 11, generator)
    fits = [
        inf.fit_ekfac(task, data, fisher="sampled", draws=2, seed=3, batch_size=size)
        for size in (11, 4, 1)
    ]
    for fit in fits[1:]:
        for name, block in fit.blocks.items():
            expected = fits[0].blocks[name]
            torch.testing.assert_close(
                block.eigenvalues, expected.eigenvalues, rtol=1e-10, atol=1e-15
            )
            torch.testing.assert_close(
                dense(block), dense(expected), rtol=1e-10, atol=1e-13
            )


def test_sampled_labels_depend_on_the_seed(generator: torch.Generator) -> None:
    task, data = classes(tanh_net(), 11, generator)
    first, second = (inf.fit_ekfac(task, data, seed=seed) for seed in (0, 1))
    assert first.fisher == "sampled"
    assert not torch.allclose(dense(first.blocks["0"]), dense(second.blocks["0"]))


def test_uniforms_belong_to_a_document(generator: torch.Generator) -> None:
    numbers = uniforms(7, torch.arange(2000), (3,))
    order = torch.randperm(2000, generator=generator)[:50]
    assert torch.equal(uniforms(7, order, (3,)), numbers[order])
    assert len(numbers.unique()) == 6000
    assert float(numbers.min()) > 0.0
    assert float(numbers.max()) < 1.0
    # Six standard errors, of the mean and of each correlation between columns.
    assert float((numbers.mean(0) - 0.5).abs().max()) < 6 * (12 * 2000) ** -0.5
    off_diagonal = torch.corrcoef(numbers.T) - torch.eye(3)
    assert float(off_diagonal.abs().max()) < 6 * 2000**-0.5


def test_a_sampler_is_a_likelihood(generator: torch.Generator) -> None:
    task, data = regression(tanh_net(), 6, generator)
    named = inf.fit_ekfac(task, data, seed=1)

    def sampler(outputs: Tensor, uniform: Tensor) -> Tensor:
        return outputs + torch.special.ndtri(uniform).to(outputs)

    own = inf.fit_ekfac(replace(task, likelihood=sampler), data, seed=1)
    for name, block in own.blocks.items():
        assert torch.equal(block.eigenvalues, named.blocks[name].eigenvalues)


# A peer


def test_empirical_ekfac_equals_curvlinops(
    pictures: Dataset, make_cnn: Callable[..., nn.Module], generator: torch.Generator
) -> None:
    pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")
    from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator

    model = make_cnn(batch_norm=False)
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, pictures, fisher="empirical", batch_size=5)
    batch = everything(task, pictures)
    peer = EKFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(batch.inputs[:8], batch.labels[:8]), (batch.inputs[8:], batch.labels[8:])],
        fisher_type="empirical",
        kfac_approx="expand",
        separate_weight_and_bias=False,
    )
    damping = 0.1 * float(curvature.blocks["0"].eigenvalues.mean())
    vector = noise(model, generator)
    inverse = KFACInverseLinearOperator(peer, damping=damping, use_exact_damping=True)
    expected = inverse @ list(vector.values())
    got = curvature.solve(vector, damping=damping)
    for ours, theirs in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


# What a layer sees


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "uneven": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
    "dilation": {"kernel_size": 2, "dilation": (2, 3), "padding": 2},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "same, odd": {"kernel_size": 3, "padding": "same"},
    "same, even": {"kernel_size": (2, 4), "padding": "same"},
    "same, dilation": {"kernel_size": (3, 2), "padding": "same", "dilation": (2, 3)},
    "1×1": {"kernel_size": 1},
    "1×1, stride": {"kernel_size": 1, "stride": (2, 3)},
    "1×1, padding": {"kernel_size": 1, "padding": 1, "stride": 2},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_document_gradients_of_a_convolution(
    options: dict, bias: bool, pictures: Dataset
) -> None:
    """``Σ_t g_t a_tᵀ`` is the weight gradient of one document, bias last."""

    def build() -> nn.Module:
        conv = nn.Conv2d(2, 3, bias=bias, **options)
        return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))

    model = build_lazy(build, pictures)
    task = inf.classification(model)
    batch = everything(task, pictures)
    expected = [layer_matrix(g, "0") for g in document_gradients(task, batch)]
    layers, _ = cover(model, ())
    with capturing(model, layers) as captured:
        captured.start(len(batch.inputs), None)
        outputs = model(batch.inputs)
        direction = outputs.detach().softmax(1) - F.one_hot(batch.labels, 3)
        gradients = captured.gradients(layers, outputs, direction)
        use = layers[0].uses[0]
        columns = dense_side(captured.fixed(layers[0], use))
        got = captured.moving(use, gradients) @ columns.transpose(1, 2)
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-10, atol=1e-13)


def build_lazy(build: Callable[[], nn.Module], data: Dataset) -> nn.Module:
    """Let lazy layers take their shapes from the data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Lazy modules are a new feature")
        return init_model(lambda: lazy(build(), data), seed=0).double()


def lazy(model: nn.Module, data: Dataset) -> nn.Module:
    model(data.inputs[:1].float())
    return model


def test_positions_of_a_linear_layer_on_sequences(generator: torch.Generator) -> None:
    """The same layer at every token: the document gradient is the sum over tokens."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    model = init_model(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Mean(), nn.Linear(5, 3)),
        seed=0,
    ).double()
    task = inf.classification(model)
    data = Dataset(
        torch.randn(6, 7, 4, generator=generator, **FLOAT64),
        torch.randint(0, 3, (6,), generator=generator),
        num_classes=3,
    )
    block = inf.fit_ekfac(task, data, fisher="empirical").blocks["0"]
    basis = kron(block)
    true = empirical_fisher(task, everything(task, data), "0")
    expected = (basis.T @ true @ basis).diagonal().reshape(block.eigenvalues.shape)
    torch.testing.assert_close(block.eigenvalues, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("frozen_first", [False, True])
def test_operations_in_place_change_nothing(
    frozen_first: bool, generator: torch.Generator
) -> None:
    def make(inplace: bool) -> nn.Module:
        def build() -> nn.Module:
            relu = [nn.ReLU(inplace=inplace) for _ in range(2)]
            return nn.Sequential(
                nn.Linear(4, 5), relu[0], nn.Linear(5, 5), relu[1], nn.Linear(5, 3)
            )

        model = init_model(build, seed=0).double()
        model[0].requires_grad_(not frozen_first)
        return model

    inputs = torch.randn(8, 4, generator=generator, **FLOAT64)
    data = Dataset(inputs, torch.randint(0, 3, (8,), generator=generator))
    apart, inside = (
        inf.fit_ekfac(inf.classification(make(inplace)), data)
        for inplace in (False, True)
    )
    assert len(apart.blocks) == (2 if frozen_first else 3)
    for name, block in inside.blocks.items():
        assert torch.equal(block.eigenvalues, apart.blocks[name].eigenvalues)
        assert torch.equal(block.column_basis, apart.blocks[name].column_basis)
        assert torch.equal(block.row_basis, apart.blocks[name].row_basis)


def test_fit_leaves_the_model_as_it_was(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    model = make_cnn().train()
    model[3].requires_grad_(False)
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    inf.fit_ekfac(inf.classification(model), pictures, skip=("BatchNorm2d",))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model] == [True, False, *[True] * 5]
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [
        False,
        False,
        True,
        True,
    ]
    assert not any(m._forward_hooks for m in model.modules())


# What is refused


class Flow(nn.Module):
    """Calls layers a, b, … by a function, to wire them in odd ways."""

    def __init__(
        self, flow: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module
    ) -> None:
        super().__init__()
        self.flow = flow
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.flow(self, x)


def tied() -> nn.Module:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    return Flow(lambda m, x: m.c(m.b(m.a(x))), a=a, b=b, c=nn.Linear(4, 3))


def wired(flow: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Flow(flow, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 3))


ODD = {
    "never used": (lambda: wired(lambda m, x: m.c(m.a(x))), "no call of b"),
    "no effect": (
        lambda: wired(lambda m, x: m.c(m.a(x)) + 0 * m.b(x).detach()[:, :3]),
        "none on b",
    ),
    "documents see each other": (
        lambda: wired(lambda m, x: m.c(m.a(x) + m.b(x.mean(0, keepdim=True)))),
        "must not depend on the others in its batch, got a change of",
    ),
    "not per document": (
        lambda: wired(lambda m, x: m.c(m.a(x) + m.b(x.repeat(2, 1))[: len(x)])),
        "2 rows for 1 document and 4 for 2 at b",
    ),
}


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD)
def test_odd_wirings_are_refused_and_leave_the_model_whole(
    make: Callable[[], nn.Module], message: str, generator: torch.Generator
) -> None:
    model = make().double().train()
    task, data = classes(model, 5, generator)
    with pytest.raises(InputError, match=message) as refusal:
        inf.fit_ekfac(task, data)
    # Still held, so that nothing is put back by garbage collection alone.
    assert refusal.value is not None
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training and not m._forward_hooks for m in model.modules())


def test_tied_layers_can_be_skipped(generator: torch.Generator) -> None:
    task, data = classes(tied().double(), 5, generator)
    curvature = inf.fit_ekfac(task, data, skip=("a", "b"))
    assert list(curvature.blocks) == ["c"]
    assert curvature.skipped == {"a": 20, "b": 20}


class Odd(nn.Linear):
    """A subclass may compute anything."""


class Scaled(nn.Module):
    """A parameter of its own, outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class GainLayerNorm(nn.LayerNorm):
    """A norm by name with one parameter more than scale and shift."""

    def __init__(self) -> None:
        super().__init__(4)
        self.gain = nn.Parameter(torch.ones(4))


UNCOVERED = {
    "norm and more": (GainLayerNorm, "1 (GainLayerNorm): 12"),
    "own parameter": (Scaled, "1 (Scaled): 4"),
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=2), "1 (Conv2d): 76"),
    "padding": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        "1 (Conv2d): 148",
    ),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 3), "1 (ConvTranspose2d): 148"),
    "two of them": (
        lambda: nn.Sequential(nn.PReLU(4), Odd(4, 4)),
        "1.0 (PReLU): 4, 1.1 (Odd): 20",
    ),
}


@pytest.mark.parametrize(("make", "listed"), UNCOVERED.values(), ids=UNCOVERED)
def test_uncovered_layers_are_named_with_their_parameter_counts(
    make: Callable[[], nn.Module], listed: str, pictures: Dataset
) -> None:
    model = build_lazy(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), make(), nn.Flatten(), nn.LazyLinear(3)
        ),
        pictures,
    )
    task = inf.classification(model)
    with pytest.raises(UncoveredLayerError, match=re.escape(listed)):
        inf.fit_ekfac(task, pictures)


@pytest.mark.parametrize("skip", ["BatchNorm2d", "1"])
def test_skipping_is_recorded(
    skip: str, pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    model = make_cnn()
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, pictures, skip=(skip,))
    assert curvature.skipped == {"1": 8}
    assert list(curvature.blocks) == ["0", "3", "6"]
    assert curvature.num_documents == len(pictures)
    gradient = inf.gradient(task, lambda m: m(torch.ones(1, 2, 6, 6).double())[0, 0])
    assert set(gradient) - set(curvature.solve(gradient, damping=1.0)) == {
        "1.weight",
        "1.bias",
    }


def test_unknown_entries_of_skip_are_refused(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    task = inf.classification(make_cnn())
    with pytest.raises(InputError, match=r"skip must .* got \['LayerNorm'\]"):
        inf.fit_ekfac(task, pictures, skip=("BatchNorm2d", "LayerNorm"))


def test_a_model_without_layers_to_cover_is_refused(generator: torch.Generator) -> None:
    task, data = classes(nn.Sequential(nn.Linear(4, 3)).double(), 5, generator)
    with pytest.raises(InputError, match="at least one trainable layer outside skip"):
        inf.fit_ekfac(task, data, skip=("Linear",))


def no_half(outputs: Tensor, batch: Batch) -> Tensor:
    return 2 * gaussian_loss(outputs, batch)


def twice(outputs: Tensor, batch: Batch) -> Tensor:
    return 2 * cross_entropy(outputs, batch)


@pytest.mark.parametrize("fisher", ["sampled", "exact"])
@pytest.mark.parametrize(("make", "loss"), [(regression, no_half), (classes, twice)])
def test_a_loss_that_is_not_the_likelihood_is_refused(
    make: Callable[..., tuple],
    loss: Callable[[Tensor, Batch], Tensor],
    fisher: Any,
    generator: torch.Generator,
) -> None:
    task, data = make(tanh_net(), 5, generator)
    wrong = replace(task, loss=loss)
    with pytest.raises(InputError, match=r"second derivative off by \d+%"):
        inf.fit_ekfac(wrong, data, fisher=fisher)
    assert inf.fit_ekfac(wrong, data, fisher="empirical").fisher == "empirical"


def test_a_task_without_likelihood_gets_the_empirical_fisher_and_is_told(
    generator: torch.Generator,
) -> None:
    task, data = classes(tanh_net(), 5, generator)
    task = replace(task, likelihood=None)
    with pytest.warns(UserWarning, match="so the empirical Fisher is fitted"):
        curvature = inf.fit_ekfac(task, data)
    assert curvature.fisher == "empirical"
    with pytest.raises(InputError, match="fisher='sampled' must know the likelihood"):
        inf.fit_ekfac(task, data, fisher="sampled")


def test_the_exact_fisher_of_a_sampler_is_refused(generator: torch.Generator) -> None:
    task, data = regression(tanh_net(), 5, generator)
    task = replace(task, likelihood=lambda outputs, _: outputs)
    with pytest.raises(InputError, match="got a sampler"):
        inf.fit_ekfac(task, data, fisher="exact")


def test_factors_that_are_not_finite_are_refused(generator: torch.Generator) -> None:
    task, data = classes(tanh_net(), 5, generator)
    task.model[2].weight.data[0, 0] = torch.nan
    with pytest.raises(DivergedError, match="got NaN or infinity at"):
        inf.fit_ekfac(task, data, fisher="empirical")


# Damping


@pytest.fixture
def curvature(generator: torch.Generator) -> Curvature:
    task, data = classes(tanh_net(), 9, generator)
    return inf.fit_ekfac(task, data)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of damping and damping_ratio"),
        ({"damping": 1.0, "damping_ratio": 1.0}, "exactly one of"),
        ({"damping": 0.0}, "damping must be a number > 0 and finite, got 0.0"),
        ({"damping": -1.0}, "damping must be a number > 0 and finite, got -1.0"),
        ({"damping_ratio": 0.0}, "damping must be a number > 0 and finite, got 0.0"),
        ({"damping": float("nan")}, "damping must be a number > 0 and finite, got nan"),
    ],
)
def test_unusable_damping_is_refused(
    given: dict[str, float], message: str, curvature: Curvature
) -> None:
    with pytest.raises(InputError, match=message):
        curvature.damping(**given)
    with pytest.raises(InputError, match=message):
        curvature.solve(noise(tanh_net(), torch.Generator()), **given)


def test_damping_ratio_is_relative_to_the_mean_eigenvalue(curvature: Curvature) -> None:
    values = {name: b.eigenvalues.flatten() for name, b in curvature.blocks.items()}
    assert curvature.damping(damping=0.3) == dict.fromkeys(values, 0.3)
    assert curvature.damping(damping_ratio=0.1) == pytest.approx(
        {name: 0.1 * float(v.mean()) for name, v in values.items()}, rel=1e-12
    )
    mean = float(torch.cat(list(values.values())).mean())
    assert curvature.damping(damping_ratio=0.1, whole=True) == pytest.approx(
        dict.fromkeys(values, 0.1 * mean), rel=1e-12
    )


@pytest.mark.parametrize("whole", [False, True])
def test_solve_uses_each_layers_damping(
    whole: bool, curvature: Curvature, generator: torch.Generator
) -> None:
    vector = noise(tanh_net(), generator)
    got = curvature.solve(vector, damping_ratio=0.1, whole=whole)
    lambdas = curvature.damping(damping_ratio=0.1, whole=whole)
    for name, block in curvature.blocks.items():
        alone = curvature.solve(vector, damping=lambdas[name])
        for parameter in block.names:
            assert torch.equal(got[parameter], alone[parameter])


def test_a_gradient_of_another_model_is_refused(curvature: Curvature) -> None:
    vector = noise(tanh_net(), torch.Generator())
    del vector["2.bias"]
    with pytest.raises(InputError, match=r"got none for \['2.bias'\]"):
        curvature.solve(vector, damping=1.0)


def test_a_gradient_that_is_not_finite_is_refused(curvature: Curvature) -> None:
    vector = noise(tanh_net(), torch.Generator())
    vector["0.weight"][0, 0] = torch.inf
    with pytest.raises(DivergedError, match="an IHVP must be finite"):
        curvature.solve(vector, damping=1.0)


def test_exact_fisher_of_outputs_with_positions_adds_up_position_by_position() -> None:
    """Each position is a factor of the likelihood: no terms between positions."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 4, bias=False, dtype=torch.float64)
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    data = inf.Dataset(x, torch.zeros(1, 2, dtype=torch.int64))

    def loss(outputs: Tensor, batch: inf.Batch) -> Tensor:
        flat = nn.functional.cross_entropy(
            outputs.transpose(1, 2), batch.labels, reduction="none"
        )
        return flat.sum(1)

    task = inf.Task(layer, lambda m, batch: m(batch.inputs), loss, "categorical")
    block = next(iter(inf.fit_ekfac(task, data, fisher="exact").blocks.values()))
    p = layer(x)[0].softmax(-1).detach()
    expected = sum(
        float((p[t] - p[t].square()).sum() * x[0, t].square().sum()) for t in (0, 1)
    )
    assert float(block.eigenvalues.sum()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_labels_below_zero_count_for_nothing(fisher: Any) -> None:
    """Texts with ignored positions at the end give the Fisher of shorter texts."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 4, dtype=torch.float64)
    x = torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (5, 6), generator=generator)
    ignored = labels.clone()
    ignored[:, 4:] = -100

    def loss(outputs: Tensor, batch: inf.Batch) -> Tensor:
        flat = nn.functional.cross_entropy(
            outputs.transpose(1, 2), batch.labels, reduction="none"
        )
        return flat.sum(1)

    task = inf.Task(layer, lambda m, batch: m(batch.inputs), loss, "categorical")
    short, padded, whole = (
        inf.fit_curvature(task, data, kind="diagonal", fisher=fisher)
        for data in (
            inf.Dataset(x[:, :4], labels[:, :4]),
            inf.Dataset(x, ignored),
            inf.Dataset(x, labels),
        )
    )
    (short_block,), (padded_block,), (whole_block,) = (
        fit.blocks.values() for fit in (short, padded, whole)
    )
    torch.testing.assert_close(padded_block.eigenvalues, short_block.eigenvalues)
    assert not torch.allclose(whole_block.eigenvalues, short_block.eigenvalues)


@pytest.mark.parametrize("fisher", ["sampled", "exact"])
def test_weights_that_are_not_finite_are_named_as_such(
    fisher: Any, generator: torch.Generator
) -> None:
    task, data = classes(tanh_net(), 5, generator)
    task.model[2].weight.data[0, 0] = torch.nan
    with pytest.raises(DivergedError, match="outputs must be finite"):
        inf.fit_ekfac(task, data, fisher=fisher)


def test_outputs_of_another_model_are_refused(generator: torch.Generator) -> None:
    task, data = classes(tanh_net(), 5, generator)
    apart = replace(task, outputs=lambda m, batch: m(batch.inputs).detach())
    with pytest.raises(InputError, match="outputs must depend on the task's model"):
        inf.fit_ekfac(apart, data, fisher="empirical")


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_a_multiple_of_a_loss_has_that_multiple_of_its_curvature(fisher: Any) -> None:
    """So the inverse of a Fisher answers to the loss's scale as that of a Hessian."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    labels = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0])
    data = Dataset(torch.randn(8, 4, **FLOAT64), labels)
    plain = inf.classification(model)

    def tripled(outputs: Tensor, batch: Batch) -> Tensor:
        return 3 * cross_entropy(outputs, batch)

    scaled = replace(plain, loss=tripled, scale=3.0)
    ours, threefold = (
        inf.fit_ekfac(task, data, fisher=fisher) for task in (plain, scaled)
    )
    for mine, theirs in zip(
        ours.blocks.values(), threefold.blocks.values(), strict=True
    ):
        torch.testing.assert_close(theirs.eigenvalues, 3 * mine.eigenvalues)
    if fisher == "exact":
        matrices = [inf.fit_dense(task, data) for task in (plain, scaled)]
        largest = [
            next(iter(fit.blocks.values())).eigenvalues.max() for fit in matrices
        ]
        torch.testing.assert_close(largest[1], 3 * largest[0])
        gradient = inf.gradient(plain, inf.log_prob(data.inputs[0], 1))
        scores = [
            inf.influence(task, data, fit.solve(gradient, damping_ratio=0.1))
            for task, fit in ((plain, ours), (scaled, threefold))
        ]
        torch.testing.assert_close(*scores)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_no_loss_has_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="scale must be > 0 and finite, got"):
        replace(inf.classification(nn.Linear(4, 3)), scale=scale)


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_a_wrong_scale_is_refused(fisher: Any) -> None:
    model = nn.Linear(4, 3)
    data = Dataset(torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 1, 2, 0]))
    task = replace(inf.classification(model), scale=2.0)
    with pytest.raises(InputError, match="must be scale=2 times the negative log of"):
        inf.fit_ekfac(task, data, fisher=fisher)
