"""The doctor's prediction: exact where stages are what they are said to be sums of."""

from dataclasses import replace

import pytest

from infusion.errors import InputError
from infusion.presets import find_preset
from infusion.presets.cost import (
    PAIRS,
    TERMS,
    Rehearsal,
    Size,
    extrapolate,
    predict,
    size_of,
)

from .test_suites import tiny

WHOLE = Size(documents=10_000, epochs=10, pairs=30)
SIZES = [Size(1_000, 2, 2), Size(1_000, 2, 6), Size(2_000, 2, 6)]


def true(size: Size) -> dict[str, float]:
    n, e, p = size.documents, size.epochs, size.pairs
    return {
        "train": 1.5 + 2e-3 * n * e,
        "clean accuracy": 0.7 * e,
        "curvature": 4 + 1e-3 * n,
        PAIRS: 12 + 3.5 * p + 5e-4 * p * n,
    }


def test_sums_of_the_terms_are_found_again() -> None:
    made = [Rehearsal(s, true(s), 10**8 + 500 * s.documents) for s in SIZES]
    found = extrapolate(made, WHOLE)
    assert found.seconds == pytest.approx(true(WHOLE))
    assert found.total == pytest.approx(sum(true(WHOLE).values()))
    assert found.peak == pytest.approx(10**8 + 500 * WHOLE.documents)


def test_no_term_is_negative() -> None:
    """A stage that seemed to shrink with documents by noise does not go below zero."""
    made = [
        Rehearsal(s, dict.fromkeys(TERMS, 9 - s.documents / 500), 10**8) for s in SIZES
    ]
    assert all(seconds >= 0 for seconds in extrapolate(made, WHOLE).seconds.values())


def test_pairs_are_done_several_at_a_time() -> None:
    config = replace(find_preset("digits").configs["small"], pairs=5, threads=4)
    assert size_of(config).pairs == 8


def test_a_run_is_rehearsed() -> None:
    config = replace(tiny(3), threads=1)
    config = replace(config, train=replace(config.train, epochs=3))
    found = predict(config)
    assert found.size == Size(config.data.train, 3, 3)
    assert [each.size.pairs for each in found.rehearsals] == [1, 2, 2]
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.total > max(each.seconds["train"] for each in found.rehearsals)
    assert 2**27 < found.peak < 2**33


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"base": "elsewhere"}, "with a --base; just run it"),
        ({"pairs": 0}, "pairs must be"),
        ({"threads": 0}, "--threads must be a whole number"),
        ({"pairs": 1}, "measure at least 2 pairs, got .* and 1 pairs"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        predict(replace(tiny(2), **wrong))  # pyright: ignore[reportArgumentType]


def test_a_run_as_small_as_a_rehearsal_is_refused() -> None:
    config = tiny(2)
    fewer = replace(config, data=replace(config.data, train=3 * config.edit.k))
    with pytest.raises(InputError, match="must train 2 epochs or more on at least"):
        predict(fewer)
