"""Jobs that need a GPU, on a Ray of their own: a process has only one at a time."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infusion.presets import find_preset
from infusion.presets.context import Pair
from infusion.runs import cluster as cluster_module
from infusion.runs.cluster import on_ray
from infusion.runs.parallel import Engine, Work
from infusion.suites.crafting import craft
from infusion.suites.detection import audit_clean
from infusion.suites.retrainings import replay
from infusion.suites.stages import score
from infusion.suites.study import study_of
from infusion.suites.subjects import Home
from infusion.suites.trial_rows import measured

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture
def tf32() -> Iterator[None]:
    """Let a GPU round products to ten bits, as PyTorch does until it is told."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [each.allow_tf32 for each in flags]
    for each in flags:
        each.allow_tf32 = True
    yield
    for each, value in zip(flags, before, strict=True):
        each.allow_tf32 = value


def place_of_job() -> tuple[str, int]:
    return os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid()


def test_each_job_of_a_gpu_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch):
    """Ray counts GPUs that it is told of; nothing is computed on them here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(cluster_module, "GPUS", 2)
    found: list[tuple[str, int]] = []
    with on_ray(None, 2, gpus=1) as backend:
        assert backend.slots == 2
        works = [Work("stage", place_of_job, (), found.append) for _ in range(8)]
        assert Engine(backend)("gpus", works) == []
    assert {gpu for gpu, _ in found} <= {"0", "1"}
    assert len(found) == 8
    assert len({worker for _, worker in found}) < 8, "workers must be kept"


def jobs_of(home: Home) -> dict[str, Callable[[], Any]]:
    """Every job of a suite on the first pair, whatever it would compute."""
    run = home.run(home.config.architecture)
    trial = study_of(run).trials("main", run)[0]
    pair = Pair(index=0, probe=0, label=0, target=1)
    return {
        "score": lambda: score(home, [pair], home.config.architecture, ""),
        "craft": lambda: craft(home, [pair], [trial.change]),
        "audit": lambda: audit_clean(home, [(pair, trial)]),
        "replay": lambda: replay(home, [trial.retraining]),
        "retrain": lambda: measured(home, [(pair, trial)]),
    }


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("name", ["score", "craft", "audit", "replay", "retrain"])
def test_each_job_computes_in_whole_float32_wherever_it_runs(name: str, tmp_path: Path):
    """A worker is a process in which nothing else has turned TF32 off."""
    config = replace(find_preset("digits").configs["small"], device="cuda")
    job = jobs_of(Home(tmp_path, config))[name]
    with pytest.raises(
        (OSError, RuntimeError, AssertionError)
    ):  # no GPU, no base model
        job()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
