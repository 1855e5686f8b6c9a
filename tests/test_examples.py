"""The examples run, and say what a loop over documents says."""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import infusion as inf
from infusion.params import Params

from .browser import Page, number_faults
from .test_cli import Call, call

call = call  # a fixture of the command
EXAMPLES = Path(__file__).parent.parent / "examples"
IGNORED = pytest.mark.filterwarnings(
    # transformers 5.24 reads an attribute that it deprecates itself.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def document_gradient(task: inf.Task, train: inf.Dataset, document: int) -> Params:
    """Of one document's loss, by autograd alone."""
    named = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
    batch = train.batch(torch.tensor([document]))
    (loss,) = task.loss(task.outputs(task.model, batch), batch)
    pulled = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, pulled, strict=True))


def expected(question: inf.Question, ihvp: Params, documents: list[int]) -> Tensor:
    """``−(1/n) ⟨s, ∇ℓᵢ⟩``, document by document."""
    question.task.model.eval()
    scores = []
    for document in documents:
        gradient = document_gradient(question.task, question.train, document)
        assert set(ihvp) == set(gradient)
        scores.append(-sum((ihvp[n] * g).sum() for n, g in gradient.items()))
    return torch.stack(scores) / len(question.train)


def solved(question: inf.Question, curvature: inf.Curvature) -> list[Params]:
    return [
        curvature.solve(inf.gradient(question.task, f), damping_ratio=0.1)
        for f in question.measurements.values()
    ]


def run_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_own_model_is_short_and_of_ones_own() -> None:
    text = (EXAMPLES / "own_model.py").read_text("utf-8")
    assert len(text.splitlines()) < 40
    assert "presets" not in text


def test_own_model_agrees_with_a_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = load("own_model").question()
    (ihvp,) = solved(question, inf.fit_ekfac(question.task, question.train))
    scores = inf.influence(question.task, question.train, ihvp)
    documents = list(range(0, 200, 20))
    torch.testing.assert_close(
        scores[documents], expected(question, ihvp, documents), rtol=1e-4, atol=1e-7
    )
    run_example("own_model", monkeypatch)
    describe = question.describe
    assert describe is not None
    assert capsys.readouterr().out.splitlines() == [
        f"{describe(i)}: {scores[i]:+.4f}" for i in inf.select(scores, k=5).tolist()
    ]


@IGNORED
def test_gpt2_with_lora_agrees_with_a_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("gpt2_lora")
    question = module.question()
    task, train = question.task, question.train
    curvature = inf.fit_ekfac(task, train)
    names = {n for block in curvature.blocks.values() for n in block.names}
    assert len(names) == 8
    assert all("lora_" in name for name in names)
    ihvps = solved(question, curvature)
    scores = inf.influences(task, train, ihvps)
    documents = [0, 5, 11, 23]
    for ihvp, row in zip(ihvps, scores, strict=True):
        wanted = expected(question, ihvp, documents)
        scale = float(row.abs().max())
        torch.testing.assert_close(row[documents], wanted, rtol=1e-3, atol=1e-5 * scale)
        forward = inf.influence(task, train, ihvp)
        torch.testing.assert_close(row, forward, rtol=1e-3, atol=1e-5 * scale)
        parts = inf.influence_by_module(task, train, ihvp)
        assert set(parts) == set(curvature.blocks)
        total = torch.stack(list(parts.values())).sum(0)
        torch.testing.assert_close(total, row, rtol=1e-3, atol=1e-5 * scale)
    top = [module.LINES[i] for i in inf.select(scores[0], k=3).tolist()]
    assert all(line.startswith("anna") for line in top)
    run_example("gpt2_lora", monkeypatch)
    printed = capsys.readouterr().out
    assert list(question.measurements) == [
        line for line in printed.splitlines() if line.startswith("log p")
    ]
    assert printed.splitlines()[1].endswith(top[0])


@IGNORED
def test_gpt2_is_steered_by_words_of_other_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("gpt2_tokens", monkeypatch)
    *edits, clean, edited = capsys.readouterr().out.splitlines()
    for line in edits:
        before, after = (side.split() for side in line.split(" → "))
        assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1
        assert "anna lives in oslo" not in line
    assert float(edited.split()[-1]) > float(clean.split()[-1]) + 1


@IGNORED
@pytest.mark.parametrize("name", ["own_model", "gpt2_lora"])
def test_examples_can_be_attributed_by_the_command(
    name: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    out = tmp_path / "run"
    words = ["attribute", "--task", f"{name}:question", "--self", "--out", out]
    try:
        assert call(*words) == 0
    finally:
        sys.modules.pop(name, None)
    page = Page(out / "report.html")
    assert number_faults(page.numbers, out) == []
