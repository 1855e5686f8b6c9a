"""What an audit flags, unless told otherwise: detectors, and thresholds on their sum.

Chosen on one half of the pairs and base models in ``results/``, and reported on the
other, see ``infusion claims``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A question that an auditor asks of every document.

    Attributes:
        code: Of its finding.
        title: What it looks for.
        detectors: Whose standardised scores are added.
        threshold: On the sum.
        expected: Share of clean documents above it, at most.
        told: Whether it needs a reported behaviour.
    """

    code: str
    title: str
    detectors: tuple[str, ...]
    threshold: float
    expected: float
    told: bool = False


RULES = (
    Rule("A101", "changed pixels", ("noise residual", "quiet directions"), 7.0, 0.003),
    Rule("A102", "wrong labels", ("deep k-NN",), 1.5, 0.001),
    Rule(
        "A103",
        "drives the behaviour",
        ("gradient isolation", "relative influence"),
        4.0,
        0.003,
        told=True,
    ),
    Rule("A104", "unlikely tokens", ("self-influence", "surprisal"), 4.0, 0.003),
    Rule("A105", "rare values", ("rare values",), 2.0, 0.002),
    Rule("A106", "shared pattern", ("shared pattern",), 3.5, 0.001, told=True),
    Rule(
        "A107",
        "unlikely tokens that drive the behaviour",
        ("relative influence", "surprisal"),
        4.0,
        0.003,
        told=True,
    ),
)


def rules(told: bool) -> list[Rule]:
    """List the rules that apply.

    Args:
        told: Whether a behaviour was reported.

    Returns:
        Them.
    """
    return [rule for rule in RULES if told or not rule.told]
