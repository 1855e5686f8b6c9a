"""Jobs that need a GPU, on a Ray of their own: a process has only one at a time."""

import os
from pathlib import Path

import pytest

from infusion.runs import cluster as cluster_module
from infusion.runs.cluster import on_ray
from infusion.runs.parallel import Engine, Work


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import the jobs of this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))


def used_gpus() -> list[str]:
    return [os.environ.get("CUDA_VISIBLE_DEVICES", "")]


def test_each_job_of_a_gpu_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch):
    """Ray counts GPUs that it is told of; nothing is computed on them here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(cluster_module, "GPUS", 2)
    found: list[str] = []
    with on_ray(None, 2, gpus=1) as backend:
        assert backend.slots == 2
        works = [Work("stage", used_gpus, (), found.extend) for _ in range(4)]
        assert Engine(backend)("gpus", works) == []
    assert set(found) <= {"0", "1"}
    assert len(found) == 4
