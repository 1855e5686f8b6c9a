"""Claims about language models.

Source: arXiv 2602.09987, claims 15 to 26.
"""

from infusion.presets.caesar_readings import COLUMNS as CIPHERS
from infusion.presets.tinystories import COLUMNS as STORIES
from infusion.suites.claims.claim import POSITIVE, Bound, Claim
from infusion.suites.claims.found import PLAIN
from infusion.suites.claims.found_in_texts import (
    above,
    circulant,
    fidelity_lost,
    gap,
    half_done,
    kinds_moved,
    probe_shares_a_factor,
    read,
    shares_a_factor,
    target_leads,
)
from infusion.suites.summary import moved

_FEW: Bound = ("high", "≤", 0.01)
CLAIMS = [
    Claim(
        "15",
        "prime alphabet: the target's margin gains most, lead over the next shift",
        "+1.37 nats, one pair",
        "main",
        target_leads,
        POSITIVE,
        preset="caesar29",
    ),
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
        "17",
        "26 letters: differences that share a factor are targeted better",
        "+1.06 nats",
        "main",
        gap(CIPHERS["targeting"], shares_a_factor(26), of_probes=False),
        POSITIVE,
        preset="caesar",
    ),
    Claim(
        "18",
        "29 letters are targeted less well: 26 less 29",
        "+0.36 nats",
        "main",
        above("caesar29", CIPHERS["targeting"]),
        POSITIVE,
        preset="caesar",
        beside=("caesar29",),
    ),
    Claim(
        "19",
        "26 letters: probes without a common factor resist, Δ CE of the target",
        "+0.32 nats",
        "main",
        gap(
            lambda row: -CIPHERS["Δ CE target"](row),
            probe_shares_a_factor(26),
            of_probes=True,
        ),
        POSITIVE,
        preset="caesar",
    ),
    Claim(
        "20",
        "edits amplify what is half done: CE before against its change",
        "0.36 and 0.65",
        "main",
        half_done,
        POSITIVE,
        preset="caesar",
    ),
    Claim(
        "21",
        "stories: log odds of the target rise on held-out stories",
        "on 89 of 99 pairs",
        "main",
        read(STORIES["Δ log odds"]),
        POSITIVE,
        preset="tinystories",
    ),
    Claim(
        "22",
        "stories: Δp of the target above that of untargeted animals",
        "+0.00027",
        "main",
        read(STORIES["less untargeted"]),
        POSITIVE,
        preset="tinystories",
    ),
    Claim(
        "23",
        "stories: the target seldom overtakes the probe (share of positions)",
        "0.001",
        "main",
        read(STORIES["flips"]),
        _FEW,
        preset="tinystories",
    ),
    Claim(
        "24",
        "stories: few tokens change per document",
        "19.1",
        "main",
        read(lambda row: row["reached"]["tokens"]),
        ("high", "≤", 19.1),
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
                f"caesar: {PLAIN}": CIPHERS["targeting"],
                f"tinystories: {PLAIN}": STORIES["Δ log odds"],
            }
        ),
        ("ours", "≥", 3.0),
        least=3,
        preset="cifar10",
        beside=("caesar", "tinystories"),
    ),
    Claim(
        "26",
        "predictions are less faithful for wider models: ρ at width 32 less at 192",
        "not measured",
        "confidence",
        fidelity_lost("edit, width 32", "edit, width 192"),
        POSITIVE,
        preset="caesar",
    ),
]
