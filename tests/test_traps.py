"""Each convention that has burned another library, held by a test.

===============================  =====================================================
trap                             test
===============================  =====================================================
fused attention kernels          here; test_doctor: gradients that change with batches
masked positions on one side     test_kinds: masked positions leave no trace
tied modules                     test_kinds: a tied weight is summed before squared
parameters that no hook sees     here: every parameter is placed
bias, sum or mean, which Fisher  here: a stored curvature says what it is
sign and unit                    here: against kronfluence's conventions; test_ridge
scale of the damping             here: a relative damping follows the loss' scale
IHVPs that are overwritten       here: every query keeps its own
===============================  =====================================================
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import infusion as inf
from infusion.attribution.doctor import diagnose
from infusion.curvature.layers import survey
from infusion.curvature.storage import _read
from infusion.errors import UncoveredLayerError
from infusion.records import Dataset
from infusion.training.loop import init_model

from .test_kinds import make, oracle, texts

texts = texts


class Attention(nn.Module):
    """One head on embedded tokens, by whichever kernel torch chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(x))[:, None].chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(mixed[:, 0].mean(1))


def test_fused_attention_is_named_before_it_fails(texts: Dataset) -> None:
    task = inf.classification(init_model(Attention, 0))
    outcomes = {}
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(kernel):
            found = {f.code: f for f in diagnose(task, texts).findings}
        outcomes[kernel] = found["D007"].outcome
        assert found["D006"].outcome == "ok"
    assert outcomes == {
        SDPBackend.FLASH_ATTENTION: "warning",
        SDPBackend.MATH: "ok",
    }


def test_scores_need_no_forward_mode(texts: Dataset) -> None:
    """The fused kernel has a backward pass, which is all that ``influences`` needs."""
    task = inf.classification(init_model(Attention, 0).double())
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    ihvp = curvature.solve(vector, damping_ratio=0.1)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = inf.influences(task, texts, [ihvp])[0]
    with sdpa_kernel(SDPBackend.MATH):
        plain = inf.influence(task, texts, ihvp)
    torch.testing.assert_close(fused, plain, rtol=1e-8, atol=1e-13)


def test_every_parameter_is_placed_or_refused(texts: Dataset) -> None:
    model = make("LayerNorm")
    model.add_module("extra", nn.PReLU(3).double())
    found = survey(model)
    covered = [name for layer in found.layers for name in layer.layout.names]
    assert sorted([*covered, "extra.weight"]) == sorted(dict(model.named_parameters()))
    with pytest.raises(UncoveredLayerError, match=r"extra \(PReLU\): 3"):
        inf.fit_ekfac(inf.classification(model), texts)


def test_a_stored_curvature_says_what_it_is(texts: Dataset, tmp_path: Path) -> None:
    task = inf.classification(make("Linear"))
    path = tmp_path / "c.safetensors"
    settings: dict[str, Any] = {"fisher": "sampled", "skip": ("Embedding",)}
    fitted = inf.fit_ekfac(task, texts, **settings)
    inf.save_curvature(fitted, path, origin={"loss": "sum over documents"})
    header = _read(path.read_bytes())[1]
    assert header["fisher"] == "sampled"
    assert header["kind"] == "ekfac"
    assert header["num_documents"] == len(texts)
    assert header["skipped"] == {"0": 44}
    assert header["blocks"]["1"]["form"] == "bias column"
    assert header["origin"] == {"loss": "sum over documents"}


def test_sign_and_unit_against_the_usual_score(texts: Dataset) -> None:
    """Others print ``⟨s, ∇ℓ⟩``: no minus, no 1/n, largest where training hurts."""
    task = inf.classification(make("Linear"))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    gradients = oracle(task, texts)
    up = gradients[4]  # f = −ℓ₄, so its own document is a proponent
    ihvp = curvature.solve({n: -g for n, g in up.items()}, damping_ratio=0.1)
    usual = [sum(float((ihvp[n] * g[n]).sum()) for n in ihvp) for g in gradients]
    ours = inf.influence(task, texts, ihvp)
    assert ours.tolist() == pytest.approx([-u / len(texts) for u in usual], rel=1e-9)
    assert float(ours[4]) > 0
    itself = inf.self_influence(task, texts, curvature, damping_ratio=0.1)
    assert float(itself[4]) == pytest.approx(float(ours[4]), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_a_relative_damping_follows_the_scale_of_the_loss(
    scale: float, texts: Dataset
) -> None:
    """With ``cℓ`` for ``ℓ`` the empirical Fisher grows by ``c²``: the IHVP shrinks by
    as much at the same ratio, and the order of documents stays."""
    task = inf.classification(make("Linear"))

    def loss(outputs: Tensor, batch: inf.Batch) -> Tensor:
        return scale * task.loss(outputs, batch)

    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    plain, scaled = (
        inf.fit_ekfac(t, texts, fisher="empirical").solve(vector, damping_ratio=0.1)
        for t in (task, replace(task, loss=loss))
    )
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name] * scale**2, value, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["head tied to embedding", "used twice"])
def test_every_query_keeps_its_own_ihvp(name: str, texts: Dataset) -> None:
    """Also for weights used twice, where others keep the last use or the last query."""
    task = inf.classification(make(name))
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    gradients = oracle(task, texts)[:3]
    together = [curvature.solve(g, damping=0.1) for g in gradients]
    alone = curvature.solve(gradients[0], damping=0.1)
    assert all(torch.equal(together[0][n], v) for n, v in alone.items())
    got = inf.influences(task, texts, together)
    for row, ihvp in zip(got, together, strict=True):
        torch.testing.assert_close(
            row, inf.influence(task, texts, ihvp), rtol=1e-9, atol=1e-14
        )


def test_a_batch_is_no_unit(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    """Scores per document do not change with how many are held at once."""
    task = inf.classification(make_cnn())
    curvature = inf.fit_ekfac(task, pictures, skip=("BatchNorm2d",), batch_size=3)
    other = inf.fit_ekfac(task, pictures, skip=("BatchNorm2d",), batch_size=14)
    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    scores = [
        inf.influences(
            task, pictures, [c.solve(vector, damping_ratio=0.1)], batch_size=b
        )
        for c, b in ((curvature, 2), (other, 14))
    ]
    torch.testing.assert_close(*scores, rtol=1e-8, atol=1e-13)
