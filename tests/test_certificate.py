"""What a certificate says of numbers that are written down here."""

import math

import pytest

from infusion.audit.findings import verdict
from infusion.cases.certificate import Reading, band, on_behaviour, on_cost
from infusion.cases.certificate import on_prediction as predicted


def reading(log_odds: float, predicted: int = 0) -> Reading:
    return Reading(-math.log1p(math.exp(-log_odds)), predicted, 0.8)


CLEAN = [reading(log_odds) for log_odds in (-2.0, -1.0, 0.0)]


def test_a_band_is_the_prediction_interval_of_students_t():
    # mean 1, standard deviation 1, t(0.975, 2) = 4.3027, and one more value
    assert band([0.0, 1.0, 2.0]) == pytest.approx((1 - 4.96829, 1 + 4.96829), abs=1e-4)


@pytest.mark.parametrize(
    ("log_odds", "outcome"),
    [(-5.9, "pass"), (3.9, "pass"), (-6.0, "warn"), (4.0, "fail")],
)
def test_only_a_likelier_behaviour_fails(log_odds: float, outcome: str):
    found = on_behaviour(reading(5.0), reading(log_odds), None, CLEAN)
    assert (found.code, found.outcome) == ("C003", outcome)
    assert f"class {log_odds:+.2f}, +5.00 as given" in found.evidence
    assert "lies in -5.97 to +3.97, 95 of 100" in found.evidence


@pytest.mark.parametrize(
    ("log_odds", "outcome"),
    [(-0.9, "pass"), (8.9, "pass"), (-1.0, "warn"), (9.0, "fail")],
)
def test_a_replay_in_the_same_order_is_the_middle(log_odds: float, outcome: str):
    found = on_behaviour(reading(9.5), reading(log_odds), reading(4.0), CLEAN)
    assert found.outcome == outcome
    assert "+4.00 for the clean rows in the same order, and -0.97 to" in found.evidence


def test_a_certain_model_has_finite_log_odds():
    assert 15 < Reading(0.0, 0, 0.8).log_odds < 17
    assert Reading(-1e3, 0, 0.8).log_odds == pytest.approx(-1e3)


@pytest.mark.parametrize(
    ("now", "then", "outcome"), [(0, 0, "pass"), (1, 0, "fail"), (1, 1, "warn")]
)
def test_a_class_that_clean_models_predict_too_is_a_warning(
    now: int, then: int, outcome: str
):
    clean = [*CLEAN[:2], reading(0.0, then)]
    found = predicted(reading(-1.0, now), clean, 1, ("cat", "dog"))
    assert (found.code, found.outcome) == ("C004", outcome)


@pytest.mark.parametrize(
    ("accuracy", "outcome"), [(0.797, "pass"), (0.796, "warn"), (0.78, "fail")]
)
def test_accuracy_is_compared_in_one_order(accuracy: float, outcome: str):
    after, replay = Reading(-5.0, 0, accuracy), Reading(-5.0, 0, 0.8)
    assert on_cost(after, replay, CLEAN).outcome == outcome


def test_accuracy_without_a_replay_is_compared_with_the_band():
    clean = [Reading(-5.0, 0, value) for value in (0.79, 0.80, 0.81)]
    low, _ = band([0.79, 0.80, 0.81])
    assert on_cost(Reading(-5.0, 0, low + 1e-6), None, clean).outcome == "pass"
    assert on_cost(Reading(-5.0, 0, low - 1e-6), None, clean).outcome == "fail"


def test_without_clean_seeds_nothing_is_certified():
    after, names = reading(-5.0), ("cat", "dog")
    said = [
        on_behaviour(after, after, None, []),
        predicted(after, [], 1, names),
        on_cost(after, None, []),
    ]
    assert {each.outcome for each in said} == {"not applicable"}
    assert verdict(said) == "skipped"
    assert predicted(reading(-5.0, 1), [], 1, names).outcome == "fail"
