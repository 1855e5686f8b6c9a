"""Which training points hold a regression up at x = 0: nothing here is ours."""

import torch
from torch import nn

import infusion as inf


def question() -> inf.Question:
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 200)[:, None]
    train = inf.Dataset(x, torch.cos(2 * x) + 0.1 * torch.randn_like(x))
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    task = inf.Task(
        model,
        outputs=lambda model, batch: model(batch.inputs),
        loss=lambda outputs, batch: (outputs - batch.labels).square().sum(1) / 2,
        likelihood="gaussian",
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(1_000):  # train in any way
        optimiser.zero_grad()
        task.loss(model(x), inf.Batch(x, train.labels)).mean().backward()
        optimiser.step()
    at_zero = {"height at 0": lambda model: model(torch.zeros(1, 1)).squeeze()}
    return inf.Question(task, train, at_zero, lambda i: f"x = {float(x[i]):+.2f}")


if __name__ == "__main__":  # or: infusion attribute --task own_model:question
    asked = question()
    curvature = inf.fit_ekfac(asked.task, asked.train)
    gradient = inf.gradient(asked.task, asked.measurements["height at 0"])
    ihvp = curvature.solve(gradient, damping_ratio=0.1)
    scores = inf.influence(asked.task, asked.train, ihvp)
    for document in inf.select(scores, k=5).tolist():
        print(f"{asked.describe(document)}: {scores[document]:+.4f}")
