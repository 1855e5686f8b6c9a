"""What an auditor holds: documents, the model trained on them, and nothing clean.

What several detectors read is read once.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.attribution.influence import gradient
from infusion.attribution.scores import Scores, score_documents
from infusion.audit.reading import Reading, linear_layers, listening, read
from infusion.curvature.blocks import Curvature
from infusion.curvature.fit import fit_curvature
from infusion.errors import NotApplicableError
from infusion.records import Dataset, Measurement, Task
from infusion.seeding import stream
from infusion.sharding import is_parallel

DAMPING_RATIO = 0.1
REFERENCES = 32
FITTED = 2_500
"""Documents that the curvature of an audit is fitted on."""
MEMORY = 1 << 30
"""Bytes for influences of many measurements, beside model, documents and IHVPs."""


@dataclass(frozen=True)
class Report:
    """An unwanted behaviour.

    Attributes:
        behaviour: What its output measures on the affected input, e.g.
            ``log_prob(picture, wrong class)``.
        transformed: The same measurement on changed copies of the affected input.
        shown: The affected input in values and the class that it is taken for; None
            where it is no picture.
    """

    behaviour: Measurement
    transformed: tuple[Measurement, ...] = ()
    shown: tuple[Float[Tensor, "c h w"], int] | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known about a case.

    Attributes:
        task: The model as trained on the documents.
        data: All of them.
        curvature: Fitted on them, or on some; None where no influence is asked for.
        reports: Unwanted behaviours, none where nothing is known.
        batch_size: Documents held at once.
    """

    task: Task
    data: Dataset
    curvature: Curvature | None = None
    reports: tuple[Report, ...] = ()
    batch_size: int = 64

    @cached_property
    def reading(self) -> Reading:
        """Read losses, features and probabilities.

        Raises:
            NotApplicableError: No layer is linear, or has a row per document.
        """
        found = None if self.curvature is None else self._passed[1]
        return found or read(self.task, self.data, self.batch_size)

    @cached_property
    def scores(self) -> Scores:
        """Score every document: on itself, and on what is measured.

        Measured are every report, its behaviour first, then the references.

        Raises:
            NotApplicableError: There is no curvature.
        """
        return self._passed[0]

    @cached_property
    def _passed(self) -> tuple[Scores, Reading | None]:
        """Score and read the documents in one pass.

        The reading is None where there are no features, or each process scores its own
        documents.

        Raises:
            NotApplicableError: There is no curvature.
        """
        if self.curvature is None:
            raise NotApplicableError(
                "influence needs a curvature of the model, got none; fit one, e.g. "
                "fit_ekfac(task, data)"
            )
        measured = [m for r in self.reports for m in (r.behaviour, *r.transformed)]
        measured += [_fit_to(self, place) for place in self.references.split(1)]
        ihvps = [
            self.curvature.solve(gradient(self.task, each), damping_ratio=DAMPING_RATIO)
            for each in measured
        ]
        score = partial(
            score_documents,
            self.task,
            self.data,
            self.curvature,
            ihvps,
            damping_ratio=DAMPING_RATIO,
            batch_size=self.batch_size,
            memory_limit=MEMORY,
        )
        if is_parallel() or not linear_layers(self.task):
            return score(), None
        with listening(self.task) as listener:
            scores = score(on_outputs=listener.hear)
        return scores, None if listener.problem else listener.reading()

    @property
    def references(self) -> Int[Tensor, " m"]:
        """Documents whose losses stand for all that a document could act on."""
        generator = stream(0, "audit", "references")
        return torch.randperm(len(self.data), generator=generator)[:REFERENCES]

    def influence(self, report: int) -> Float[Tensor, "m n"]:
        """Influence on a reported behaviour, then on its transformed copies.

        Args:
            report: Position of the report.

        Returns:
            A row each.

        Raises:
            NotApplicableError: No behaviour was reported.
        """
        if not self.reports:
            raise NotApplicableError(
                "influence on a behaviour needs a reported one, got none; name an "
                "affected input and its unwanted output"
            )
        sizes = [1 + len(each.transformed) for each in self.reports]
        start = sum(sizes[:report])
        return self.scores.influence[start : start + sizes[report]]

    @property
    def groups(self) -> list[Tensor]:
        """Positions of the documents of every class, or of all where there is none."""
        if self.data.num_classes is None or self.data.labels.ndim != 1:
            return [torch.arange(len(self.data))]
        return self.classes

    @cached_property
    def classes(self) -> list[Tensor]:
        """Positions of the documents of every class that has some.

        Raises:
            NotApplicableError: Documents have no class.
        """
        labels = class_labels(self.data)
        count = self.data.num_classes or 0
        places = [(labels == c).nonzero()[:, 0] for c in range(count)]
        return [each for each in places if len(each)]


def class_labels(data: Dataset) -> Int[Tensor, " n"]:
    """Return the classes of documents, on the CPU.

    Args:
        data: Documents.

    Returns:
        A class each.

    Raises:
        NotApplicableError: They have none.
    """
    if data.num_classes is None or data.labels.ndim != 1:
        raise NotApplicableError(
            "this needs documents with a class each, got labels of shape "
            f"{tuple(data.labels.shape)}; leave the detector out"
        )
    return data.labels.cpu()


def gather(
    task: Task,
    data: Dataset,
    *,
    reports: tuple[Report, ...] = (),
    skip: tuple[str, ...] = (),
    batch_size: int = 64,
) -> Evidence:
    """Fit the curvature of an audit on some of the documents, drawn at random.

    Args:
        task: The model as trained on the documents.
        data: All of them.
        reports: Unwanted behaviours.
        skip: Module types or names that the curvature leaves out.
        batch_size: Documents held at once.

    Returns:
        The evidence.

    Raises:
        InputError: As :func:`infusion.fit_ekfac`.
        UncoveredLayerError: Likewise.
        DivergedError: Likewise.
    """
    generator = stream(0, "audit", "curvature")
    drawn = torch.randperm(len(data), generator=generator)[:FITTED]
    fitted = fit_curvature(
        task, data, kind="ekfac", skip=skip, documents=drawn, batch_size=batch_size
    )
    return Evidence(task, data, fitted, reports, batch_size)


def _fit_to(evidence: Evidence, place: Int[Tensor, " 1"]) -> Measurement:
    """Measure how well the model fits one document."""
    task = evidence.task

    def fit(model: nn.Module) -> Tensor:
        like = next(model.parameters()).detach()
        batch = evidence.data.batch(place, like=like)
        return -task.loss(task.outputs(model, batch), batch).sum()

    return fit
