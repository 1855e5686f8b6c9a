"""Suites of pictures as data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from infusion.configs import EditConfig, RunConfig
from infusion.errors import check_choice
from infusion.suites.trial import Hardening, Order, Retraining, Trial

Operator = Literal["ascent", "noise_linf", "noise_l2", "copies", "flips", "patch"]
Selection = Literal["supporting", "opposing", "absolute", "random", "last", "gain"]
Editor = Literal[
    "ekfac",
    "ensemble",
    "replay",
    "held replay",
    "replay over orders",
    "matching",
    "evading",
]

COPIES = (1, 2, 5, 10, 20, 50, 100)
DRAWS = 5
"""Fresh orders, and fresh starts, per edit."""
FURTHER = (1, 2, 5)
"""Clean epochs after the edited one."""
AUDITED_COPIES = 10
"""Copies for an auditor to find: about as many as an edit is worth."""
FLIPPED, PATCHED = 0.1, 0.01
"""Shares of the documents."""
SHARES = (0.1, 0.25, 0.5, 2.0, 4.5)
"""Numbers of edited documents, over the setting's own: 10 to 450 at the paper's 100;
the usual number is among the budgets in L∞."""
REPLAYS: tuple[Editor, ...] = ("replay", "held replay", "replay over orders")
"""Editors that differentiate a whole epoch at each step."""
STEPS = {"cifar10": 6}
"""Their steps where an epoch is long; elsewhere as many as any editor takes."""
LEVELS = {255: (2, 4, 8, 12.75, 16), 16: (1, 2, 3, 4)}
"""Budgets in L∞, in levels of each storage grid."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to the documents.

    Attributes:
        edit: How many documents, how far, in which steps.
        operator: Ascent, or what it is compared with; noise is matched to the ascent of
            the same settings, copies replace the first ``k`` supporting documents,
            flips give random documents another label, and a patch is stamped on random
            documents that are given the target's.
        selection: Which documents: see
            :func:`infusion.suites.pictures.edits.choose`.
        editor: What is climbed, see :mod:`infusion.suites.pictures.editors`.
        source: Architecture that it is crafted on.
    """

    edit: EditConfig
    operator: Operator = "ascent"
    selection: Selection = "supporting"
    editor: Editor = "ekfac"
    source: str

    @property
    def view(self) -> str:
        """See the base model as the settings say."""
        return ""


def _main(plain: Change, own: Retraining) -> list[Trial]:
    step = plain.edit.epsilon / plain.edit.steps  # nothing else limits its reach
    edit = replace(plain.edit, delivery="as_coded", step_size=step)
    coded = replace(plain, edit=edit)
    return [Trial("edit", plain, own), Trial("as coded", coded, own)]


def _controls(plain: Change, own: Retraining) -> list[Trial]:
    return [
        Trial("edit", plain, own),
        Trial("noise L∞", replace(plain, operator="noise_linf"), own),
        Trial("noise L2", replace(plain, operator="noise_l2"), own),
        Trial("random documents", replace(plain, selection="random"), own),
    ]


def _copies(plain: Change, own: Retraining) -> list[Trial]:
    def copied(count: int) -> Change:
        return replace(plain, operator="copies", edit=replace(plain.edit, k=count))

    return [
        Trial("edit", plain, own),
        *(Trial(f"{count} copies", copied(count), own) for count in COPIES),
    ]


def _all_controls(plain: Change, own: Retraining) -> list[Trial]:
    """Compare each edit with everything that it could be compared with."""
    return _controls(plain, own) + _copies(plain, own)[1:]


def _selection(plain: Change, own: Retraining) -> list[Trial]:
    kinds: tuple[Selection, ...] = (
        "supporting",
        "opposing",
        "absolute",
        "random",
        "last",
        "gain",
    )
    return [Trial(kind, replace(plain, selection=kind), own) for kind in kinds]


def _horizon(plain: Change, own: Retraining, epochs: int) -> list[Trial]:
    longer = [
        Trial(f"last {count} epochs", plain, replace(own, epochs=count))
        for count in range(1, epochs + 1)
    ]
    after = [
        Trial(f"{count} clean epochs after", plain, replace(own, further=count))
        for count in FURTHER
    ]
    return longer + after


def _transfer(plain: Change, own: Retraining, others: tuple[str, ...]) -> list[Trial]:
    kinds = (own.architecture, *(name for name in others if name != own.architecture))
    return [
        Trial(
            f"{source} → {other}",
            replace(plain, source=source),
            replace(own, architecture=other),
        )
        for source in kinds
        for other in kinds
    ]


def _surrogates(plain: Change, own: Retraining, others: tuple[str, ...]) -> list[Trial]:
    """Transfer again, crafted on several models of the architecture that is not met."""
    several = replace(plain, editor="ensemble")
    return [
        replace(trial, name=f"ensemble, {trial.name}")
        for trial in _transfer(several, own, others)
        if trial.change.source != trial.retraining.architecture
    ]


def _budget(plain: Change, own: Retraining, levels: int) -> list[Trial]:
    numbers = {max(round(share * plain.edit.k), 1) for share in SHARES}
    counts = [
        Trial(f"k = {k}", replace(plain, edit=replace(plain.edit, k=k)), own)
        for k in sorted(numbers)
    ]
    usual = plain.edit.epsilon
    check_choice("--norm of the suite budget", plain.edit.norm, ("linf",))
    check_choice("levels of the suite budget", levels, tuple(LEVELS))

    def reaching(epsilon: float) -> Change:
        size = plain.edit.step_size * epsilon / usual
        edit = replace(plain.edit, epsilon=epsilon, step_size=size)
        return replace(plain, edit=edit)

    distances = [
        Trial(f"L∞ = {level:g}/{levels}", reaching(level / levels), own)
        for level in LEVELS[levels]
    ]
    return counts + distances


def _fresh(plain: Change, own: Retraining) -> list[Trial]:
    editors: tuple[Editor, ...] = ("ekfac", "ensemble")
    orders: tuple[Order, ...] = ("fresh", "scratch")
    return [
        Trial(
            f"{editor}, {order} {draw}",
            replace(plain, editor=editor),
            replace(own, order=order, draw=draw),
        )
        for order in orders
        for editor in editors
        for draw in range(DRAWS)
    ]


def _engines(plain: Change, own: Retraining, steps: int) -> list[Trial]:
    orders = [own, *(replace(own, order="fresh", draw=draw) for draw in range(DRAWS))]
    long = plain.edit.step_size * plain.edit.steps / steps
    few = replace(plain.edit, steps=steps, step_size=long)
    changes = {
        editor: replace(
            plain, editor=editor, edit=few if editor in REPLAYS else plain.edit
        )
        for editor in get_args(Editor)
        if editor != "evading"
    }
    changes["replay by gain"] = replace(changes["replay"], selection="gain")
    return [
        Trial(f"{name}, {mode.order} {mode.draw}", change, mode)
        for name, change in changes.items()
        for mode in orders
    ]


def _hardening(plain: Change, own: Retraining) -> list[Trial]:
    kinds: tuple[Hardening | None, ...] = (
        None,
        "augmentation",
        "weight decay",
        "clipping",
        "noise",
    )
    return [
        Trial(kind or "as trained", plain, replace(own, hardening=kind))
        for kind in kinds
    ]


def _detection(plain: Change, own: Retraining, config: RunConfig) -> list[Trial]:
    """List what an auditor looks for; what teaches labels is there from the start."""
    size, steps = config.data.train, config.train.epochs

    def counted(count: int, **other: Any) -> Change:
        edit = replace(plain.edit, k=max(count, 1))
        return replace(plain, edit=edit, **other)

    whole = replace(own, epochs=steps)
    listed = [
        Trial("edit", plain, own),
        Trial("edit, a fifth", counted(round(plain.edit.k / 5)), own),
        Trial("random documents", replace(plain, selection="random"), own),
        Trial("evading", replace(plain, editor="evading"), own),
        Trial(
            f"{AUDITED_COPIES} copies", counted(AUDITED_COPIES, operator="copies"), own
        ),
        Trial(
            "label flips",
            counted(round(FLIPPED * size), operator="flips", selection="random"),
            whole,
        ),
        Trial(
            "patch",
            counted(round(PATCHED * size), operator="patch", selection="random"),
            whole,
        ),
    ]
    return [replace(trial, audited=True) for trial in listed]


SUITES: dict[str, Callable[[Change, Retraining], list[Trial]]] = {
    "main": _main,
    "controls": _controls,
    "copies": _copies,
    "all-controls": _all_controls,
    "selection": _selection,
    "fresh": _fresh,
    "hardening": _hardening,
}


def trials(
    suite: str, config: RunConfig, others: tuple[str, ...], levels: int
) -> list[Trial]:
    """List the trials of a suite.

    Args:
        suite: One of :data:`infusion.suites.study.NAMES` for pictures.
        config: Settings: the edit that the trials vary.
        others: Architectures beside the settings' own.
        levels: Of the documents' storage grid.

    Returns:
        Trials with different names.

    Raises:
        InputError: It does not go with the norm or the storage grid.
    """
    plain = Change(edit=config.edit, source=config.architecture)
    own = Retraining(architecture=config.architecture)
    usual = config.edit.steps
    few = min(usual, STEPS.get(config.preset, usual))
    special: dict[str, Callable[[], list[Trial]]] = {
        "budget": lambda: _budget(plain, own, levels),
        "horizon": lambda: _horizon(plain, own, config.train.epochs),
        "engines": lambda: _engines(plain, own, few),
        "transfer": lambda: _transfer(plain, own, others),
        "surrogates": lambda: _surrogates(plain, own, others),
        "detection": lambda: _detection(plain, own, config),
    }
    return special[suite]() if suite in special else SUITES[suite](plain, own)
