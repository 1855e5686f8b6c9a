"""Peak memory of editing many long documents of a large vocabulary under a limit.

    python benchmarks/vocabulary.py [--threads 1]

100 documents of 256 tokens of 50,258 are edited in one step of ascent by the paper's
TinyStories model; all their relaxed rows together are 4.8 GiB, and a step needs several
of them, and activations. Model, documents and interpreter come on top of the limit.
"""

from pathlib import Path

import torch
import tyro
from tokens import VOCABULARY, setup

from infusion.bench.cost import measure
from infusion.perturb.drafts import MEMORY, TokenLimits
from infusion.perturb.tokens import craft_tokens
from infusion.runs.store import environment, json_bytes, write_whole

OUT = Path(__file__).parent.parent / "results" / "vocabulary.json"
DOCUMENTS, LENGTH = 100, 256


def main(threads: int = 1) -> None:
    """Print and store the row.

    Args:
        threads: Torch threads.
    """
    torch.set_num_threads(threads)
    task, data, ihvp = setup(DOCUMENTS, LENGTH)
    limits = TokenLimits(changes=20, allowed=torch.ones(VOCABULARY).bool())

    def craft(count: int) -> None:
        craft_tokens(task, data, torch.arange(count), ihvp, limits=limits, steps=1)

    craft(1)  # what libraries allocate once is not the call's
    _, cost = measure(lambda: craft(DOCUMENTS))
    assert cost.peak_bytes is not None, "the system must be able to forget a peak"
    row = {
        "documents": DOCUMENTS,
        "length": LENGTH,
        "vocabulary": VOCABULARY,
        "threads": threads,
        "limit_bytes": MEMORY,
        "peak_bytes": cost.peak_bytes - cost.baseline_bytes,
        "baseline_bytes": cost.baseline_bytes,
        "seconds": cost.seconds,
        "environment": environment(),
    }
    print({name: value for name, value in row.items() if name != "environment"})
    write_whole(OUT, json_bytes(row))


if __name__ == "__main__":
    tyro.cli(main)
