"""Many measurements, modules, tokens, self-influence: against loops over documents."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.attribution.scores import score_documents
from infusion.curvature.filters import damped
from infusion.errors import DivergedError, InputError
from infusion.params import Params, dot
from infusion.records import Dataset

from .test_kinds import MODELS, Mean, make, oracle, texts

texts = texts  # a fixture of the kinds of layers, for the kinds of scores
RATIO = {"damping_ratio": 0.1}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def solved(task: inf.Task, curvature: inf.Curvature, count: int) -> list[Params]:
    """IHVPs of random gradients."""
    named = dict(task.model.named_parameters())
    return [
        curvature.solve({n: torch.randn_like(p) for n, p in named.items()}, damping=0.1)
        for _ in range(count)
    ]


def loop(gradients: list[Params], vector: Params) -> Tensor:
    """``−(1/n) ⟨s, ∇ℓᵢ⟩``, document by document."""
    products = [sum((vector[n] * g[n]).sum() for n in vector) for g in gradients]
    return -torch.stack(products) / len(gradients)


@pytest.mark.parametrize("name", MODELS)
def test_influences_are_inner_products_with_document_gradients(
    name: str, texts: Dataset
) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    ihvps = solved(task, curvature, 3)
    gradients = oracle(task, texts)
    expected = torch.stack([loop(gradients, s) for s in ihvps])
    got = inf.influences(task, texts, ihvps, batch_size=3)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_modules_add_up_to_the_influence(name: str, texts: Dataset) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    (ihvp,) = solved(task, curvature, 1)
    gradients = oracle(task, texts)
    split = inf.influence_by_module(task, texts, ihvp, batch_size=4)
    assert list(split) == list(curvature.blocks)
    for block_name, block in curvature.blocks.items():
        part = {n: ihvp[n] for n in block.names}
        torch.testing.assert_close(
            split[block_name], loop(gradients, part), rtol=1e-9, atol=1e-14
        )


@pytest.mark.parametrize("name", MODELS)
def test_self_influence_is_the_influence_on_the_own_loss(
    name: str, texts: Dataset
) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    gradients = oracle(task, texts)
    expected = torch.tensor(
        [dot(curvature.solve(g, **RATIO), g) / len(texts) for g in gradients],
        dtype=torch.float64,
    )
    got = inf.self_influence(task, texts, curvature, batch_size=3, **RATIO)
    assert float(got.min()) >= 0
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("limit", [None, 40_000])
@pytest.mark.parametrize("name", MODELS)
def test_one_pass_scores_documents_in_every_way(
    name: str, limit: int | None, texts: Dataset
) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    ihvps = solved(task, curvature, 3)
    gradients = oracle(task, texts)
    got = score_documents(
        task, texts, curvature, ihvps, batch_size=3, memory_limit=limit, **RATIO
    )
    close = {"rtol": 1e-9, "atol": 1e-14}
    expected = torch.stack([loop(gradients, ihvp) for ihvp in ihvps])
    torch.testing.assert_close(got.influence, expected, **close)
    own = inf.self_influence(task, texts, curvature, **RATIO)
    torch.testing.assert_close(got.self_influence, own, **close)
    lengths = torch.tensor([dot(g, g) ** 0.5 for g in gradients], dtype=torch.float64)
    torch.testing.assert_close(got.gradient_norm, lengths, **close)


def test_tokens_add_up_to_the_influence(texts: Dataset) -> None:
    task = inf.classification(make("Linear"))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    (ihvp,) = solved(task, curvature, 1)
    tokens, rest = inf.influence_by_token(task, texts, ihvp, batch_size=3)
    assert tokens.shape == texts.inputs.shape
    whole = inf.influence(task, texts, ihvp)
    torch.testing.assert_close(tokens.sum(1) + rest, whole, rtol=1e-9, atol=1e-14)
    head = {n: v for n, v in ihvp.items() if n.startswith("4.")}
    expected = loop(oracle(task, texts), head)
    torch.testing.assert_close(rest, expected, rtol=1e-9, atol=1e-14)
    assert float(tokens.abs().min()) > 0


def test_a_token_that_no_loss_reads_has_no_influence(texts: Dataset) -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0]

    model = nn.Sequential(
        nn.Embedding(11, 4), nn.Linear(4, 4), nn.Tanh(), First(), nn.Linear(4, 3)
    ).double()
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    (ihvp,) = solved(task, curvature, 1)
    tokens, _ = inf.influence_by_token(task, texts, ihvp)
    assert not bool(tokens[:, 1:].any())
    assert bool(tokens[:, 0].all())


def test_scores_by_token_need_tokens(pictures: Dataset, make_cnn: Callable) -> None:
    task = inf.classification(make_cnn(batch_norm=False))
    curvature = inf.fit_ekfac(task, pictures)
    (ihvp,) = solved(task, curvature, 1)
    with pytest.raises(InputError, match="layers on sequences of 2 positions"):
        inf.influence_by_token(task, pictures, ihvp)


def scores_of_everything(task: inf.Task, data: Dataset, size: int) -> list[Tensor]:
    curvature = inf.fit_ekfac(task, data, fisher="sampled", seed=3, batch_size=size)
    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    ihvp = curvature.solve(vector, **RATIO)
    return [
        inf.influences(task, data, [ihvp, vector], batch_size=size),
        inf.influence(task, data, ihvp, batch_size=size),
        inf.self_influence(task, data, curvature, batch_size=size, **RATIO),
        torch.stack(
            list(inf.influence_by_module(task, data, ihvp, batch_size=size).values())
        ),
        inf.influence_by_token(task, data, ihvp, batch_size=size)[0].T,
    ]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_no_score_depends_on_the_batch_size(size: int, texts: Dataset) -> None:
    task = inf.classification(make("Linear"))
    pairs = zip(
        scores_of_everything(task, texts, size),
        scores_of_everything(task, texts, 4),
        strict=True,
    )
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_no_score_depends_on_the_order_of_documents(texts: Dataset) -> None:
    """Labels are drawn by position, so the empirical Fisher stands in here."""
    task = inf.classification(make("Linear"))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    moved = texts.take(order)
    first, second = (
        inf.fit_ekfac(task, data, fisher="empirical") for data in (texts, moved)
    )
    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    for score in (
        lambda data, c: inf.influence(task, data, c.solve(vector, **RATIO)),
        lambda data, c: inf.influences(task, data, [c.solve(vector, **RATIO)])[0],
        lambda data, c: inf.self_influence(task, data, c, **RATIO),
    ):
        torch.testing.assert_close(
            score(moved, second), score(texts, first)[order], rtol=1e-8, atol=1e-13
        )


def test_many_measurements_agree_with_one_at_a_time_on_pictures(
    pictures: Dataset, make_cnn: Callable
) -> None:
    """Hooks against forward mode, skipped layers included."""
    task = inf.classification(make_cnn())
    curvature = inf.fit_ekfac(task, pictures, skip=("BatchNorm2d",))
    ihvps = solved(task, curvature, 4)
    expected = torch.stack([inf.influence(task, pictures, s) for s in ihvps])
    got = inf.influences(task, pictures, ihvps, batch_size=5)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)


def test_scores_refuse_what_they_cannot_use(texts: Dataset) -> None:
    task = inf.classification(make("Linear"))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    whole = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    part = {n: v for n, v in whole.items() if n != "1.bias"}
    with pytest.raises(InputError, match="at least one IHVP, got none; write"):
        inf.influences(task, texts, [])
    with pytest.raises(InputError, match="over the same parameters"):
        inf.influences(task, texts, [whole, part])
    with pytest.raises(
        InputError, match=r"got \(4,\) for 7.bias where the model has no"
    ):
        inf.influences(task, texts, [part | {"7.bias": whole["1.bias"]}])
    with pytest.raises(InputError, match="exactly one of damping"):
        inf.self_influence(task, texts, curvature)
    dense = inf.fit_dense(task, texts)
    with pytest.raises(InputError, match="a block per layer, got gauss_newton"):
        inf.self_influence(task, texts, dense, damping=0.1)
    whole["1.bias"][0] = torch.nan
    with pytest.raises(DivergedError, match="NaN or infinity for 7 scores"):
        inf.influences(task, texts, [whole])


def test_self_influence_weights_rare_directions(texts: Dataset) -> None:
    """``1/(λ + damping)`` in the eigenbasis, checked on one linear layer by hand."""
    model = nn.Sequential(nn.Embedding(11, 4), Mean(1), nn.Linear(4, 3)).double()
    model[0].weight.requires_grad_(False)
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    block = curvature.blocks["2"]
    gradients = oracle(task, texts)
    weights = damped(block.eigenvalues, 0.01)
    expected = torch.stack(
        [
            (weights * block.rotate(block.layout.matrix(g)).square()).sum()
            for g in gradients
        ]
    ) / len(texts)
    got = inf.self_influence(task, texts, curvature, damping=0.01)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


def test_a_memory_limit_changes_the_way_and_not_the_scores(texts: Dataset) -> None:
    from infusion.curvature.hooks import shared_uses
    from infusion.curvature.layers import survey
    from infusion.curvature.plan import make_plan

    task = inf.classification(make("Linear"))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    ihvps = solved(task, curvature, 5)
    expected = inf.influences(task, texts, ihvps)
    layers = survey(task.model).layers
    plan = make_plan(task, texts, layers, shared_uses(task, texts, layers))
    least = plan.document() + plan.measurement()
    for limit, passes in ((least, 5), (3 * least, 2), (1 << 30, 1)):
        done: list[int] = []
        got = inf.influences(
            task, texts, ihvps, memory_limit=limit, on_batch=done.append
        )
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13)
        assert sum(done) == passes * len(texts)
    with pytest.raises(InputError, match="one document and one measurement need, got"):
        inf.influences(task, texts, ihvps, memory_limit=least - 1)


PEAK = """
import sys, torch, infusion as inf
torch.set_num_threads(1)
layers = [torch.nn.Linear(512, 512) for _ in range(4)]
model = torch.nn.Sequential(*layers, torch.nn.Linear(512, 10))
data = inf.Dataset(torch.randn(600, 512), torch.randint(0, 10, (600,)), num_classes=10)
task = inf.classification(model)
vector = {n: torch.randn_like(p) for n, p in model.named_parameters()}
ihvps = [vector] * 100
few = data.take(torch.arange(2))
inf.influences(task, few, ihvps[:1], batch_size=1)
open("/proc/self/clear_refs", "w").write("5")
def status(key):
    return int(open("/proc/self/status").read().split(key + ":")[1].split()[0])
before = status("VmRSS")
limit = int(sys.argv[1]) or None
inf.influences(task, data, ihvps, batch_size=512, memory_limit=limit)
print((status("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory as Linux tells it"
)
def test_a_memory_limit_is_kept() -> None:
    def peak(limit: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(limit)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    limit = 200 << 20
    assert peak(0) > 3 * limit
    assert peak(limit) < 1.1 * limit


def test_tokens_of_a_convolution_are_positions_not_channels(texts: Dataset) -> None:
    """As many channels as tokens; each position is zeroed on its own."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 5)
            self.conv = nn.Conv1d(5, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.embed(x).mT)[:, :, 0]

    model = Model().double()
    model.embed.weight.requires_grad_(False)
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    (ihvp,) = solved(task, curvature, 1)
    tokens, rest = inf.influence_by_token(task, texts, ihvp)
    assert bool(tokens[:, 0].all())
    assert not bool(tokens[:, 1:].any())
    assert not bool(rest.any())


def test_half_precision_scores_come_as_float32(texts: Dataset) -> None:
    task = inf.classification(make("Linear").bfloat16())
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    (ihvp,) = solved(task, curvature, 1)
    assert inf.influences(task, texts, [ihvp, ihvp]).dtype == torch.float32
    assert inf.influence(task, texts, ihvp).dtype == torch.float32


def test_masks_are_for_curvature_alone(texts: Dataset) -> None:
    """Scores are exact derivatives, whatever a mask says."""
    task = inf.classification(make("Linear"))
    masked = replace(task, mask=lambda batch: batch.inputs > 3)
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    ihvps = solved(task, curvature, 2)
    expected = inf.influences(task, texts, ihvps)
    torch.testing.assert_close(inf.influences(masked, texts, ihvps), expected)


def test_an_ihvp_of_another_shape_is_refused(texts: Dataset) -> None:
    task = inf.classification(make("Linear"))
    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    vector["1.bias"] = torch.ones(7, dtype=torch.float64)
    with pytest.raises(InputError, match=r"must fit the model, got \(7,\) for 1.bias"):
        inf.influences(task, texts, [vector])


def test_scores_follow_the_skips_of_their_curvature(texts: Dataset) -> None:
    task = inf.classification(make("tied, own biases"))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical", skip=("a", "b"))
    ihvps = solved(task, curvature, 2)
    expected = torch.stack([inf.influence(task, texts, s) for s in ihvps])
    torch.testing.assert_close(inf.influences(task, texts, ihvps), expected)
