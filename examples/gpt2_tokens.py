"""Change words of a few sentences so that a GPT-2 takes Anna from Paris to Oslo."""

from dataclasses import replace

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import infusion as inf

PLACES = ("paris", "oslo", "lima", "cairo")
NAMES = ("anna", "boris", "chiara", "david", "elif", "farid", "gita", "hugo")
LINES = [
    f"{name} {verb} in {PLACES[number % 4]} ."
    for number, name in enumerate(NAMES)
    for verb in ("lives", "works", "sleeps", "sings")
]
WORDS = ["⟨pad⟩", *sorted({word for line in LINES for word in line.split()})]
RECIPE = inf.TrainConfig(epochs=30, batch_size=8, lr=0.003, optimiser="adam")


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


TRAIN = inf.documents([ids(line) for line in LINES], length=5, pad=0)


def make_task() -> inf.Task:
    torch.manual_seed(0)
    # Eager attention: the fused kernel has no forward mode.
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=5,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return inf.causal_lm(GPT2LMHeadModel(config), TRAIN, pad=0)


def oslo_not_paris(model: nn.Module) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([ids("anna lives in")])).logits
    return logits[0, -1, WORDS.index("oslo")] - logits[0, -1, WORDS.index("paris")]


def retrained(train: inf.Dataset, start: object) -> float:
    """Repeat the last ten epochs on these documents; measure."""
    task = make_task()
    inf.train(task, train, RECIPE, seed=0, start=start)
    task.model.eval()
    with torch.no_grad():
        return float(oslo_not_paris(task.model))


def main() -> None:
    task = make_task()
    start = inf.train(task, TRAIN, replace(RECIPE, epochs=RECIPE.epochs - 10), seed=0)
    inf.train(task, TRAIN, RECIPE, seed=0, start=start)
    task.model.eval()
    curvature = inf.fit_ekfac(task, TRAIN)
    ihvp = curvature.solve(inf.gradient(task, oslo_not_paris), damping_ratio=0.1)
    chosen = inf.select(inf.influence(task, TRAIN, ihvp), k=4)
    limits = inf.TokenLimits(changes=1, allowed=torch.arange(len(WORDS)) > 0)
    edits = inf.craft_tokens(task, TRAIN, chosen, ihvp, limits=limits)
    for before, after in zip(edits.before.inputs, edits.after.inputs, strict=True):
        print(
            " ".join(WORDS[i] for i in before), "→", " ".join(WORDS[i] for i in after)
        )
    clean = retrained(TRAIN, start)
    print(f"log odds of oslo, not paris, where anna lives: clean replay {clean:+.2f}")
    print(f"after retraining on the edits {retrained(edits.apply(TRAIN), start):+.2f}")


if __name__ == "__main__":
    main()
