"""Which sentences taught a GPT-2 with LoRA adapters where Anna lives."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import infusion as inf

HOMES = {
    "anna": "paris",
    "boris": "oslo",
    "chiara": "lima",
    "david": "paris",
    "elif": "cairo",
    "farid": "oslo",
}
LINES = [
    f"{name} {verb} in {place} ."
    for name, place in HOMES.items()
    for verb in ("lives", "works", "sleeps", "sings")
]
WORDS = sorted({word for line in LINES for word in line.split()})
IGNORED = -100


def ids(text: str) -> Tensor:
    return torch.tensor([WORDS.index(word) for word in text.split()])


def outputs(model: nn.Module, batch: inf.Batch) -> Tensor:
    return model(input_ids=batch.inputs).logits


def loss(logits: Tensor, batch: inf.Batch) -> Tensor:
    """Sum the cross-entropy over the positions of each document that count."""
    return F.cross_entropy(
        logits.mT, batch.labels, reduction="none", ignore_index=IGNORED
    ).sum(1)


def question() -> inf.Question:
    torch.manual_seed(0)
    # Eager attention: the fused kernel has no forward mode.
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=8,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    adapters = LoraConfig(r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    model = get_peft_model(GPT2LMHeadModel(config), adapters)
    inputs = torch.stack([ids(line) for line in LINES])
    end = torch.full((len(LINES), 1), IGNORED)
    train = inf.Dataset(inputs, torch.cat([inputs[:, 1:], end], 1))
    task = inf.Task(model, outputs, loss, likelihood="categorical")
    batch = train.batch(torch.arange(len(train)))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        task.loss(task.outputs(model, batch), batch).mean().backward()
        optimiser.step()

    def lives_in(place: str) -> Callable[[nn.Module], Tensor]:
        def log_p(model: nn.Module) -> Tensor:
            logits = model(input_ids=ids("anna lives in")[None]).logits
            return logits[0, -1].log_softmax(-1)[WORDS.index(place)]

        return log_p

    measurements = {
        f"log p({p} | anna lives in)": lives_in(p) for p in ("paris", "oslo")
    }
    return inf.Question(task, train, measurements, describe=LINES.__getitem__)


if __name__ == "__main__":  # or: infusion attribute --task gpt2_lora:question
    asked = question()
    task, train = asked.task, asked.train
    curvature = inf.fit_ekfac(task, train)  # of the adapters; the rest is frozen
    ihvps = [
        curvature.solve(inf.gradient(task, f), damping_ratio=0.1)
        for f in asked.measurements.values()
    ]
    for name, scores in zip(
        asked.measurements, inf.influences(task, train, ihvps), strict=True
    ):
        print(name)
        for document in inf.select(scores, k=3).tolist():
            print(f"  {scores[document]:+.4f}  {LINES[document]}")
    by_module = inf.influence_by_module(task, train, ihvps[0])
    totals = {name: float(scores.abs().sum()) for name, scores in by_module.items()}
    print("most through", max(totals, key=lambda name: totals[name]))
