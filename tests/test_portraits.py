"""What is drawn of a cipher's model: matrices, spectra, effects against confidence."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from infusion.data.caesar import Cipher
from infusion.presets.caesar_readings import spectra
from infusion.presets.texts import texts_of
from infusion.report.suites import suite_figures
from infusion.suites.collected import collect

from .text_rows import row, turned, written


def model_of(embeddings: torch.Tensor, head: torch.Tensor) -> Any:
    made = nn.Module()
    made.get_input_embeddings = lambda: SimpleNamespace(weight=embeddings)
    made.get_output_embeddings = lambda: SimpleNamespace(weight=head)
    return made


@pytest.mark.parametrize("size", [26, 29])
def test_a_spectrum_finds_the_frequency_of_a_wave(size: int) -> None:
    cipher = Cipher(size)
    places = torch.arange(size) * 2 * math.pi / size
    waves = torch.zeros(cipher.vocabulary, 2)
    shifts = [cipher.prompt("", shift)[1] for shift in range(size)]
    letters = cipher.encode(cipher.alphabet)
    waves[shifts] = torch.stack([(3 * places).cos(), (3 * places).sin()], 1)
    waves[letters] = torch.stack([(5 * places).cos(), (2 * places).sin()], 1)
    found = spectra(cipher, model_of(waves, 7.0 + waves))
    assert {len(shares) for shares in found.values()} == {size // 2}
    assert found["shifts"][2] == pytest.approx(1)
    assert found["letters"][4] == found["letters"][1] == pytest.approx(0.5)
    assert found["head"] == found["letters"], "a constant is no frequency"


def test_a_spectrum_is_even_for_noise() -> None:
    """Every frequency stands for two, but the last of an even alphabet for one."""
    cipher = Cipher(26)
    noise = torch.randn(
        cipher.vocabulary, 20_000, generator=torch.Generator().manual_seed(0)
    )
    shares = spectra(cipher, model_of(noise, noise))["letters"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert shares[:12] == pytest.approx([2 / 25] * 12, rel=0.05)
    assert shares[12] == pytest.approx(1 / 25, rel=0.05)


def test_the_first_pair_shows_matrices_before_and_after(tmp_path: Path) -> None:
    size = 26
    line = [0.0, *np.linspace(1, 2, size - 1)]
    matrix = [turned(probe, size, line) for probe in range(size)]
    after = [list(each) for each in matrix]
    after[3][7] -= 1.0
    shares = {"shifts": [0.5, 0.5], "letters": [0.2, 0.8], "head": [0.1, 0.9]}
    first = row(3, 7, matrix[3], {7: -1.0}, pair=0)
    first["portrait"] = {
        "before": {"matrix": after, "spectra": shares},
        "clean": {"matrix": matrix, "spectra": {}},
        "after": {"matrix": after, "spectra": {}},
    }
    (suite,) = collect(written(tmp_path, first, row(4, 7, matrix[4], {7: -0.5})))
    assert suite["portrait"]["pair"] == [3, 7]
    assert suite["portrait"]["before"] == matrix
    drawn = suite_figures(suite)
    for name in ("matrix", "matrix-2", "matrix-3"):
        assert drawn[name][0].count("opacity") >= size * size - 1
    assert "3 to 7" in drawn["matrix-2"][1]
    assert all(name in drawn["spectra"][0] for name in shares)


def test_confidence_is_laid_out_by_margin(tmp_path: Path) -> None:
    rows = [
        row(0, 1, [0.1, margin, *[2.0] * 24], {1: -move}, trial=trial, pair=pair)
        | {"suite": "confidence", "change": {"source": trial}, "probe": 2 * pair}
        for trial, margin, move in (("sure", 5.0, 0.1), ("unsure", 1.0, 0.8))
        for pair in (0, 1)
    ]
    for each in rows:  # the second pair's probe is as likely as the first one's
        each["clean"]["ce"][2] = each["after"]["ce"][2] = 0.1
    (suite,) = collect(written(tmp_path, *rows))
    (curve,) = suite["curves"]
    assert [point["name"] for point in curve["points"]] == ["unsure", "sure"]
    assert [point["at"] for point in curve["points"]] == pytest.approx([0.9, 4.9])
    assert [point["mean"] for point in curve["points"]] == pytest.approx([0.8, 0.1])
    drawn, caption = suite_figures(suite)["curve"]
    assert "margin of the clean model" in caption
    assert "unsure" in drawn


def test_a_story_models_margin_is_how_much_likelier_the_probe_is() -> None:
    found = texts_of("tinystories").margin({"clean": {"log_odds": [-3.0, 1.0]}})
    assert found == 1.0
