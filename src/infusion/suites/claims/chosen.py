"""What the rows choose an audit to ship with, on one half; claims report the other."""

from dataclasses import dataclass

from infusion.audit.detectors import DETECTORS
from infusion.audit.shipped import Rule
from infusion.audit.suspicion import is_told
from infusion.errors import InputError
from infusion.suites.detection import CUTS
from infusion.suites.summary import Row

_PICTURES, _TEXTS = ("cifar10", "digits"), ("caesar", "tinystories")


@dataclass(frozen=True)
class Purpose:
    """What a rule is to find.

    Attributes:
        trial: Whose changed documents.
        presets: Where; all that have rows of the trial count alike.
        among: Detectors of which one must take part.
        clean: Presets of whose clean documents it may flag few, where it has something
            to read.
        without: A detector that takes no part, as another rule has it.
    """

    trial: str
    presets: tuple[str, ...]
    among: tuple[str, ...] = DETECTORS
    clean: tuple[str, ...] = _PICTURES
    without: str = ""


_FIRST = 0
"""Seed of the base model that rules are chosen on."""
PURPOSES = {
    "A101": Purpose("edit", ("cifar10",), ("noise residual", "quiet directions")),
    "A102": Purpose("label flips", _PICTURES),
    "A103": Purpose(
        "patch",
        _PICTURES,
        ("relative influence",),
        clean=_PICTURES + _TEXTS,
        without="shared pattern",
    ),
    "A104": Purpose("edit", _TEXTS, ("surprisal",), clean=_TEXTS),
    "A105": Purpose("edit", ("digits",), ("rare values",)),
    "A106": Purpose("patch", _PICTURES, ("shared pattern",)),
    "A107": Purpose("edit", _TEXTS, ("relative influence",), clean=_TEXTS),
}
"""By the code of the rule."""


def chosen_on(rows: list[Row]) -> list[Row]:
    """Take the half that rules are chosen on.

    Args:
        rows: Of any trials.

    Returns:
        Even pairs of the base model of seed 0.
    """
    return [row for row in rows if row["seed"] == _FIRST and row["pair"] % 2 == 0]


def held_out(rows: list[Row]) -> list[Row]:
    """Take the half that rules are reported on.

    Args:
        rows: Of any trials.

    Returns:
        Odd pairs of all other base models.
    """
    return [row for row in rows if row["seed"] != _FIRST and row["pair"] % 2 == 1]


def chosen(rule: Rule, rows: dict[str, list[Row]]) -> tuple[tuple[str, ...], float]:
    """Choose detectors and threshold of a rule.

    Of all detectors, and all two that were tried together, and all thresholds that flag
    no more than the rule's share of clean documents, whatever the preset and training
    (but where nothing was reported to a detector that needs it):
    those that flag the largest share of the changed ones, averaged over presets; the
    higher area under the curve decides between equals, then the lower threshold.

    Args:
        rule: Whose purpose, report and share are kept.
        rows: Of the suite detection, by preset.

    Returns:
        Names of detectors, and the threshold.

    Raises:
        InputError: No row says anything of its purpose, or no rule flags so few.
    """
    purpose = PURPOSES[rule.code]
    groups: dict[tuple[str, str], list[Row]] = {}
    for preset in purpose.clean:
        for row in chosen_on(rows.get(preset, [])):
            groups.setdefault((preset, row["trial"]), []).append(row)
    changed = [
        half
        for (preset, trial), half in groups.items()
        if trial == purpose.trial and preset in purpose.presets
    ]
    if not changed:
        raise InputError(
            f"rule {rule.code} is chosen on rows of {purpose.trial!r} of "
            f"{' or '.join(purpose.presets)}, got none; run their suite detection"
        )
    ranked = []
    for joined in _found(changed[0][0]):
        names = tuple(joined.split(" + "))
        fits = set(names) & set(purpose.among) and purpose.without not in names
        fits = fits and (rule.told or not is_told(names))
        read = [half for half in groups.values() if joined in _found(half[0])]
        whole = all(half in read for half in changed) and all(
            joined in _found(row) for half in read for row in half
        )
        if not fits or not whole:
            continue
        for place, cut in enumerate(CUTS):
            clean = [_share(half, joined, "clean", place) for half in read]
            if max(clean) <= rule.expected:
                hits = [_share(half, joined, "hits", place) for half in changed]
                areas = [_area(half, joined) for half in changed]
                ranked.append((sum(hits), sum(areas), -cut, names))
    if not ranked:
        raise InputError(
            f"a rule must flag at most {rule.expected:.1%} of clean documents, got "
            f"no such rule for {rule.code}; try higher thresholds"
        )
    *_, cut, names = max(ranked)
    return names, -cut


def _found(row: Row) -> Row:
    return row["audit"]["found"]


def _share(rows: list[Row], joined: str, kind: str, place: int) -> float:
    whole = "documents" if kind == "clean" else "edited"
    said = [_found(r)[joined][kind][place] / r["audit"][whole] for r in rows]
    return sum(said) / len(said)


def _area(rows: list[Row], joined: str) -> float:
    return sum(_found(row)[joined]["auroc"] for row in rows) / len(rows)
