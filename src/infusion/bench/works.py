"""What is measured: the rows, the sizes and the goals. Does not import torch."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from infusion.errors import InputError, check_whole

OURS = "infusion"
PEERS = {
    "kronfluence": ("kronfluence", "1.0.1"),
    "curvlinops": ("curvlinops-for-pytorch", "3.0.1"),
}
"""Contender to distribution and the version that the goals were set against."""

PIP = (
    "pip install --no-deps kronfluence==1.0.1 accelerate==1.15.0 "
    "curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1 einconv==0.1.0 "
    "unfoldNd==0.2.3 einops opt-einsum linear_operator psutil"
)
"""Both peers ask for torchvision, which must not enter: hence ``--no-deps``."""

DAMPING_RATIO = 0.1
LOW_DAMPING = 1e-8

Stage = Literal["fit", "scores", "shares"]


@dataclass(frozen=True)
class Work:
    """One row per contender and thread count.

    Attributes:
        name: As in ``--works``.
        title: What is timed.
        setting: Model and documents, see ``models.settings``.
        stage: ``"fit"`` the curvature, ``"scores"`` from measurement to influence, or
            ``"shares"``, fits on ever fewer documents.
        measurements: Scored at once.
        contenders: Who offers it.
        goal: Time ratio wanted against kronfluence on one thread, full sizes.
    """

    name: str
    title: str
    setting: str
    stage: Stage
    measurements: int
    contenders: tuple[str, ...]
    goal: float


EVERYONE = (OURS, *PEERS)
SCORERS = (OURS, "kronfluence")  # curvlinops has inverses, but no scores
WORKS = {
    work.name: work
    for work in (
        Work("fit-resnet", "fit EK-FAC", "resnet", "fit", 1, EVERYONE, 3.5),
        Work("fit-mlp", "fit EK-FAC", "mlp", "fit", 1, EVERYONE, 30.0),
        Work("fit-transformer", "fit EK-FAC", "transformer", "fit", 1, EVERYONE, 3.0),
        Work("one", "influence of 1 measurement", "resnet", "scores", 1, SCORERS, 4.0),
        Work(
            "hundred",
            "influence of 100 measurements",
            "resnet",
            "scores",
            100,
            SCORERS,
            3.5,
        ),
        Work(
            "share",
            "fit EK-FAC on the smallest share with Spearman ≥ 0.99",
            "resnet",
            "shares",
            10,
            (OURS,),
            15.0,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The flags of ``infusion bench``.

    Attributes:
        data: CIFAR-10 for the TinyResNet; ``None`` takes random pixels.
        threads: Thread counts, e.g. ``"1,2"``.
        rounds: Runs of every contender; medians are reported.
        small: Shrink every size, to see that it runs.
        works: Names of ``WORKS``, comma-separated; ``None`` is all.
        contenders: Peers to run beside this package, comma-separated.
        channels_last: Memory layout of convolutions, for every contender; that of the
            presets unless switched off.
        out: Where the rows go.
    """

    data: str | None = None
    threads: str = "1,2"
    rounds: int = 3
    small: bool = False
    works: str | None = None
    contenders: str = ",".join(PEERS)
    channels_last: bool = True
    out: Path = field(default=Path("results/bench.json"))

    def thread_counts(self) -> list[int]:
        """Return the thread counts as numbers.

        Returns:
            At least one.

        Raises:
            InputError: They are not positive whole numbers.
        """
        parts = self.threads.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise InputError(
                "--threads must be positive whole numbers with commas between them, "
                f"got {self.threads!r}; try --threads 1,2"
            )
        return [int(part) for part in parts]

    def __post_init__(self) -> None:
        """Refuse a number of rounds that measures nothing.

        Raises:
            InputError: It is not positive.
        """
        check_whole("--rounds", self.rounds)

    def chosen_works(self) -> list[Work]:
        """Return the works to run, in the order of ``WORKS``.

        Returns:
            At least one.

        Raises:
            InputError: A name is none of them.
        """
        names = _listed("--works", self.works, tuple(WORKS))
        return [work for name, work in WORKS.items() if name in names]

    def chosen_contenders(self) -> list[str]:
        """Return this package and the peers to run beside it.

        Returns:
            This package first.

        Raises:
            InputError: A name is none of the peers.
        """
        names = _listed("--contenders", self.contenders, EVERYONE)
        return [OURS, *(peer for peer in PEERS if peer in names)]


def _listed(flag: str, given: str | None, choices: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return choices
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    wrong = [name for name in names if name not in choices]
    if wrong or not names:
        raise InputError(
            f"{flag} must be some of {', '.join(choices)} with commas between them, "
            f"got {given!r}; drop {', '.join(wrong) or 'the flag'}"
        )
    return names


def missing(contender: str) -> str | None:
    """Say what is wrong with a peer's installation.

    Args:
        contender: This package or one of ``PEERS``.

    Returns:
        ``None`` where it can run, else what to install.
    """
    if contender == OURS:
        return None
    distribution, wanted = PEERS[contender]
    try:
        got = version(distribution)
    except PackageNotFoundError:
        return f"{distribution} {wanted} is not installed; {PIP}"
    if got != wanted:
        return f"{distribution} must be {wanted}, got {got}; {PIP}"
    return None
