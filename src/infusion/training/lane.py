"""One training run under way, a step at a time; on a GPU its step can be recorded.

A small model leaves a GPU idle: a step is hundreds of short kernels that take longer to
launch than to run. Recorded once as a CUDA graph, which finds its batch in a table of
the epoch's order on the GPU, it is one launch, and the steps of other lanes run beside
it, each on a stream of its own (:func:`infusion.training.together.train_together`). The
kernels of a lane and their order are those of the unrecorded step: so are its bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from infusion.configs import TrainConfig
from infusion.errors import DivergedError, check_whole
from infusion.params import Params, is_finite
from infusion.records import Dataset, Documents, Task
from infusion.seeding import derive
from infusion.sharding import is_parallel
from infusion.tasks import first_parameter
from infusion.training.augmentation import disturbs
from infusion.training.checkpoints import (
    Checkpoint,
    check_start,
    load_model,
    load_optimiser,
    optimiser_state,
    order_hash,
)
from infusion.training.layout import lay_out
from infusion.training.parallel import (
    batch_loss,
    check_parallel,
    sum_gradients,
    whole_loss,
)
from infusion.training.recipe import OPTIMISERS, check_recipe
from infusion.training.steps import Step, epoch_steps

_DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_WARM = 3
"""Steps before a recording, in which libraries set themselves up; they are undone."""


@dataclass(frozen=True)
class Training:
    """What is trained, how far, and from where.

    Attributes:
        task: Its model is overwritten.
        data: Training documents; the objective is the mean loss of each batch.
        config: Recipe.
        seed: Decides the orders.
        start: Continue after this checkpoint instead of from the model as it is.
        record: Record the step where that can be: on a GPU, without disturbed
            documents, modules of dropout or a cycle. The model itself must draw
            nothing, read no number back to the CPU, and keep all that a step changes in
            its ``state_dict``.
    """

    task: Task
    data: Documents
    config: TrainConfig
    seed: int
    start: Checkpoint | None = None
    record: bool = False


class Lane:
    """A training run under way: begin an epoch, take its steps, end it."""

    def __init__(self, training: Training) -> None:
        """Set the model and the optimiser to where training starts.

        Args:
            training: What to train.

        Raises:
            InputError: A setting of the recipe or the seed cannot be used, or the start
                lies beyond the recipe's end.
            ArtefactError: The start is of another architecture, optimiser or order.
        """
        task, config, start = training.task, training.config, training.start
        check_whole("seed", training.seed, least=0)
        check_recipe(config)
        self.training = training
        task.model.train()
        lay_out(task.model, config)
        self._parameters = list(task.model.parameters())
        self._optimiser = OPTIMISERS[config.optimiser](self._parameters, config)
        device = first_parameter(task).device
        if device.type == "cuda":  # Adam counts its steps there, recorded or not
            for group in self._optimiser.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
        self._tape: _Tape | None = None
        if can_record(training):
            self._tape = _Tape(config.batch_size, device)
            assert isinstance(training.data, Dataset), "a stream is not recorded"
            self.training = replace(training, data=training.data.to(device))
        self.epoch, self._rate = 0, config.lr
        self._steps: list[Step] = []
        if start is not None:
            check_start(start, config, seed=training.seed, size=len(training.data))
            self.epoch, self._rate = start.epoch, start.learning_rate
            load_model(task.model, start.model)
            load_optimiser(self._optimiser, start)
        check_parallel(
            task.model, training.data, config, seed=training.seed, epoch=self.epoch
        )

    @property
    def has_epochs_left(self) -> bool:
        """Tell whether the recipe goes on."""
        return self.epoch < self.training.config.epochs

    def begin(self) -> int:
        """Begin the next epoch.

        Returns:
            Its number of steps.
        """
        training = self.training
        self._steps = epoch_steps(
            training.config,
            seed=training.seed,
            epoch=self.epoch,
            size=len(training.data),
            rate=self._rate,
        )
        torch.manual_seed(derive(training.seed, "train", "noise", self.epoch))
        if self._tape is not None:
            self._tape.load([step.documents for step in self._steps])
            if self._tape.rate != self._rate:
                self._set_rate(self._rate)
                self._tape.record(self._take, self._rate, self._state)
        return len(self._steps)

    def step(self, number: int) -> None:
        """Take one step of the epoch.

        Args:
            number: Counted from 0; in order.

        Raises:
            DivergedError: The loss became NaN or infinite; where the step is recorded
                the weights say so at the end of the epoch.
        """
        step, tape = self._steps[number], self._tape
        if tape is not None and len(step.documents) == tape.size:
            tape.play()
            return
        self._set_rate(step.learning_rate)
        if tape is not None:
            with torch.cuda.stream(tape.stream):
                self._take(step.documents)
            return
        loss = self._loss(step.documents)
        if not math.isfinite(value := whole_loss(loss, step.documents)):
            raise DivergedError(
                f"the training loss must stay finite, got {value} at step "
                f"{number} of an epoch; lower the learning rate "
                f"(now {step.learning_rate:g})"
            )
        self._update(loss, step.documents)

    def wait(self) -> None:
        """Wait for the steps taken so far, where they are recorded."""
        if self._tape is not None:
            self._tape.stream.synchronize()

    def end(self) -> Checkpoint:
        """End the epoch.

        Returns:
            The state after it.

        Raises:
            DivergedError: Weights became NaN or infinite.
        """
        training, config = self.training, self.training.config
        self.wait()
        state = {k: v.clone() for k, v in training.task.model.state_dict().items()}
        self.epoch += 1
        if not is_finite(state):
            raise DivergedError(
                "weights and buffers must stay finite, got NaN or infinity after "
                f"epoch {self.epoch}; lower the learning rate (now {config.lr:g})"
            )
        if self.epoch in config.milestones:
            self._rate *= config.gamma
        return Checkpoint(
            epoch=self.epoch,
            order_sha256=order_hash(
                training.seed, self.epoch, len(training.data), config
            ),
            model=state,
            optimiser=optimiser_state(self._optimiser),
            learning_rate=self._rate,
        )

    def _take(self, documents: Tensor) -> None:
        self._update(self._loss(documents), documents)

    def _loss(self, documents: Tensor) -> Tensor:
        training = self.training
        return batch_loss(training.task, training.data, documents, training.config)

    def _update(self, loss: Tensor, documents: Tensor) -> None:
        parameters, clip = self._parameters, self.training.config.clip
        self._optimiser.zero_grad()
        loss.backward()
        sum_gradients(parameters, documents)
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        self._optimiser.step()

    def _set_rate(self, rate: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = rate

    def _state(self) -> Params:
        """Name all that a step changes; the optimiser's state once there is one."""
        model = self.training.task.model
        slots = {
            f"{number}.{name}": value
            for number, p in enumerate(model.parameters())
            for name, value in self._optimiser.state.get(p, {}).items()
            if isinstance(value, Tensor)
        }
        return {**{f"model.{n}": v for n, v in model.state_dict().items()}, **slots}


class _Tape:
    """A step as a CUDA graph, and the order it reads its batches from."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.rate = size, math.nan
        self.stream = torch.cuda.Stream(device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._order = torch.empty(0, size, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def load(self, batches: list[Tensor]) -> None:
        """Take over an epoch's order: its whole batches, the last may be shorter."""
        whole = [batch for batch in batches if len(batch) == self.size]
        order = torch.stack(whole) if whole else batches[0].new_empty(0, self.size)
        if len(order) != len(self._order):
            self._order, self.rate = order.to(self._order), math.nan
        else:
            self._order.copy_(order)
        self._place.zero_()
        self.stream.wait_stream(torch.cuda.current_stream())

    def record(
        self,
        take: Callable[[Tensor], None],
        rate: float,
        state: Callable[[], Params],
    ) -> None:
        """Record a step at one learning rate; the state is left as it was."""
        self.rate = rate
        if not len(self._order):
            return
        with torch.cuda.stream(self.stream):
            kept = {name: value.clone() for name, value in state().items()}
            for _ in range(_WARM):
                take(self._order[0])
            for name, value in state().items():
                if name in kept:
                    value.copy_(kept[name])
                else:  # of an optimiser that had not stepped
                    value.zero_()
        self.stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self.stream):
            take(self._order.index_select(0, self._place)[0])
            self._place.add_(1)

    def play(self) -> None:
        """Take the next step."""
        assert self._graph is not None, "an epoch with a whole batch is recorded"
        with torch.cuda.stream(self.stream):
            self._graph.replay()


def can_record(training: Training) -> bool:
    """Tell whether its steps are recorded, and can run beside those of others.

    Args:
        training: What is to be trained.

    Returns:
        True where that is wanted, and every step of an epoch does the same on a GPU.
    """
    model, config = training.task.model, training.config
    drops = any(isinstance(m, _DROPOUT) and m.p > 0 for m in model.modules())
    on_gpu = all(p.is_cuda for p in model.parameters())
    here = isinstance(training.data, Dataset) and not is_parallel()
    steady = config.schedule == "steps" and not disturbs(config) and not drops
    return training.record and on_gpu and steady and here
