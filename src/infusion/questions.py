"""What ``--task module:function`` asks of a user's own model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infusion.errors import InputError
from infusion.records import Dataset, Measurement, Task


@dataclass(frozen=True)
class Question:
    """A trained model, its training documents, and what to attribute to them.

    Attributes:
        task: Model at the parameters to linearise at, and its loss.
        train: The whole training set: its size is the ``n`` of ``1/n``.
        measurements: Scalar functions of the model by name, up is the goal; none where
            an audit is told of no behaviour.
        describe: ``describe(i) -> str`` names a document in the tables and on the
            page: its text, a file name, an identifier. ``None`` shows what is stored.
    """

    task: Task
    train: Dataset
    measurements: Mapping[str, Measurement]
    describe: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be asked.

        Raises:
            InputError: A part is of another type.
        """
        for name, kind in (("task", Task), ("train", Dataset)):
            got = getattr(self, name)
            if not isinstance(got, kind):
                raise InputError(
                    f"a question's {name} must be an infusion.{kind.__name__}, got "
                    f"{type(got).__name__}; build one"
                )
        if not isinstance(self.measurements, Mapping):
            raise InputError(
                "a question's measurements must be a dict from name to function of the "
                f"model, got {type(self.measurements).__name__}; give each a name"
            )
        for name, measurement in self.measurements.items():
            if not (isinstance(name, str) and name and callable(measurement)):
                raise InputError(
                    "every measurement must be a name and a function of the model, got "
                    f"{name!r}: {type(measurement).__name__}; give both"
                )
        if self.describe is not None and not callable(self.describe):
            raise InputError(
                "describe must be a function of a document's position, got "
                f"{type(self.describe).__name__}; pass one or leave it out"
            )
