"""Trains, fits and scores small networks in however many processes torchrun started."""

import sys
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

import infusion as inf
from infusion.sharding import shard
from infusion.training.loop import init_model
from infusion.training.parallel import _normalised


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 3),
    )


def pictures() -> inf.Dataset:
    generator = torch.Generator().manual_seed(0)
    return inf.Dataset(
        torch.randint(0, 17, (29, 2, 6, 6), generator=generator).byte(),
        torch.randint(0, 3, (29,), generator=generator),
        levels=16,
        valid=(0.0, 1.0),
        num_classes=3,
    )


def trained() -> dict[str, torch.Tensor]:
    """Train with batch normalisation, drawn noise, clipping, and a last batch of 1."""
    result: dict[str, torch.Tensor] = {}
    for optimiser in ("sgd", "adam"):
        recipe = inf.TrainConfig(
            optimiser=optimiser,
            epochs=2,
            batch_size=7,
            lr=0.05,
            noise=0.1,
            clip=0.5,
        )
        model = init_model(network, 0).double()
        task = inf.classification(model)
        inf.train(task, pictures(), recipe, seed=1)
        for name, value in model.state_dict().items():
            result[f"{optimiser}/{name}"] = value.double()
    return result


def odd_network() -> nn.Module:
    """Batch normalisation of every kind, and a layer that is not trained."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4, momentum=None),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.BatchNorm2d(3, affine=False),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    )
    model[2].requires_grad_(requires_grad=False)
    return model


def oddly_trained() -> dict[str, torch.Tensor]:
    recipe = inf.TrainConfig(epochs=2, batch_size=6, lr=0.05, flip=True, shift=1)
    model = init_model(odd_network, 0).double()
    data = pictures().take(torch.arange(24))
    inf.train(inf.classification(model), data, recipe, seed=2)
    return {f"odd/{name}": v.double() for name, v in model.state_dict().items()}


def check_half_precision() -> None:
    """Moments of many documents, which bfloat16 cannot count."""
    x = torch.randn(700, 3, generator=torch.Generator().manual_seed(3)) * 2 + 5
    norm = nn.BatchNorm1d(3).bfloat16()
    found = _normalised(norm, x.bfloat16()[shard(len(x))]).float()
    wanted = nn.functional.batch_norm(x, None, None, training=True)[shard(len(x))]
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


def refused(said: str, *, model: nn.Module, seed: int = 0, lr: float = 0.1) -> None:
    recipe = inf.TrainConfig(epochs=1, batch_size=4, lr=lr)
    with pytest.raises(inf.InputError, match=said):
        inf.train(inf.classification(model), pictures(), recipe, seed=seed)


def check_refusals() -> None:
    """What several processes would not do as one, and would not notice."""
    rank = dist.get_rank()
    flat, drops = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), nn.Dropout(0.1)
    for each in flat.parameters():
        nn.init.constant_(each, 0.1)
    refused("must draw nothing itself", model=nn.Sequential(flat, drops))
    other = init_model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), rank)
    refused("weights before training must be the same", model=other)
    same = "recipe, seed, start and documents must be the same"
    refused(same, model=flat, seed=rank)
    refused(same, model=flat, lr=0.1 + rank)
    for stage in (inf.fit_ekfac, inf.fit_dense):
        with pytest.raises(inf.InputError, match="weights must be the same in every"):
            stage(inf.classification(other), pictures())


def everything() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    data = pictures()
    task = inf.classification(init_model(network, 0).double().eval())
    named = dict(task.model.named_parameters())
    vectors = [
        {
            n: torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for n, p in named.items()
        }
        for _ in range(3)
    ]
    ratio: dict[str, Any] = {"damping_ratio": 0.1}
    result: dict[str, torch.Tensor] = {}
    for kind in ("diagonal", "kfac", "ekfac"):
        fitted = inf.fit_curvature(task, data, kind=kind, seed=3, batch_size=4)
        for name, block in fitted.blocks.items():
            result[f"{kind}/{name}"] = block.eigenvalues
        result[f"{kind}/self"] = inf.self_influence(task, data, fitted, **ratio)
        ihvps = [fitted.solve(vector, **ratio) for vector in vectors]
        result[f"{kind}/many"] = inf.influences(task, data, ihvps, batch_size=5)
        result[f"{kind}/one"] = inf.influence(task, data, ihvps[0], batch_size=5)
        split = inf.influence_by_module(task, data, ihvps[0])
        result |= {f"{kind}/module/{name}": value for name, value in split.items()}
    dense = inf.fit_dense(task, data, batch_size=4)
    result["dense"] = dense.blocks["all"].eigenvalues
    fitted = inf.fit_ekfac(task, data, fisher="exact")
    done = inf.solve_cg(task, data, vectors[0], fitted, damping=1.0, rtol=1e-6)
    result |= {f"cg/{name}": value for name, value in done.ihvp.items()}
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = everything() | trained() | oddly_trained()
    check_half_precision()
    if dist.get_world_size() > 1:
        check_refusals()
    if dist.get_rank() == 0:
        save_file({name: v.contiguous() for name, v in found.items()}, sys.argv[1])
    group = weakref.ref(dist.group.WORLD)
    dist.destroy_process_group()
    assert group() is None, "the process group outlives its end: its threads may abort"
