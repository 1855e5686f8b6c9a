"""Filters, dense curvature, conjugate gradients, storage, sub-samples."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import infusion as inf
from infusion.curvature.filters import damped, horizon, pseudo_inverse
from infusion.curvature.iterative import gauss_newton_product
from infusion.errors import ArtefactError, InputError, NotConvergedError
from infusion.params import Params, axpy, dot
from infusion.records import Dataset, call_model
from infusion.training.loop import init_model

from .oracles import document_gradients, gaussian_loss

FLOAT64: dict[str, Any] = {"dtype": torch.float64}


@pytest.fixture
def net() -> nn.Module:
    return init_model(
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)
        ),
        seed=0,
    ).double()


@pytest.fixture
def data(generator: torch.Generator) -> Dataset:
    inputs = torch.randn(9, 3, generator=generator, **FLOAT64)
    labels = torch.randint(0, 3, (9,), generator=generator)
    return Dataset(inputs, labels, num_classes=3)


def noise(model: nn.Module, seed: int = 1) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for n, p in model.named_parameters()
    }


# Filters


VALUES = torch.tensor([0.0, 1e-12, 0.03, 0.5, 0.9], **FLOAT64)


def test_damped_inverse() -> None:
    torch.testing.assert_close(damped(VALUES, 0.1), 1 / (VALUES + 0.1))
    negative = torch.tensor([-0.05, 1.0], **FLOAT64)
    torch.testing.assert_close(damped(negative, 0.1), 1 / (negative + 0.1))
    with pytest.raises(InputError, match=r"must be > 0, got -0.05 \+ 0.05; raise"):
        damped(negative, 0.05)


def test_pseudo_inverse_is_that_of_the_matrix(generator: torch.Generator) -> None:
    half = torch.randn(5, 3, generator=generator, **FLOAT64)
    matrix = half @ half.T
    eigenvalues, basis = torch.linalg.eigh(matrix)
    got = basis @ torch.diag(pseudo_inverse(eigenvalues, 1e-9)) @ basis.T
    torch.testing.assert_close(got, torch.linalg.pinv(matrix), rtol=1e-9, atol=1e-11)
    with pytest.raises(InputError, match="cutoff must be ≥ 0 and finite, got -1"):
        pseudo_inverse(eigenvalues, -1.0)


@given(
    steps=st.integers(1, 60),
    lr=st.floats(0.01, 1.0),
    weight_decay=st.sampled_from([0.0, 0.05]),
)
def test_horizon_is_what_gradient_descent_reaches(
    steps: int, lr: float, weight_decay: float
) -> None:
    """Descend ``½λx² + ½ decay x² − x`` from 0 for ``steps``."""
    x = torch.zeros_like(VALUES)
    for _ in range(steps):
        x = x - lr * ((VALUES + weight_decay) * x - 1)
    got = horizon(VALUES, lr=lr, steps=steps, weight_decay=weight_decay)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-13)


def test_horizon_in_continuous_time_is_the_limit_of_small_steps() -> None:
    flow = horizon(VALUES, lr=1.0, steps=20, time="flow")
    tiny = horizon(VALUES, lr=1e-5, steps=2_000_000)
    torch.testing.assert_close(flow, tiny, rtol=1e-4, atol=0)
    torch.testing.assert_close(flow[0], torch.tensor(20.0, **FLOAT64))


def test_momentum_is_a_larger_rate_in_the_limit() -> None:
    """Heavy ball on the same quadratic, many small steps."""
    lr, beta, steps = 1e-3, 0.9, 4_000
    x, speed = torch.zeros_like(VALUES), torch.zeros_like(VALUES)
    for _ in range(steps):
        speed = beta * speed - (VALUES * x - 1)
        x = x + lr * speed
    got = horizon(VALUES, lr=lr, steps=steps, momentum=beta)
    torch.testing.assert_close(got, x, rtol=5e-3, atol=0)


def test_long_horizons_tend_to_the_inverse() -> None:
    got = horizon(VALUES[2:], lr=1.0, steps=100_000)
    torch.testing.assert_close(got, 1 / VALUES[2:], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 2.0, "steps": 3}, "ηλ must be < 1 .* = 1.8; lower lr or pass"),
        ({"lr": 0.5, "steps": 3, "momentum": 0.6}, "ηλ must be < 1"),
        ({"lr": 0.0, "steps": 3}, "a horizon needs lr > 0"),
        ({"lr": 1.0, "steps": 0}, "steps ≥ 1"),
        ({"lr": 1.0, "steps": 3, "momentum": 1.0}, "momentum < 1"),
    ],
)
def test_unusable_horizons_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        horizon(VALUES, **settings)


def test_a_filter_is_applied_in_the_eigenbasis(net: nn.Module, data: Dataset) -> None:
    task = inf.classification(net)
    curvature = inf.fit_ekfac(task, data, fisher="exact")
    vector = noise(net)
    same = curvature.filtered(vector, lambda e: damped(e, 0.2))
    for name, value in curvature.solve(vector, damping=0.2).items():
        assert torch.equal(same[name], value)
    short = curvature.filtered(vector, lambda e: horizon(e, lr=1e-3, steps=1))
    for name, value in short.items():  # one step from rest is η∇f
        torch.testing.assert_close(value, 1e-3 * vector[name], rtol=1e-10, atol=1e-14)


# Dense curvature


def test_dense_gauss_newton_equals_the_hessian_of_a_linear_model(
    generator: torch.Generator,
) -> None:
    """Where outputs are linear in the parameters both are the same matrix."""
    model = nn.Linear(3, 2).double()
    inputs = torch.randn(7, 3, generator=generator, **FLOAT64)
    labels = torch.randn(7, 2, generator=generator, **FLOAT64)
    task = inf.Task(model, call_model, gaussian_loss, "gaussian")
    fits = [
        inf.fit_dense(task, Dataset(inputs, labels), kind=kind)
        for kind in ("gauss_newton", "hessian")
    ]
    ones = torch.cat([inputs, torch.ones(7, 1, **FLOAT64)], 1)
    block = torch.kron(torch.eye(2, **FLOAT64), ones.T @ ones / 7)
    wanted = torch.linalg.eigvalsh(block)
    for fit in fits:
        eigenvalues = fit.blocks["all"].eigenvalues[:, 0]
        torch.testing.assert_close(eigenvalues, wanted, rtol=1e-9, atol=1e-12)


def test_dense_hessian_is_the_derivative_of_the_gradient(
    net: nn.Module, data: Dataset
) -> None:
    task = inf.classification(net)
    fit = inf.fit_dense(task, data, kind="hessian", batch_size=4)
    vector, step = noise(net), 1e-6
    block = fit.blocks["all"]
    rotated = block.rotate(block.layout.matrix(vector)) * block.eigenvalues
    product = block.layout.parameters(block.rotate_back(rotated))

    def mean_gradient(scale: float) -> Params:
        moved = inf.classification(copied(net, axpy(scale, vector, parameters(net))))
        batch = data.batch(torch.arange(9), like=next(net.parameters()))
        each = document_gradients(moved, batch)
        return {n: torch.stack([g[n] for g in each]).mean(0) for n in vector}

    ahead, behind = mean_gradient(step), mean_gradient(-step)
    for name, value in product.items():
        expected = (ahead[name] - behind[name]) / (2 * step)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)


def parameters(model: nn.Module) -> Params:
    return {n: p.detach() for n, p in model.named_parameters()}


def copied(model: nn.Module, state: Params) -> nn.Module:
    from copy import deepcopy

    other = deepcopy(model)
    other.load_state_dict(state)
    return other


def test_a_dense_curvature_of_a_large_model_is_refused() -> None:
    task = inf.classification(nn.Linear(200, 200))
    data = Dataset(torch.zeros(1, 200), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="at most 20,000 parameters, got 40,200"):
        inf.fit_dense(task, data)


# Simpler curvatures


def test_kfac_is_the_gauss_newton_matrix_of_a_deep_linear_net(
    generator: torch.Generator,
) -> None:
    model = init_model(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), seed=0
    ).double()
    inputs = torch.randn(7, 3, generator=generator, **FLOAT64)
    labels = torch.randn(7, 2, generator=generator, **FLOAT64)
    task = inf.Task(model, call_model, gaussian_loss, "gaussian")
    data = Dataset(inputs, labels)
    exact, corrected = (
        inf.fit_curvature(task, data, kind=kind, fisher="exact")
        for kind in ("kfac", "ekfac")
    )
    for name, block in corrected.blocks.items():
        torch.testing.assert_close(
            exact.blocks[name].eigenvalues, block.eigenvalues, rtol=1e-9, atol=1e-12
        )


def test_kfac_of_positions_expands_them(generator: torch.Generator) -> None:
    """``Λ = S_G S_Aᵀ / (n · positions)`` for a layer that sees every token."""
    layer = nn.Linear(3, 2, bias=False).double()
    model = nn.Sequential(layer, nn.Flatten(1))
    inputs = torch.randn(5, 4, 3, generator=generator, **FLOAT64)
    labels = torch.randn(5, 8, generator=generator, **FLOAT64)
    task = inf.Task(model, call_model, gaussian_loss, "gaussian")
    data = Dataset(inputs, labels)
    block = inf.fit_curvature(task, data, kind="kfac", fisher="empirical").blocks["0"]
    flat = inputs.flatten(0, 1)
    g = (layer(inputs) - labels.reshape(5, 4, 2)).detach().flatten(0, 1)
    expected = torch.kron(g.T @ g / 5, flat.T @ flat / 20)
    basis = torch.kron(block.row_basis, block.column_basis)
    got = basis @ torch.diag(block.eigenvalues.flatten()) @ basis.T
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_the_identity_leaves_the_gradient(net: nn.Module, data: Dataset) -> None:
    curvature = inf.fit_curvature(inf.classification(net), data, kind="identity")
    assert curvature.fisher is None
    vector = noise(net)
    for name, value in curvature.solve(vector, damping=1.0).items():
        torch.testing.assert_close(value, vector[name] / 2)


# Conjugate gradients


def test_gauss_newton_product_is_that_of_the_dense_matrix(
    net: nn.Module, data: Dataset
) -> None:
    task = inf.classification(net)
    block = inf.fit_dense(task, data).blocks["all"]
    vector = noise(net)
    got = gauss_newton_product(task, data, vector, batch_size=4)
    rotated = block.rotate(block.layout.matrix(vector)) * block.eigenvalues
    for name, value in block.layout.parameters(block.rotate_back(rotated)).items():
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-11)


def test_conjugate_gradients_reach_the_dense_solution(
    net: nn.Module, data: Dataset
) -> None:
    task = inf.classification(net)
    vector = noise(net)
    expected = inf.fit_dense(task, data).solve(vector, damping=0.05)
    ekfac = inf.fit_ekfac(task, data, fisher="exact")
    done = inf.solve_cg(task, data, vector, ekfac, damping=0.05, rtol=1e-10)
    assert done.residual <= 1e-10
    for name, value in done.ihvp.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9)


def test_an_exact_preconditioner_needs_one_product(generator: torch.Generator) -> None:
    inputs = torch.randn(7, 3, generator=generator, **FLOAT64)
    labels = torch.randn(7, 2, generator=generator, **FLOAT64)
    model, data = nn.Linear(3, 2).double(), Dataset(inputs, labels)
    task = inf.Task(model, call_model, gaussian_loss, "gaussian")
    exact, plain = (
        inf.fit_curvature(task, data, kind=kind, fisher="exact")
        for kind in ("ekfac", "identity")
    )
    settings: dict[str, Any] = {"damping": 0.01, "rtol": 1e-10}
    assert inf.solve_cg(task, data, noise(model), exact, **settings).products == 1
    assert inf.solve_cg(task, data, noise(model), plain, **settings).products > 2


def test_conjugate_gradients_solve_with_each_layers_damping(
    net: nn.Module, data: Dataset
) -> None:
    task = inf.classification(net)
    vector = noise(net)
    ekfac = inf.fit_ekfac(task, data, fisher="exact")
    done = inf.solve_cg(task, data, vector, ekfac, damping_ratio=0.5, rtol=1e-9)
    lambdas = ekfac.damping(damping_ratio=0.5)
    back = gauss_newton_product(task, data, done.ihvp)
    for name, block in ekfac.blocks.items():
        for n in block.names:
            left = back[n] + lambdas[name] * done.ihvp[n]
            torch.testing.assert_close(left, vector[n], rtol=1e-5, atol=1e-7)


def test_a_solve_that_does_not_converge_says_so(net: nn.Module, data: Dataset) -> None:
    task = inf.classification(net)
    ekfac = inf.fit_ekfac(task, data, fisher="exact")
    with pytest.raises(NotConvergedError, match=r"relative residual of 1\.0e-12, got"):
        inf.solve_cg(
            task, data, noise(net), ekfac, damping=1e-6, rtol=1e-12, max_products=2
        )


# Storage


@pytest.mark.parametrize("kind", ["identity", "diagonal", "kfac", "ekfac", "dense"])
def test_a_stored_curvature_solves_alike(
    kind: Any, net: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    task = inf.classification(net)
    if kind == "dense":
        fitted = inf.fit_dense(task, data)
    else:
        fitted = inf.fit_curvature(task, data, kind=kind)
    path = tmp_path / "curvature.safetensors"
    written = set[bytes]()
    for _ in range(8):
        inf.save_curvature(fitted, path, origin={"seed": 0})
        written.add(path.read_bytes())
    assert len(written) == 1
    read = inf.load_curvature(path, net)
    assert replace(read, blocks={}) == replace(fitted, blocks={})
    vector = noise(net)
    again = read.solve(vector, damping=0.1)
    for name, value in fitted.solve(vector, damping=0.1).items():
        torch.testing.assert_close(again[name], value, rtol=1e-12, atol=1e-14)


def test_unusable_curvature_files_are_refused(
    net: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "curvature.safetensors"
    fitted = inf.fit_ekfac(inf.classification(net), data)
    with pytest.raises(InputError, match=r"a file that can be written, got .*nowhere"):
        inf.save_curvature(fitted, str(tmp_path / "nowhere" / "c.safetensors"))
    with pytest.raises(ArtefactError, match="must be a file, got none"):
        inf.load_curvature(path, net)
    inf.save_curvature(inf.fit_ekfac(inf.classification(net), data), path)
    with pytest.raises(InputError, match=r"got \(4, 3\) for 0.weight where the model"):
        inf.load_curvature(path, nn.Sequential(nn.Linear(3, 5)).double())
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ArtefactError, match="must be a whole file"):
        inf.load_curvature(path, net)
    path.write_bytes(whole[:-9] + bytes(9))
    with pytest.raises(ArtefactError, match="it was altered"):
        inf.load_curvature(path, net)
    path.write_bytes(whole.replace(b"bias column", b"bias colunn"))
    with pytest.raises(ArtefactError, match="it was altered"):
        inf.load_curvature(path, net)
    path.write_bytes(whole.replace(b"infusion curvature 3", b"infusion curvature 0"))
    with pytest.raises(ArtefactError, match="format 'infusion curvature 0'"):
        inf.load_curvature(path, net)
    path.write_bytes(whole)
    with torch.no_grad():
        net.get_parameter("0.weight")[0, 0] += 1e-3
    message = "the weights it was fitted at, sha256 "
    with pytest.raises(InputError, match=message):
        inf.load_curvature(path, net)
    task = inf.classification(net)
    with pytest.raises(InputError, match=message):
        inf.self_influence(task, data, fitted, damping=1.0)
    with pytest.raises(InputError, match=message):
        inf.solve_cg(task, data, noise(net), fitted, damping=1.0)


# Sub-samples


def test_the_sampling_error_is_that_of_the_eigenvalues(
    make_cnn: Callable[..., nn.Module], generator: torch.Generator
) -> None:
    """Root mean square over draws of 100 of 200 documents, against the full fit."""
    data = Dataset(
        torch.randint(0, 17, (200, 2, 6, 6), generator=generator).byte(),
        torch.randint(0, 3, (200,), generator=generator),
        levels=16,
        valid=(0.0, 1.0),
        num_classes=3,
    )
    task = inf.classification(make_cnn(batch_norm=False))
    settings: dict[str, Any] = {"kind": "diagonal", "fisher": "empirical"}
    full = inf.fit_curvature(task, data, **settings)
    assert full.sampling_error == 0.0
    scale = norm({k: b.eigenvalues for k, b in full.blocks.items()})
    true, claimed = [], []
    for _ in range(100):
        some = torch.randperm(200, generator=generator)[:100]
        fit = inf.fit_curvature(task, data, documents=some, batch_size=8, **settings)
        assert fit.num_documents == 100
        off = {
            k: b.eigenvalues - full.blocks[k].eigenvalues for k, b in fit.blocks.items()
        }
        true.append((norm(off) / scale) ** 2)
        claimed.append(fit.sampling_error**2)
    ratio = math.sqrt(sum(claimed) / sum(true))
    assert 0.85 < ratio < 1.2


def norm(values: dict[str, Tensor]) -> float:
    return math.sqrt(dot(values, values))


def test_documents_that_are_not_there_are_refused(
    net: nn.Module, data: Dataset
) -> None:
    task = inf.classification(net)
    with pytest.raises(InputError, match=r"positions in 0…8, at least one, got \[9\]"):
        inf.fit_ekfac(task, data, documents=torch.tensor([9]))
    with pytest.raises(InputError, match="at least one"):
        inf.fit_ekfac(task, data, documents=torch.tensor([], dtype=torch.int64))
    with pytest.raises(InputError, match="draws must be a whole number ≥ 1, got 0"):
        inf.fit_ekfac(task, data, draws=0)
    with pytest.raises(InputError, match="different positions, got 3 with 2"):
        inf.fit_ekfac(task, data, documents=torch.tensor([1, 1, 2]))


def test_a_layer_without_gradients_has_no_relative_damping(data: Dataset) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, data, fisher="empirical")
    with pytest.raises(InputError, match="got none at 0, where no gradient arrives"):
        curvature.solve(noise(model), damping_ratio=0.1)
    assert curvature.solve(noise(model), damping=0.1)


def test_a_sure_model_is_not_mistaken_for_a_wrong_loss(data: Dataset) -> None:
    for gap in (20.0, 33.0, 60.0):
        model = nn.Linear(3, 3).double()
        with torch.no_grad():
            model.weight.zero_()
            model.bias.copy_(torch.tensor([gap, 0.0, 0.0]))
        assert inf.fit_ekfac(inf.classification(model), data, batch_size=1)


def test_horizons_of_a_dense_gauss_newton(net: nn.Module, data: Dataset) -> None:
    """Null directions are zero, not a rounding error below it."""
    fit = inf.fit_dense(inf.classification(net), data)
    eigenvalues = fit.blocks["all"].eigenvalues
    assert float(eigenvalues.min()) == 0.0
    rate = 0.5 / float(eigenvalues.max())
    reached = horizon(eigenvalues, lr=rate, steps=10)
    assert float(reached.max()) == pytest.approx(10 * rate)
