"""Time of language models' stages as ratios within one run: never part of the tests.

    python benchmarks/tokens.py [--threads 1]

Each row alternates the two contenders and compares the medians of their wall times:

- influence of all documents on one measurement, against a plain forward pass with the
  same attention kernel (goal: at most 4);
- projections of a step's rows onto the simplex, and onto it and then its peaked part as
  a step does both, against a loop over rows (goal: 20 times faster, the same rows);
- a step of ascent over relaxed tokens with projections and exact effects (half of what
  three take more than one), against a plain forward pass over the documents it edits.
"""

from functools import partial
from pathlib import Path
from runpy import run_path

import torch
import tyro
from ratios import compare

import infusion as inf
from infusion.language import causal_lm, contrast, documents
from infusion.params import Params
from infusion.perturb.drafts import TokenLimits
from infusion.perturb.simplex import project_peaked, project_simplex
from infusion.perturb.tokens import craft_tokens
from infusion.presets import find_preset
from infusion.records import Dataset, Task
from infusion.runs.store import environment, json_bytes, write_whole
from infusion.tasks import batches, evaluating

ROOT = Path(__file__).parent.parent
OUT = ROOT / "results" / "tokens.json"
DOCUMENTS, LENGTH, VOCABULARY, ROWS, EDITED = 32, 64, 50_258, 8, 2
BATCH, GINI = 8, 0.3
ORACLES = run_path(str(ROOT / "tests" / "oracles.py"))


def setup(count: int, length: int) -> tuple[Task, Dataset, Params]:
    """The paper's TinyStories model at initialisation, random tokens, a gradient."""
    torch.manual_seed(0)
    model = find_preset("tinystories").make_model("paper", "gpt-neo")
    tokens = torch.randint(0, VOCABULARY - 2, (count, length))
    data = documents(tokens.tolist(), length=length, pad=VOCABULARY - 1)
    task = causal_lm(model, data, pad=VOCABULARY - 1)
    probe = int(data.labels[0, 0])
    measured = contrast(data.inputs[:1], data.labels[:1], probe=probe, target=7)
    return task, data, inf.gradient(task, measured)


def forward(task: Task, data: Dataset) -> None:
    with evaluating(task.model), torch.no_grad():
        for _, batch in batches(task, data, BATCH):
            task.outputs(task.model, batch)


def by_rows(rows: torch.Tensor, gini: float | None) -> torch.Tensor:
    return torch.tensor(
        [ORACLES["simplex_row_by_row"](row, gini) for row in rows.tolist()]
    )


def _per_step(long: dict[str, float], passes: dict[str, float]) -> dict[str, float]:
    """Take what three steps cost more than one, for a step."""
    own = (long["seconds"] - long["reference_seconds"]) / 2
    other = passes["seconds"]
    return {"seconds": own, "reference_seconds": other, "ratio": own / other}


def main(threads: int = 1) -> None:
    """Print and store the rows.

    Args:
        threads: Torch threads.
    """
    torch.set_num_threads(threads)
    task, data, ihvp = setup(DOCUMENTS, LENGTH)
    relaxed = 0.2 * torch.randn(ROWS, VOCABULARY, dtype=torch.float64)
    relaxed[torch.arange(ROWS), torch.arange(ROWS)] += 1  # a token, and a step away
    work = {
        "simplex alone": (
            partial(project_simplex, relaxed),
            partial(by_rows, relaxed, None),
        ),
        "both of a step": (
            partial(project_peaked, relaxed, GINI),
            partial(by_rows, relaxed, GINI),
        ),
    }
    for name, (ours, theirs) in work.items():
        apart = float((ours() - theirs()).abs().max())
        assert apart < 1e-6, f"{name} must be the same row by row, got {apart} apart"
    chosen = torch.arange(EDITED)
    limits = TokenLimits(changes=8, allowed=torch.ones(VOCABULARY).bool())
    step = partial(craft_tokens, task, data, chosen, ihvp, limits=limits)
    rows = {
        "influence / forward pass": compare(
            lambda: inf.influence(task, data, ihvp, batch_size=BATCH),
            lambda: forward(task, data),
            rounds=3,
        ),
        **{
            f"projections, {name} / row by row": compare(*both, rounds=1)
            for name, both in work.items()
        },
        "step of ascent / forward pass": _per_step(
            compare(lambda: step(steps=3), lambda: step(steps=1), rounds=3),
            compare(lambda: forward(task, data.take(chosen)), lambda: None, rounds=3),
        ),
    }
    for name, row in rows.items():
        print(f"{name}: {row['ratio']:.4f} ({row['seconds']:.2f} s)")
    stored = {
        "model": "GPT-Neo of the paper's TinyStories, eager attention",
        "documents": len(data),
        "length": LENGTH,
        "vocabulary": VOCABULARY,
        "edited": EDITED,
        "rows_projected": ROWS,
        "gini": GINI,
        "threads": threads,
        "environment": environment(),
        "rows": rows,
    }
    write_whole(OUT, json_bytes(stored))


if __name__ == "__main__":
    tyro.cli(main)
