"""Two processes under torchrun give the curvature and the scores of one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).parent / "sharded_worker.py"


def run(processes: int, out: Path) -> dict[str, torch.Tensor]:
    """Start the worker by torchrun and read what it wrote."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        str(WORKER),
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(out)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run(1, tmp_path_factory.mktemp("one") / "scores.safetensors")


def test_two_processes_equal_one(
    alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """An odd number of documents, so that the shares differ."""
    shared = run(2, tmp_path / "scores.safetensors")
    assert set(shared) == set(alone)
    assert len(alone) > 20
    for name, value in alone.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            shared[name], value, rtol=1e-8, atol=1e-8 * scale, msg=name
        )
