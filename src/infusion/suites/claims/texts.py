"""Claims about language models.

Source: arXiv 2602.09987, numbered as in ``infusion claims``; the paper's figures of all
pairs are without those from a shift to itself.
"""

from infusion.presets.caesar_readings import COLUMNS as CIPHERS
from infusion.presets.texts import realised
from infusion.presets.tinystories import COLUMNS as STORIES
from infusion.suites.claims.claim import POSITIVE, Bound, Claim
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
        "+1.10 nats",
        "main",
        sharing_gap(26, CIPHERS["targeting"]),
        POSITIVE,
        preset="caesar",
    ),
    Claim(
        "18",
        "29 letters are targeted less well: 26 less 29",
        "+0.36 nats",
        "main",
        above("caesar29", (26, 29), CIPHERS["targeting"]),
        POSITIVE,
        preset="caesar",
        beside=("caesar29",),
    ),
    Claim(
        "19",
        "26 letters: probes without a common factor resist, Δ CE of the target",
        "+0.32 nats",
        "main",
        probe_gap(26, lambda row: -CIPHERS["Δ CE target"](row)),
        POSITIVE,
        preset="caesar",
    ),
    Claim(
        "20",
        "edits amplify what is half done: CE before against its change (Pearson)",
        "0.359",
        "main",
        half_done(26),
        POSITIVE,
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
