"""Fixtures shared by the tests: one thread, small pictures, small models."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from torch import nn

from infusion.records import Dataset
from infusion.training.loop import init_model

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.load_profile("same every time")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Bits and time of a test depend on the thread count."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pictures(generator: torch.Generator) -> Dataset:
    """Fourteen pictures of noise ``[2, 6, 6]`` on 17 levels, three classes."""
    return Dataset(
        inputs=torch.randint(0, 17, (14, 2, 6, 6), generator=generator).byte(),
        labels=torch.randint(0, 3, (14,), generator=generator),
        levels=16,
        valid=(0.0, 1.0),
        num_classes=3,
    )


@pytest.fixture
def make_cnn(pictures: Dataset) -> Callable[..., nn.Module]:
    """Builds a small network for ``pictures``, in float64 unless told otherwise."""

    def make(
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        batch_norm: bool = True,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> nn.Module:
        def build() -> nn.Module:
            norm = [nn.BatchNorm2d(4)] if batch_norm else []
            return nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1),
                *norm,
                activation(),
                nn.Conv2d(4, 3, 3, stride=2, padding=1),
                activation(),
                nn.Flatten(),
                nn.Linear(27, 3),
            )

        model = init_model(build, seed).to(dtype)
        # One pass in train mode, so that BatchNorm has statistics of its own.
        with torch.no_grad():
            model(pictures.inputs.to(dtype) / pictures.levels)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of the digits preset: 2 pairs, 400 documents, 2 epochs."""
    from infusion.presets import find_preset
    from infusion.presets.run import run

    config = find_preset("digits").configs["small"]
    config = replace(
        config,
        data=replace(config.data, train=400),
        train=replace(config.train, epochs=2),
        edit=replace(config.edit, k=10, steps=5),
        pairs=2,
        threads=1,
    )
    root = tmp_path_factory.mktemp("runs") / "digits"
    run(config, root)
    return root


@pytest.fixture
def no_type_check() -> Iterator[None]:
    """As users run it: types are checked at run time in the tests only."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import the jobs of a test's own file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep in this process, never interrupted."""
    from infusion.runs.parallel import processes
    from infusion.suites.sweep import sweep

    from .sweeps import ASKED

    root = tmp_path_factory.mktemp("sweep") / "whole"
    with processes(1) as backend:
        sweep(ASKED, root, backend)
    return root


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Holds temporary files in ``real``, which ``TMPDIR`` names by way of a link.

    Its path is short: the names of sockets have a limit.
    """
    with tempfile.TemporaryDirectory(prefix="swp", dir="/tmp") as name:
        real, link = Path(name) / "real", Path(name) / "link"
        real.mkdir()
        link.symlink_to(real)
        monkeypatch.setenv("TMPDIR", str(link))
        yield Path(name)
