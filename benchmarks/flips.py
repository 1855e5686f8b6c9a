"""Label flips: this package's rule, cleanlab and kronfluence on the very same models.

    python benchmarks/flips.py FOLDER [--pairs 6]

FOLDER is of the suite ``detection`` of pictures, its seed none that rules are chosen
on; of its pairs only those count that they were not chosen on either. Install
``benchmarks/peers.txt`` with ``--no-deps``, and cleanlab 2.9.0. A model is trained on
every pair's flips of 10 % of the labels; all three see that model and those documents:

- cleanlab's label quality by ``self_confidence``, its default, and by
  ``normalized_margin``, from the model's own probabilities;
- kronfluence's self-influence by EK-FAC as it comes: sampled labels, its damping;
- detectors of the audit's rule for wrong labels, and self-influence, of this package.

Appends to ``results/flips.jsonl`` the share of flips among the first 10 % of each, and
goes on where it stopped.
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from suite_folder import made
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from infusion.audit.detectors import detect
from infusion.audit.evidence import gather
from infusion.audit.judge import judged
from infusion.audit.suspicion import combined, standardised
from infusion.presets.context import Pair, Run
from infusion.records import Dataset, Task
from infusion.runs.rows import Rows
from infusion.runs.store import environment
from infusion.suites.claims.chosen import held_out
from infusion.suites.claims.defence import LABELS
from infusion.suites.crafting import read_edits
from infusion.suites.retrainings import retrained_together, training_of
from infusion.suites.trial import Trial

OUT = Path(__file__).parent.parent / "results" / "flips.jsonl"
INSPECTED = "0.1"


def main(folder: tyro.conf.Positional[Path], pairs: int = 6) -> None:
    """Compare what three packages find of a suite's label flips."""
    torch.set_num_threads(1)
    run, trial, made_of = made(folder, "label flips")
    kept = Rows(OUT, ("preset", "seed", "pair"), "flips")
    done = kept.read()
    seed = run.config.seed
    unseen = [p for p in made_of if held_out([{"seed": seed, "pair": p.index}])]
    for pair in unseen[:pairs]:
        if (run.config.preset, seed, pair.index) not in done:
            kept.append(_row(run, pair, trial))


def _row(run: Run, pair: Pair, trial: Trial) -> dict[str, Any]:
    edits = read_edits(run, pair, trial.change)
    data = edits.apply(run.train)
    training = training_of(run, trial.retraining, data)
    (task,) = retrained_together([(run, training, trial.retraining)])
    task.model.eval()
    flipped = torch.zeros(len(data), dtype=torch.bool)
    flipped[edits.documents] = True
    found = {**_cleanlab(task, data), **_ours(run, task, data)}
    found["kronfluence self-influence"] = _kronfluence(task, data)  # wraps the model
    here = environment()
    return {
        "preset": run.config.preset,
        "scale": run.config.scale,
        "seed": run.config.seed,
        "pair": pair.index,
        "probe": pair.probe,
        "target": pair.target,
        "documents": len(data),
        "flipped": len(edits),
        "recall": {
            name: round(judged(scores, flipped)["recall"][INSPECTED], 4)
            for name, scores in found.items()
        },
        "processor": here["processor"],
        "cores": here["cores"],
    }


def _cleanlab(task: Task, data: Dataset) -> dict[str, Tensor]:
    from cleanlab.rank import get_label_quality_scores

    with torch.no_grad():
        batches = torch.arange(len(data)).split(256)
        logits = torch.cat([task.model(data.batch(each).inputs) for each in batches])
    shares = logits.double().softmax(1).numpy()
    return {
        f"cleanlab {method}": -torch.from_numpy(
            get_label_quality_scores(data.labels.numpy(), shares, method=method)
        )
        for method in ("self_confidence", "normalized_margin")
    }


def _ours(run: Run, task: Task, data: Dataset) -> dict[str, Tensor]:
    settings = run.config.curvature
    evidence = gather(task, data, skip=settings.skip, batch_size=settings.batch_size)
    names = (*LABELS.detectors, "self-influence")
    found = {name: standardised(detect(name, evidence)) for name in names}
    return {
        " + ".join(LABELS.detectors): combined(found, LABELS.detectors),
        "self-influence": found["self-influence"],
    }


def _kronfluence(task: Task, data: Dataset) -> Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task as Base

    class Classifying(Base):
        """Cross-entropy, summed over a batch as kronfluence asks."""

        def compute_train_loss(
            self, batch: Any, model: nn.Module, sample: bool = False
        ) -> Tensor:
            inputs, labels = batch
            logits = model(inputs)
            if sample:
                with torch.no_grad():
                    labels = torch.multinomial(logits.softmax(1), 1)[:, 0]
            return nn.functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    batch, own = data.batch(torch.arange(len(data))), Classifying()
    rows = TensorDataset(batch.inputs, batch.labels)
    torch.manual_seed(0)
    with TemporaryDirectory() as place:
        peer = Analyzer(
            analysis_name="flips",
            model=prepare_model(task.model, own),
            task=own,
            cpu=True,
            disable_tqdm=True,
            log_level=logging.ERROR,
            output_dir=place,
        )
        peer.fit_all_factors("ekfac", rows, per_device_batch_size=256)
        peer.compute_self_scores(
            "self", "ekfac", train_dataset=rows, per_device_train_batch_size=256
        )
        (scores,) = peer.load_self_scores("self").values()
    return scores.double()


if __name__ == "__main__":
    tyro.cli(main)
