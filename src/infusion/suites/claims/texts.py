"""Claims about language models.

Source: arXiv 2602.09987, numbered as in ``infusion claims``; the paper's figures of all
pairs are without those from a shift to itself. The paper's edits of ciphers are offsets
of embeddings. A number with t is the same claim about edits of tokens, which a corpus
can hold; with c its part about the model's confidence, with p that about the probe.
"""

import re

from infusion.presets.caesar_readings import COLUMNS as CIPHERS
from infusion.presets.texts import realised
from infusion.presets.tinystories_readings import COLUMNS as STORIES
from infusion.suites.claims.claim import NEGATIVE, POSITIVE, Bound, Claim
from infusion.suites.claims.found import CODED, PLAIN
from infusion.suites.claims.found_in_texts import (
    above,
    circulant,
    fidelity_lost,
    half_done,
    kinds_moved,
    mean_of,
    probe_gap,
    rising,
    sharing_gap,
    target_leads,
)
from infusion.suites.summary import moved

_FEW: Bound = ("high", "≤", 0.01)
_UNMOVED: Bound = ("high", "≤", 0.1)
"""Nats per token that a model may lose on what is right and stay confident: of a token
it was sure of, p falls from 1 to 0.9. The paper has no limit, and one pair."""


def _of_ciphers(trial: str, mark: str, how: str) -> list[Claim]:
    """List the claims about Caesar ciphers for one way to edit."""
    return [
        Claim(
            f"15{mark}",
            f"prime alphabet: the target's margin gains most{how}, lead over the next "
            "shift",
            "+1.37 nats, one pair",
            "main",
            target_leads(trial),
            POSITIVE,
            preset="caesar29",
        ),
        Claim(
            f"15c{mark}",
            f"prime alphabet: the model stays confident{how}, Δ CE of the right "
            "ciphertext",
            "+0.0097 nats, one pair",
            "main",
            mean_of(CIPHERS["Δ CE correct"], trial),
            _UNMOVED,
            preset="caesar29",
        ),
        Claim(
            f"17{mark}",
            f"26 letters: differences that share a factor are targeted better{how}",
            "+1.10 nats",
            "main",
            sharing_gap(26, CIPHERS["targeting"], trial),
            POSITIVE,
            preset="caesar",
        ),
        Claim(
            f"18{mark}",
            f"29 letters are targeted less well in the mean{how}: 26 less 29",
            "+0.36 nats",
            "main",
            above("caesar29", (26, 29), CIPHERS["targeting"], trial),
            POSITIVE,
            preset="caesar",
            beside=("caesar29",),
        ),
        Claim(
            f"19{mark}",
            f"26 letters: probes without a common factor resist{how}, Δ CE of the "
            "target",
            "+0.32 nats",
            "main",
            probe_gap(26, lambda row: -CIPHERS["Δ CE target"](row), trial),
            POSITIVE,
            preset="caesar",
        ),
        Claim(
            f"20{mark}",
            f"edits amplify what is half done{how}: CE before against its change "
            "(Pearson)",
            "0.359",
            "main",
            half_done(26, trial),
            POSITIVE,
            preset="caesar",
        ),
    ]


_ALL = [
    *_of_ciphers(CODED, "", ""),
    *_of_ciphers(PLAIN, "t", ", by tokens"),
    Claim(
        "16",
        "cross-entropies are circulant: share explained by the difference of shifts",
        "seen, not measured",
        "main",
        circulant,
        ("low", "≥", 0.5),
        preset="caesar",
    ),
    Claim(
        "21",
        "stories: share of pairs whose log odds rise, on held-out stories",
        "80 of 90",
        "main",
        rising(STORIES["Δ log odds"]),
        ("low", ">", 0.5),
        preset="tinystories",
    ),
    Claim(
        "22",
        "stories: Δp of the target above that of untargeted animals",
        "+0.00027",
        "main",
        mean_of(STORIES["less untargeted"]),
        POSITIVE,
        preset="tinystories",
    ),
    Claim(
        "22p",
        "stories: the probe itself rises more: Δp of the target less that of the probe",
        "−0.0021",
        "main",
        mean_of(STORIES["less probe"]),
        NEGATIVE,
        preset="tinystories",
    ),
    Claim(
        "23",
        "stories: the target seldom overtakes the probe (share of positions)",
        "0.001",
        "main",
        mean_of(STORIES["flips"]),
        _FEW,
        preset="tinystories",
    ),
    Claim(
        "24",
        "stories: few tokens change by the paper's editor, share of a document",
        "0.097",
        "main",
        mean_of(lambda row: row["reached"]["share"], CODED),
        ("high", "≤", 0.097),
        preset="tinystories",
    ),
    Claim(
        "25",
        "any differentiable measurement: how many of three kinds move",
        "by construction",
        "main",
        kinds_moved(
            {
                PLAIN: lambda row: moved(row, "log_p"),
                f"caesar: {PLAIN}": realised,
                f"tinystories: {PLAIN}": realised,
            }
        ),
        ("ours", "≥", 3.0),
        least=3,
        preset="cifar10",
        beside=("caesar", "tinystories"),
    ),
    Claim(
        "26",
        "predictions are less faithful for wider models: ρ at width 32 less at 128",
        "not measured",
        "confidence",
        fidelity_lost("edit, width 32", "edit, width 128"),
        POSITIVE,
        preset="caesar",
    ),
]
CLAIMS = sorted(_ALL, key=lambda claim: int(re.findall(r"\d+", claim.number)[0]))
