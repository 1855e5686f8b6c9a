"""Suites of texts as data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from infusion.configs import EditConfig, RunConfig, TokenConfig
from infusion.errors import InputError
from infusion.presets.texts import CODED, ONE
from infusion.suites.trial import Retraining, Trial

Operator = Literal[
    "tokens",
    "substitution",
    "coded tokens",
    "embeddings",
    "noise_linf",
    "noise_l2",
    "random tokens",
    "demonstrations",
    "evading",
]
OFFSETS: tuple[Operator, ...] = ("embeddings", "noise_linf", "noise_l2")
"""Those that move embeddings, which no corpus can hold."""
Selection = Literal["supporting", "random"]

SHOWN = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of demonstrations."""
FEW = 5
"""Demonstrations beside every edit."""
AUDITED = 10
"""Demonstrations for an auditor to find."""
SEARCHED = 64
"""Substitutions checked at a time where most are too surprising."""
DRAWS = 5
"""Fresh orders per edit."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to the documents.

    Attributes:
        tokens: How tokens are changed.
        edit: How many documents, and how embeddings are changed.
        operator: Ascent over relaxed tokens, greedy substitution, either as the paper's
            code has it, or what they are compared with: noise as large as the offsets
            of the same settings, as many random tokens as the ascent changes,
            demonstrations in place of the first ``edit.k`` supporting documents, and
            substitution that leaves no document more surprising than most.
        selection: Which documents.
        source: Base model that it is crafted on.
        view: How that is seen: curvature and measurement.
    """

    tokens: TokenConfig
    edit: EditConfig
    operator: Operator = "tokens"
    selection: Selection = "supporting"
    source: str
    view: str = ""


@dataclass(frozen=True)
class Coded:
    """How the paper's code edits texts.

    Attributes:
        editor: Its editor.
        source: Base model trained as its own, where the settings' is not.
    """

    editor: Operator
    source: str | None = None


def _main(plain: Change, own: Retraining, coded: Coded) -> list[Trial]:
    shown = replace(plain, operator="demonstrations", edit=replace(plain.edit, k=FEW))
    return [
        Trial("edit", plain, own, portrait=True),
        Trial(CODED, replace(plain, operator=coded.editor, view=CODED), own),
        Trial("random tokens", replace(plain, operator="random tokens"), own),
        Trial("random documents", replace(plain, selection="random"), own),
        Trial(f"{FEW} demonstrations", shown, own),
    ]


def _copies(plain: Change, own: Retraining, _: Coded) -> list[Trial]:
    def shown(count: int) -> Change:
        edit = replace(plain.edit, k=count)
        return replace(plain, operator="demonstrations", edit=edit)

    return [
        Trial("edit", plain, own),
        *(Trial(f"{count} demonstrations", shown(count), own) for count in SHOWN),
    ]


def _editors(plain: Change, own: Retraining, coded: Coded) -> list[Trial]:
    listed = [
        Trial("edit", plain, own),
        Trial("substitution", replace(plain, operator="substitution"), own),
        Trial(ONE, replace(plain, view=ONE), own),
        Trial("embeddings", replace(plain, operator="embeddings"), own),
        Trial("noise L∞", replace(plain, operator="noise_linf"), own),
        Trial("noise L2", replace(plain, operator="noise_l2"), own),
    ]
    if coded.source is None:
        return listed
    change = replace(plain, operator=coded.editor, view=CODED, source=coded.source)
    trained = replace(own, architecture=coded.source)
    return [*listed, Trial(f"{CODED}, {coded.source}", change, trained)]


def _fresh(plain: Change, own: Retraining, _: Coded) -> list[Trial]:
    return [
        Trial(f"edit, fresh {draw}", plain, replace(own, order="fresh", draw=draw))
        for draw in range(DRAWS)
    ]


def _detection(plain: Change, own: Retraining, _: Coded) -> list[Trial]:
    """List what an auditor looks for."""

    def counted(count: int) -> Change:
        return replace(plain, edit=replace(plain.edit, k=max(count, 1)))

    shown = replace(counted(AUDITED), operator="demonstrations")
    tokens = replace(plain.tokens, candidates=SEARCHED)
    evading = replace(plain, operator="evading", tokens=tokens)
    listed = [
        Trial("edit", plain, own),
        Trial("edit, a fifth", counted(round(plain.edit.k / 5)), own),
        Trial("random documents", replace(plain, selection="random"), own),
        Trial("evading", evading, own),
        Trial(f"{AUDITED} demonstrations", shown, own),
    ]
    return [replace(trial, audited=True) for trial in listed]


SUITES: dict[str, Callable[[Change, Retraining, Coded], list[Trial]]] = {
    "main": _main,
    "copies": _copies,
    "editors": _editors,
    "fresh": _fresh,
    "detection": _detection,
}


def trials(
    suite: str, config: RunConfig, others: tuple[str, ...], coded: Coded
) -> list[Trial]:
    """List the trials of a suite.

    Args:
        suite: One of :data:`infusion.suites.study.NAMES` for texts.
        config: Settings: the edit that the trials vary.
        others: Base models beside the settings' own, of other confidence.
        coded: How the paper's code edits.

    Returns:
        Trials with different names.

    Raises:
        InputError: The preset has no models for it.
    """
    tokens = config.tokens or TokenConfig(changes=1)  # refused before anything is done
    plain = Change(tokens=tokens, edit=config.edit, source=config.architecture)
    own = Retraining(architecture=config.architecture)
    if suite == "confidence":
        if not others:
            raise InputError(
                "the suite confidence needs other base models, got none in the preset "
                f"{config.preset}; run it with caesar or caesar29"
            )
        return [
            Trial(
                f"edit, {name}",
                replace(plain, source=name),
                replace(own, architecture=name),
            )
            for name in dict.fromkeys((config.architecture, *others))
        ]
    return SUITES[suite](plain, own, coded)
