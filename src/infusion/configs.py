"""Every knob on one page. This module does not import torch."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Fisher = Literal["exact", "sampled", "empirical"]
Ascent = Literal["sign", "raw"]
Delivery = Literal["realisable", "as_coded"]
FittedKind = Literal["identity", "diagonal", "kfac", "ekfac"]
Arm = Literal[
    "edit",
    "clean_replay",
    "noise_linf",
    "noise_l2",
    "random_documents",
    "copies_1",
    "copies_5",
]
ARMS: tuple[Arm, ...] = (
    "edit",
    "clean_replay",
    "noise_linf",
    "noise_l2",
    "random_documents",
    "copies_1",
    "copies_5",
)
CONTROLS: tuple[Arm, ...] = ARMS[1:]
LATER = {"later": True}
"""Marks a setting that came after results were stored: at its default it is left out of
what they are kept by, so that they stay what they were."""


def as_plain(config: Any) -> dict[str, Any]:
    """Write settings as JSON values.

    Args:
        config: A dataclass of settings.

    Returns:
        Settings by name, without those marked ``LATER`` that are at their default.
    """
    found: dict[str, Any] = {}
    for setting in fields(config):
        value = getattr(config, setting.name)
        if not (setting.metadata.get("later") and value == setting.default):
            found[setting.name] = as_plain(value) if is_dataclass(value) else value
    return found


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the documents come from and how they are split.

    Attributes:
        source: ``"bundled"`` for the digits that come with scikit-learn, else a folder
            of parquet files, an image folder, or the name of a hub dataset.
        train: Documents to train on; the rest of the training split is left alone.
        split_seed: Seed of the permutation that chooses them, or of their generator.
        length: Tokens of a row of text.
        noise: Standard deviation of the shift of each letter of a Caesar cipher.
        tokenizer: ``"trained"`` on the documents, or a folder or name on the hub.
    """

    source: str
    train: int
    split_seed: int
    length: int = field(default=0, metadata=LATER)
    noise: float = field(default=0.0, metadata=LATER)
    tokenizer: str = field(default="", metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training recipe, used for the base model and for every retrain of it.

    Attributes:
        epochs: Passes over the training documents.
        batch_size: Documents per step; the last batch may be smaller.
        optimiser: Plain SGD, Adam, or Adam with decoupled weight decay.
        lr: Learning rate, its largest where a schedule changes it.
        momentum: SGD only.
        weight_decay: As the optimiser defines it.
        milestones: Epochs after which the learning rate is multiplied by ``gamma``.
        gamma: See ``milestones``.
        order: ``"fixed"`` reuses one permutation every epoch, as the paper does;
            ``"fresh"`` draws one per epoch.
        channels_last: Memory layout of convolutions on a CPU, where it is faster.
        clip: Largest norm of a step's gradient; ``None`` for no limit.
        noise: Standard deviation of normal noise on every document, in values.
        shift: Pixels by which pictures are moved at random, zeros follow.
        flip: Whether every second picture is mirrored at random.
        betas: Adam's, of its two running means.
        schedule: ``"steps"`` changes the learning rate after ``milestones`` only;
            ``"cycle"`` raises it for ``warmup`` steps from a 25th and lowers it along a
            cosine to nearly nothing at the end of the last epoch.
        warmup: See ``schedule``.
    """

    epochs: int
    batch_size: int
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    order: Literal["fixed", "fresh"] = "fresh"
    channels_last: bool = True
    clip: float | None = None
    noise: float = 0.0
    shift: int = 0
    flip: bool = False
    betas: tuple[float, float] = field(default=(0.9, 0.999), metadata=LATER)
    schedule: Literal["steps", "cycle"] = field(default="steps", metadata=LATER)
    warmup: int = field(default=0, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class CurvatureConfig:
    """EK-FAC and its damping.

    Attributes:
        fisher: Which second moment of gradients to fit.
        damping: Absolute ``λ``, in nats per squared parameter; or
        damping_ratio: ``λ`` over each layer's mean eigenvalue. Exactly one is given.
        batch_size: Documents held at once.
        skip: Module types or names left out of the curvature.
    """

    fisher: Fisher = "sampled"
    damping: float | None = None
    damping_ratio: float | None = None
    batch_size: int = 64
    skip: tuple[str, ...] = ("BatchNorm2d",)


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """Which documents are edited, how far, and how the edit is stored.

    Attributes:
        k: Documents to edit.
        norm: Norm of the budget.
        epsilon: Budget in values, e.g. ``8/255``; at most this much is used.
        steps: Ascent steps.
        step_size: In values.
        ascent: Sign of the gradient, or the gradient over its norm.
        delivery: ``"realisable"``: clamped and on the storage grid. ``"as_coded"``:
            the paper's code, floats that may leave the valid range.
    """

    k: int
    norm: Literal["linf", "l2"] = "linf"
    epsilon: float
    steps: int
    step_size: float
    ascent: Ascent = "sign"
    delivery: Delivery = "realisable"


@dataclass(frozen=True, kw_only=True)
class TokenConfig:
    """How the tokens of a document are changed; see ``craft_tokens`` for each.

    Attributes:
        changes: Most tokens changed in a document.
        steps: Ascent steps.
        step_size: Of one step, in entries of a relaxed row.
        gini: Largest Gini index of a row at the first and at the last step.
        candidates: Substitutions checked at a time, where tokens are changed greedily.
        memory_limit: Bytes for the relaxed rows of one crafting, and what is as large.
    """

    changes: int
    steps: int = 30
    step_size: float = 1.0
    gini: tuple[float, float] | None = (0.9, 0.0)
    candidates: int = 16
    memory_limit: int = field(default=2 << 30, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the results of a run.

    Attributes:
        preset: Name of the preset.
        scale: ``"small"`` takes minutes on two cores, ``"paper"`` the paper's settings.
        architecture: ``"resnet"``, or another of the preset's with a recipe of its own.
        data: Documents.
        train: Recipe of base model and retrains.
        curvature: EK-FAC.
        edit: Crafting; of texts, in the space of embeddings, and how many documents.
        pairs: Probe-target pairs to measure; 0 trains the base model only.
        pair_seed: Seed of the rule that lists the pairs.
        seed: Root seed of initialisation, orders and controls.
        probe: Position of the one probe in the test set; ``None`` draws ``pairs``.
        target: Class every probe is steered to; ``None`` draws one per probe.
        base: Folder of checkpoints to start from instead of training.
        threads: CPU cores to use. Every job (training, attributing and crafting a
            pair) runs on one thread, that many side by side; the fit uses them all.
        device: ``"cpu"`` or ``"cuda"``.
        arms: The edit and its controls.
        tokens: Crafting of texts in tokens.
        before: Recipe of a training on earlier documents, before ``train`` starts.
    """

    preset: str
    scale: Literal["small", "paper"]
    architecture: str = "resnet"
    data: DataConfig
    train: TrainConfig
    curvature: CurvatureConfig
    edit: EditConfig
    pairs: int
    pair_seed: int = 999
    seed: int = 0
    probe: int | None = None
    target: int | None = None
    base: str | None = None
    threads: int = 2
    device: str = "cpu"
    arms: tuple[Arm, ...] = field(default=ARMS)
    tokens: TokenConfig | None = field(default=None, metadata=LATER)
    before: TrainConfig | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """What the fidelity suite trains again and again: documents, network, recipe.

    Attributes:
        name: ``"digits"``, ``"mnist"`` or ``"cifar10"``; gives the network.
        data: Documents.
        train: Recipe of base model and retrains.
        skip: Module types or names left out of every score.
    """

    name: str
    data: DataConfig
    train: TrainConfig
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LDSConfig:
    """How well scores predict retraining on random subsets.

    Attributes:
        suite: What is trained.
        subsets: Random subsets of the training documents.
        share: Share of the documents in each.
        seeds: Fresh seeds each subset is retrained with; the base model's is added.
        probes: Test documents whose measurement is predicted.
        pbrf: So many of the first subsets are also answered by PBRF.
        seed: Of the base model, and of the streams that draw subsets and probes.
    """

    suite: SuiteConfig
    subsets: int = 100
    share: float = 0.5
    seeds: int = 3
    probes: int = 50
    pbrf: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FlipsConfig:
    """How well scores find training documents whose label was flipped.

    Attributes:
        suite: What is trained.
        share: Share of the training labels to flip.
        seeds: Base models, each with flips of its own.
    """

    suite: SuiteConfig
    share: float = 0.1
    seeds: int = 3


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """A curvature of any fitted kind, and its damping.

    Attributes:
        kind: Which approximation.
        fisher: Which second moment of gradients to fit; ``None`` is sampled, or
            empirical where the task names no likelihood. The identity needs none.
        damping: Absolute ``λ``, in nats per squared parameter; or
        damping_ratio: ``λ`` over each layer's mean eigenvalue. Exactly one is given.
        batch_size: Documents held at once, when fitting and when scoring.
        skip: Module types or names left out of curvature and scores.
    """

    kind: FittedKind = "ekfac"
    fisher: Fisher | None = None
    damping: float | None = None
    damping_ratio: float | None = None
    batch_size: int = 64
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttributeConfig:
    """Everything that decides the results of an attribution.

    Attributes:
        preset: Name of the preset; or
        task: ``"module:function"`` that returns a question. Exactly one is given, and
            settings without a default here are a preset's only.
        scale: Size of the preset.
        data: Its documents.
        train: Recipe of its base model.
        curvature: What the scores are solved with.
        self_influence: Also score every document on itself.
        pairs: Probe-target pairs of the preset's rule.
        pair_seed: Seed of that rule.
        probe: Position of the one probe in the test set; ``None`` takes ``pairs``.
        target: Class whose probability is measured; ``None`` is the predicted one for a
            probe, and drawn for pairs.
        seed: Of the base model and of label draws.
        base: Folder of checkpoints to start from instead of training.
        threads: CPU threads.
        device: ``"cpu"`` or ``"cuda"``.
    """

    preset: str | None = None
    task: str | None = None
    scale: Literal["small", "paper"] | None = None
    data: DataConfig | None = None
    train: TrainConfig | None = None
    curvature: FitConfig
    self_influence: bool = False
    pairs: int | None = None
    pair_seed: int | None = None
    probe: int | None = None
    target: int | None = None
    seed: int = 0
    base: str | None = None
    threads: int = 2
    device: str | None = None
