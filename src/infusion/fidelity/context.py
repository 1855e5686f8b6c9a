"""What a method may look at: the trained model, its documents, some probes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infusion.attribution.influence import gradient
from infusion.attribution.scores import influences
from infusion.configs import Fisher, FittedKind
from infusion.curvature.blocks import Curvature
from infusion.curvature.dense import fit_dense
from infusion.curvature.fit import fit_curvature
from infusion.curvature.gradients import document_gradients
from infusion.params import Params
from infusion.records import Dataset, Measurement, Task
from infusion.seeding import derive
from infusion.tasks import batches, evaluating

BATCH_SIZE = 100


def log_odds(probe: Float[Tensor, "..."], label: int) -> Measurement:
    """Measure the margin of a class on one input.

    Args:
        probe: One input as the model sees it, without batch axis.
        label: The class, the true one here.

    Returns:
        ``f(model) = z_label − logsumexp(other logits) = log p − log(1 − p)``. Unlike
        ``log p`` it does not level off on a probe that the model is sure of.

    Source:
        Park et al. (2023), arXiv 2303.14186, §3.3, the model output function of TRAK.
    """

    def measurement(model: nn.Module) -> Tensor:
        logits = model(probe[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        return logits[label] - others.logsumexp(0)

    return measurement


@dataclass(frozen=True)
class Model:
    """A trained model and what is computed of it once, for all probes.

    Attributes:
        task: Trained on all of ``train``.
        train: The documents.
        skip: Module types or names left out of every score.
        seed: Of whatever is drawn.
    """

    task: Task
    train: Dataset
    skip: tuple[str, ...]
    seed: int

    def curvature(
        self, kind: FittedKind = "ekfac", fisher: Fisher = "sampled"
    ) -> Curvature:
        """Fit a curvature, or return the fit of an earlier call."""
        if (kind, fisher) not in self._fitted:
            self._fitted[kind, fisher] = fit_curvature(
                self.task,
                self.train,
                kind=kind,
                fisher=fisher,
                skip=self.skip,
                seed=derive(self.seed, "curvature"),
                batch_size=BATCH_SIZE,
            )
        return self._fitted[kind, fisher]

    @cached_property
    def gauss_newton(self) -> Curvature:
        """The exact Gauss–Newton matrix of a small network."""
        return fit_dense(
            self.task,
            self.train,
            fisher="exact",
            skip=self.skip,
            batch_size=BATCH_SIZE,
        )

    @cached_property
    def _fitted(self) -> dict[tuple[FittedKind, Fisher], Curvature]:
        return {}

    @cached_property
    def covered(self) -> list[str]:
        """Names of the parameters every gradient is taken in."""
        blocks = self.curvature().blocks.values()
        return [name for block in blocks for name in block.names]

    @cached_property
    def gradient_norms(self) -> Float[Tensor, " n"]:
        """``‖∇ℓᵢ‖`` of every document over the covered parameters."""
        parts = [
            torch.stack([g.flatten(1).square().sum(1) for g in batch.values()]).sum(0)
            for batch in document_gradients(
                self.task, self.train, skip=self.skip, batch_size=BATCH_SIZE
            )
        ]
        return torch.cat(parts).sqrt()

    def features(self, data: Dataset) -> Float[Tensor, "n i"]:
        """Collect what the last linear layer reads, a vector per document."""
        modules = self.task.model.modules()
        last = [module for module in modules if isinstance(module, nn.Linear)][-1]
        seen: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with evaluating(self.task.model), torch.no_grad():
                for _, batch in batches(self.task, data, BATCH_SIZE):
                    self.task.outputs(self.task.model, batch)
        finally:
            hook.remove()
        return torch.cat(seen)

    @cached_property
    def train_features(self) -> Float[Tensor, "n i"]:
        """:meth:`features` of the training documents."""
        return self.features(self.train)


@dataclass(frozen=True)
class Context:
    """Some probes of a trained model.

    Attributes:
        model: The model and its documents.
        probes: Test documents; the measurement is the log-odds of their label.
        first: Place of the first one in the list of all probes.
    """

    model: Model
    probes: Dataset
    first: int = 0

    @cached_property
    def gradients(self) -> list[Params]:
        """``∇f`` of every probe, over the covered parameters."""
        batch = self.probes.batch(torch.arange(len(self.probes)))
        pairs = zip(batch.inputs, batch.labels.tolist(), strict=True)
        whole = [gradient(self.model.task, log_odds(x, label)) for x, label in pairs]
        return [{name: g[name] for name in self.model.covered} for g in whole]

    def influences(self, ihvps: list[Params]) -> Float[Tensor, "m n"]:
        """Influence of every document on every measurement behind an IHVP."""
        task, train = self.model.task, self.model.train
        return influences(task, train, ihvps, batch_size=BATCH_SIZE)
