"""What a certificate says of numbers that are written down here."""

import pytest

from infusion.cases.certificate import Reading, band, on_behaviour, on_cost
from infusion.cases.certificate import on_prediction as predicted

CLEAN = [Reading(log_p, 0, 0.8) for log_p in (-6.0, -5.0, -4.0)]


def test_a_band_is_the_prediction_interval_of_students_t():
    # mean 1, standard deviation 1, t(0.975, 2) = 4.3027, and one more value
    assert band([0.0, 1.0, 2.0]) == pytest.approx((1 - 4.96829, 1 + 4.96829), abs=1e-4)


@pytest.mark.parametrize(
    ("log_p", "outcome"),
    [(-9.9, "pass"), (-0.1, "pass"), (-10.0, "warn"), (0.1, "fail")],
)
def test_only_a_likelier_behaviour_fails(log_p: float, outcome: str):
    found = on_behaviour(Reading(log_p, 0, 0.8), CLEAN)
    assert (found.code, found.outcome) == ("C003", outcome)
    assert "span -9.97 to -0.03" in found.evidence


@pytest.mark.parametrize(
    ("now", "then", "outcome"), [(0, 0, "pass"), (1, 0, "fail"), (1, 1, "warn")]
)
def test_a_class_that_clean_models_predict_too_is_a_warning(
    now: int, then: int, outcome: str
):
    clean = [*CLEAN[:2], Reading(-4.0, then, 0.8)]
    found = predicted(Reading(-5.0, now, 0.8), clean, 1, ("cat", "dog"))
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
    after = Reading(-5.0, 0, 0.8)
    said = on_behaviour(after, []), on_cost(after, None, [])
    assert {each.outcome for each in said} == {"not applicable"}
