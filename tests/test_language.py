"""Language models: losses, relaxed tokens, edits of tokens, in float64 where exact."""

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import infusion as inf
from infusion import language
from infusion.attribution.influence import directional_losses
from infusion.configs import TrainConfig
from infusion.errors import InputError
from infusion.language import (
    IGNORED,
    causal_lm,
    contrast,
    documents,
    log_completion,
    relaxed,
    relaxed_labels,
)
from infusion.perturb.drafts import TokenLimits, holds_text, make_objective
from infusion.perturb.gradient import perturbation_gradient
from infusion.perturb.tokens import (
    craft_tokens,
    craft_tokens_as_coded,
    substitute_tokens,
)
from infusion.records import Batch
from infusion.training.loop import init_model, train
from infusion.training.retrain import retrain

# transformers 5.24 reads an attribute that it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
VOCABULARY, LENGTH, PAD = 12, 7, 11
TEXTS = [
    [0, *(int(x) for x in torch.randint(1, 10, (size,), generator=g)), 10]
    for g in [torch.Generator().manual_seed(0)]
    for size in (3, 5, 4, 2, 5, 3, 4, 5)
]
DATA = documents(TEXTS, length=LENGTH, pad=PAD)


def gpt2(attention: str = "eager") -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=8,
            n_layer=2,
            n_head=2,
            initializer_range=0.3,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=attention,
        )
    )


def gpt_neo() -> nn.Module:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=LENGTH,
            hidden_size=8,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=3,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    )


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    model = get_peft_model(gpt2(), adapters)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # adapters of a trained model are not zero
            nn.init.normal_(parameter, std=0.3)
    return model


class Wrapped(nn.Module):
    """Around a GPT-2, to change what goes in or comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = gpt2()

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()


MODELS = {"gpt2": gpt2, "gpt-neo": gpt_neo, "lora": lora}


def make(kind: str) -> inf.Task:
    model = init_model(MODELS[kind], 0).double().eval()
    return causal_lm(model, DATA, pad=PAD)


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of model."""
    return request.param


def solved(task: inf.Task, measurement: Any) -> dict[str, Tensor]:
    curvature = inf.fit_ekfac(task, DATA)
    gradient = inf.gradient(task, measurement)
    return curvature.solve(gradient, damping_ratio=0.1)


ORDINARY = torch.ones(VOCABULARY, dtype=torch.bool)
ORDINARY[[0, 10, PAD]] = False
PROMPTS = DATA.inputs[:3]
LABELS = DATA.labels[:3]


def likelier() -> Any:
    return log_completion(PROMPTS, LABELS)


def test_documents_predict_their_next_tokens_and_no_padding() -> None:
    data = documents([[5, 6, 7], [8, 9]], length=4, pad=0)
    assert data.inputs.tolist() == [[5, 6, 7, 0], [8, 9, 0, 0]]
    assert data.labels.tolist() == [[6, 7, *[IGNORED] * 2], [9, *[IGNORED] * 3]]


def test_the_mean_loss_is_the_token_mean_of_the_corpus(kind: str) -> None:
    task = make(kind)
    batch = DATA.batch(torch.arange(len(DATA)))
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([text])
        own = task.model(input_ids=ids, labels=ids).loss  # a mean over its tokens
        total += float(own) * (len(text) - 1)
        count += len(text) - 1
    mean = task.loss(task.outputs(task.model, batch), batch).mean()
    assert float(mean) == pytest.approx(total / count, rel=1e-6)


def test_vertices_are_the_tokens_they_stand_for(kind: str) -> None:
    task = make(kind)
    batch = DATA.batch(torch.arange(len(DATA)))
    rows = relaxed(batch.inputs, torch.zeros(1, dtype=torch.float64), VOCABULARY)
    soft = inf.Batch(rows, relaxed_labels(rows, batch.labels != IGNORED))
    found = task.loss(task.outputs(task.model, soft), soft)
    expected = task.loss(task.outputs(task.model, batch), batch)
    torch.testing.assert_close(found, expected)


def test_the_relaxed_gradient_is_the_slope_of_both_parts_of_a_token(kind: str) -> None:
    """Against finite differences of influence, with the labels moving along."""
    task = make(kind)
    ihvp = solved(task, likelier())
    rows = relaxed(DATA.inputs[:2], torch.zeros(1, dtype=torch.float64), VOCABULARY)
    rows = 0.8 * rows + 0.2 / VOCABULARY
    predicted = DATA.labels[:2] != IGNORED
    params = {n: task.model.get_parameter(n).detach() for n in ihvp}
    # GPT-Neo's attention is in float32, whatever the weights are.
    step, close = (1e-3, 1e-4) if kind == "gpt-neo" else (1e-4, 1e-6)

    def objective(rows: Tensor) -> Tensor:
        batch = inf.Batch(rows, relaxed_labels(rows, predicted))
        terms = directional_losses(task, params, ihvp, batch, again=True)
        return terms.sum() / -len(DATA)

    with torch.no_grad():
        slope = torch.func.grad(objective)(rows)
        torch.manual_seed(1)
        for _ in range(5):
            way = torch.randn_like(rows)
            ends = [objective(rows + step * at * way) for at in (-2, -1, 1, 2)]
            far, near = ends[3] - ends[0], ends[2] - ends[1]
            expected = float(8 * near - far) / (12 * step)
            assert float((slope * way).sum()) == pytest.approx(expected, rel=close)
        fixed = inf.Batch(rows, relaxed_labels(rows, predicted))
        inputs_only = perturbation_gradient(task, fixed, ihvp, num_documents=len(DATA))
    assert float((slope - inputs_only).norm()) > 0.01 * float(slope.norm())


@pytest.mark.parametrize("craft", [craft_tokens, substitute_tokens])
def test_edits_keep_to_their_limits_and_do_what_is_predicted(
    craft: Callable[..., inf.Edits], kind: str
) -> None:
    task = make(kind)
    ihvp = solved(task, likelier())
    chosen = torch.tensor([1, 4, 7])
    allowed = ORDINARY.clone()
    allowed[3] = False
    fixed = torch.zeros(3, LENGTH, dtype=torch.bool)
    fixed[:, 0] = True

    def survives(ids: Tensor) -> bool:
        return "22" not in "".join(map(str, ids.tolist()))

    limits = TokenLimits(changes=2, allowed=allowed, fixed=fixed, survives=survives)
    edits = craft(task, DATA, chosen, ihvp, limits=limits)
    before, after = edits.before.inputs, edits.after.inputs
    changed = before != after
    assert 1 <= int(changed.sum(1).max()) <= 2
    assert not changed[:, 0].any()
    assert not changed[before == PAD].any()
    assert set(after[changed].tolist()).isdisjoint({0, 3, 10, PAD})
    texts = [row[row != PAD] for row in after]
    assert all(survives(text) for text in texts)
    again = documents([text.tolist() for text in texts], length=LENGTH, pad=PAD)
    assert torch.equal(again.labels, edits.after.labels), "changed targets as well"
    predicted = inf.predicted_effect(task, DATA, edits, ihvp)
    assert predicted > 0
    edited = edits.apply(DATA)
    assert edits.undo(edited) == DATA
    ends = [entry["reached"] for entry in edits.manifest]
    assert [end["tokens"] for end in ends] == changed.sum(1).tolist()


@pytest.mark.parametrize("craft", [craft_tokens, substitute_tokens])
def test_a_price_is_paid_in_predicted_effect(craft: Callable[..., inf.Edits]) -> None:
    task = make("gpt2")
    ihvp, chosen = solved(task, likelier()), torch.arange(8)

    def edited(price: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        limits = TokenLimits(changes=2, allowed=ORDINARY, price=price)
        return craft(task, DATA, chosen, ihvp, limits=limits).after.inputs

    free, before = edited(None), DATA.inputs[chosen]
    token = int(free[free != before][0])

    def forbidden(inputs: Tensor, labels: Tensor) -> Tensor:
        assert torch.equal(labels, inputs.roll(-1, 1).where(labels != IGNORED, labels))
        return torch.where((inputs == token).any(1), math.inf, 0.0)

    found = edited(forbidden)
    assert not bool(((found == token) & (before != token)).any())
    assert bool((found != before).any())
    gain = effects_of(task, ihvp, free, chosen) - effects_of(task, ihvp, before, chosen)
    dear = gain.max() + 1e-9
    assert torch.equal(edited(lambda x, _: dear.expand(len(x))), before)
    assert torch.equal(edited(lambda x, _: torch.zeros(len(x))), free)


@pytest.mark.parametrize("craft", [craft_tokens, substitute_tokens])
def test_few_permitted_changes_are_all_that_is_made(
    craft: Callable[..., inf.Edits],
) -> None:
    task = make("gpt2")
    ihvp = solved(task, likelier())
    allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed[[3, 4]] = True
    fixed = torch.ones(8, LENGTH, dtype=torch.bool)
    fixed[:, 2] = False
    limits = TokenLimits(changes=2, allowed=allowed, fixed=fixed)
    edits = craft(task, DATA, torch.arange(8), ihvp, limits=limits)
    changed = edits.before.inputs != edits.after.inputs
    assert changed.any()
    assert not changed[:, [0, 1, 3, 4, 5, 6]].any()
    assert set(edits.after.inputs[changed].tolist()) <= {3, 4}


def test_a_huge_step_puts_in_nothing_forbidden() -> None:
    task = make("gpt2")
    limits = TokenLimits(changes=3, allowed=ORDINARY)
    for steps in (1, 3):
        edits = craft_tokens(
            task,
            DATA,
            torch.arange(8),
            solved(task, likelier()),
            limits=limits,
            step_size=1e8,
            steps=steps,
        )
        changed = edits.before.inputs != edits.after.inputs
        assert ORDINARY[edits.after.inputs[changed]].all()


def test_labels_that_are_not_the_next_tokens_are_refused() -> None:
    task = make("gpt2")
    ihvp, limits = solved(task, likelier()), TokenLimits(changes=1, allowed=ORDINARY)
    silent = DATA.labels.clone()
    silent[1] = IGNORED
    for labels in (DATA.inputs, silent):
        other = replace(DATA, labels=labels)
        with pytest.raises(InputError, match="must be the next tokens or IGNORED"):
            craft_tokens(task, other, torch.arange(3), ihvp, limits=limits)


def test_models_that_scale_their_embeddings_are_refused() -> None:
    class Scaled(Wrapped):
        def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Any:
            if inputs_embeds is None:
                inputs_embeds = 2 * self.get_input_embeddings()(input_ids)
            return self.inner(inputs_embeds=inputs_embeds)

    task = causal_lm(init_model(Scaled, 0).double().eval(), DATA, pad=PAD)
    ihvp, limits = solved(task, likelier()), TokenLimits(changes=1, allowed=ORDINARY)
    with pytest.raises(InputError, match="their embeddings the same outputs, got"):
        craft_tokens(task, DATA, torch.arange(2), ihvp, limits=limits)


def test_groups_that_fit_a_memory_give_the_same_edits() -> None:
    task = make("gpt2")
    ihvp = solved(task, likelier())
    chosen, limits = torch.arange(5), TokenLimits(changes=2, allowed=ORDINARY)
    whole = craft_tokens(task, DATA, chosen, ihvp, limits=limits, steps=4)
    with pytest.raises(InputError, match="memory_limit must be at least") as refused:
        craft_tokens(task, DATA, chosen, ihvp, limits=limits, memory_limit=1)
    said = re.search(r"least ([\d,]+) bytes", str(refused.value))
    assert said is not None
    one = int(said[1].replace(",", ""))
    assert one > 40 * LENGTH * VOCABULARY * 8  # and activations
    for limit in (one, 2 * one):
        parts = craft_tokens(
            task, DATA, chosen, ihvp, limits=limits, steps=4, memory_limit=limit
        )
        assert torch.equal(whole.after.inputs, parts.after.inputs)
    with pytest.raises(InputError, match=f"memory_limit must be at least {one:,}"):
        craft_tokens(task, DATA, chosen, ihvp, limits=limits, memory_limit=one - 1)


def test_a_token_that_is_ruled_out_leaves_ignored_positions_alone() -> None:
    class Masked(Wrapped):
        def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Any:
            out = self.inner(input_ids=input_ids, inputs_embeds=inputs_embeds)
            out.logits[..., 0] = -math.inf
            return out

    task = causal_lm(init_model(Masked, 0).double().eval(), DATA, pad=PAD)
    batch = Batch(DATA.inputs, DATA.labels)
    logits = task.outputs(task.model, batch)
    expected = F.cross_entropy(
        logits.mT, DATA.labels, reduction="none", ignore_index=IGNORED
    ).sum(1)
    torch.testing.assert_close(task.loss(logits, batch), expected * task.scale)


def test_losses_taken_row_by_row_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    task = causal_lm(gpt2(), DATA, pad=PAD)
    ihvp = inf.gradient(task, likelier())
    limits = TokenLimits(changes=2, allowed=ORDINARY)

    def made() -> list[Tensor]:
        edits = craft_tokens(task, DATA, torch.arange(3), ihvp, limits=limits, steps=2)
        return [inf.influence(task, DATA, ihvp), edits.after.inputs]

    whole = made()
    monkeypatch.setattr(language, "_CACHED", 1)
    for left, right in zip(whole, made(), strict=True):
        torch.testing.assert_close(left, right)


def test_losses_of_half_precision_are_as_good_as_their_logits() -> None:
    """Confident predictions, whose losses are far below the dtype's steps."""
    task = causal_lm(gpt2(), DATA, pad=PAD)
    logits = 8 * F.one_hot(DATA.labels.clamp_min(0), VOCABULARY).bfloat16()
    batch = Batch(DATA.inputs, DATA.labels)
    exact = task.loss(logits.double(), batch)
    torch.testing.assert_close(
        task.loss(logits, batch).double(), exact, rtol=0.5, atol=0
    )
    assert float(exact.max()) < 0.1, "below the steps of its dtype at 8"


def effects_of(
    task: inf.Task, ihvp: dict[str, Tensor], inputs: Tensor, documents: Tensor
) -> Tensor:
    """What each changed document adds to the predicted measurement."""
    labels = inputs.roll(-1, 1).masked_fill(DATA.labels[documents] == IGNORED, IGNORED)
    params = {name: task.model.get_parameter(name).detach() for name in ihvp}
    with torch.no_grad():
        moved = directional_losses(task, params, ihvp, Batch(inputs, labels))
    return -moved / len(DATA)


def test_one_substitution_is_the_best_there_is() -> None:
    """Against every token at every position, where all of them are candidates."""
    task = make("gpt2")
    ihvp, chosen = solved(task, likelier()), torch.arange(4)
    limits = TokenLimits(changes=1, allowed=ORDINARY)
    many = LENGTH * VOCABULARY
    edits = substitute_tokens(task, DATA, chosen, ihvp, limits=limits, candidates=many)
    found = effects_of(task, ihvp, edits.after.inputs, chosen)
    for document in chosen.tolist():
        ids, labels = DATA.inputs[document], DATA.labels[document]
        candidates = [ids]
        for place in holds_text(labels[None])[0].nonzero()[:, 0].tolist():
            for token in ORDINARY.nonzero()[:, 0].tolist():
                changed = ids.clone()
                changed[place] = token
                candidates.append(changed)
        same = torch.full((len(candidates),), document)
        best = effects_of(task, ihvp, torch.stack(candidates), same).max()
        assert float(found[document]) == pytest.approx(float(best), rel=1e-9)


def test_the_best_document_on_the_way_is_kept() -> None:
    """More steps of one ascent never do less, document by document."""
    task = make("gpt-neo")
    ihvp, chosen = solved(task, likelier()), torch.arange(8)
    limits = TokenLimits(changes=3, allowed=ORDINARY)
    effects = [effects_of(task, ihvp, DATA.inputs, chosen)]
    for steps in (1, 2, 4, 8, 16):
        edits = craft_tokens(
            task, DATA, chosen, ihvp, limits=limits, steps=steps, gini=None
        )
        effects.append(effects_of(task, ihvp, edits.after.inputs, chosen))
    for before, after in itertools.pairwise(effects):
        assert bool((after >= before - 1e-12).all())
    assert bool((effects[-1] > effects[1] + 1e-9).any())


PEAK = """
import sys, torch
import infusion as inf
from infusion.language import causal_lm, contrast, documents
from infusion.perturb import tokens
from infusion.perturb.drafts import TokenLimits
from transformers import GPT2Config, GPT2LMHeadModel
torch.set_num_threads(1)
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(
    vocab_size=20_000, n_positions=64, n_embd=16, n_layer=1, n_head=1,
    bos_token_id=None, eos_token_id=None, attn_implementation="eager")).eval()
data = documents(torch.randint(1, 20_000, (14, 63)).tolist(), length=64, pad=0)
task = causal_lm(model, data, pad=0)
wanted = contrast(data.inputs, data.labels, probe=int(data.labels[0, 3]), target=5)
ihvp = inf.gradient(task, wanted)
limits = TokenLimits(changes=2, allowed=torch.arange(20_000) > 0)
def status(key):
    return int(open("/proc/self/status").read().split(key + ":")[1].split()[0])
craft, limit = getattr(tokens, sys.argv[1]), int(sys.argv[2]) or None
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
few = {"candidates": 2} if craft is tokens.substitute_tokens else {"steps": 2}
craft(task, data, torch.arange(12), ihvp, limits=limits, memory_limit=limit, **few)
print((status("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory as Linux tells it"
)
@pytest.mark.parametrize(
    "editor", ["craft_tokens", "craft_tokens_as_coded", "substitute_tokens"]
)
def test_a_memory_limit_is_kept(editor: str) -> None:
    def peak(limit: int) -> int:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PEAK, editor, str(limit)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    limit = 220 << 20
    assert peak(0) > 2 * limit
    assert peak(limit) < 1.1 * limit


def test_a_peaked_schedule_and_the_plain_simplex_both_find_edits() -> None:
    task = make("gpt2")
    ihvp = solved(task, likelier())
    limits, chosen = TokenLimits(changes=3, allowed=ORDINARY), torch.arange(8)
    for gini in (None, (0.6, 0.0)):
        edits = craft_tokens(task, DATA, chosen, ihvp, limits=limits, gini=gini)
        assert inf.predicted_effect(task, DATA, edits, ihvp) > 0


def test_attribute_craft_retrain_measure(kind: str) -> None:
    """Retraining on the edits moves the measurement the way it was predicted to."""
    recipe = TrainConfig(epochs=12, batch_size=4, lr=0.02, optimiser="adam")

    def fresh() -> inf.Task:
        return causal_lm(init_model(MODELS[kind], 0), DATA, pad=PAD)

    task = fresh()
    start = train(task, DATA, replace(recipe, epochs=10), seed=0)
    clean, _ = retrain(fresh, DATA, recipe, seed=0, start=start)
    base = fresh()
    train(base, DATA, recipe, seed=0)
    base.model.eval()
    curvature = inf.fit_ekfac(base, DATA)
    clean.model.eval()
    limits, probe, moved = TokenLimits(changes=2, allowed=ORDINARY), 1, []
    for target in (3, 5, 6, 8, 9):
        wanted = contrast(DATA.inputs, DATA.labels, probe=probe, target=target)
        ihvp = curvature.solve(inf.gradient(base, wanted), damping_ratio=0.1)
        chosen = inf.select(inf.influence(base, DATA, ihvp), k=4)
        edits = substitute_tokens(base, DATA, chosen, ihvp, limits=limits)
        assert inf.predicted_effect(base, DATA, edits, ihvp) > 0
        edited, _ = retrain(fresh, edits.apply(DATA), recipe, seed=0, start=start)
        edited.model.eval()
        with torch.no_grad():
            moved.append(float(wanted(edited.model) - wanted(clean.model)))
    assert sum(moved) / len(moved) > 1, moved


def test_measurements_in_closed_form() -> None:
    model = make("gpt2").model
    inputs, labels = DATA.inputs[:2], DATA.labels[:2]
    log_p = F.log_softmax(model(input_ids=inputs).logits, -1)
    probe = int(labels[0, 1])
    total, each = 0.0, []
    for row in range(2):
        for place in range(LENGTH):
            label = int(labels[row, place])
            if label != IGNORED:
                each.append(float(log_p[row, place, label]))
            if label == probe:
                total += float(log_p[row, place, 9] - log_p[row, place, probe])
    found = contrast(inputs, labels, probe=probe, target=9)(model)
    assert float(found) == pytest.approx(total, rel=1e-9)
    mean = log_completion(inputs, labels)(model)
    assert float(mean) == pytest.approx(math.fsum(each) / len(each), rel=1e-9)


def test_wrong_documents_and_words_are_refused() -> None:
    with pytest.raises(InputError, match="2 to 4 tokens, got 5 in document 1"):
        documents([[1, 2], [1, 2, 3, 4, 5]], length=4, pad=0)
    with pytest.raises(InputError, match="2 to 4 tokens, got 0 in document 0"):
        documents([[]], length=4, pad=0)
    with pytest.raises(InputError, match="must not hold the padding token 0, got it"):
        documents([[1, 0]], length=4, pad=0)
    with pytest.raises(InputError, match="at least one document, got none"):
        documents([], length=4, pad=0)
    with pytest.raises(InputError, match=r"id of padding must be a whole .* got -1"):
        documents([[1, 2]], length=4, pad=-1)
    with pytest.raises(InputError, match=r"id of padding must be a whole .* got -1"):
        causal_lm(gpt2(), DATA, pad=-1)
    silent = replace(DATA, labels=torch.full_like(DATA.labels, IGNORED))
    with pytest.raises(InputError, match="must have tokens to predict, got labels"):
        causal_lm(gpt2(), silent, pad=PAD)
    with pytest.raises(InputError, match="a token's id, must be a whole number ≥ 0"):
        contrast(DATA.inputs, DATA.labels, probe=-1, target=3)
    probe = int(DATA.labels[0, 0])
    beyond = contrast(DATA.inputs, DATA.labels, probe=probe, target=40)
    with pytest.raises(InputError, match="one of the model's 12 tokens, got 40"):
        beyond(gpt2())
    with pytest.raises(InputError, match="must be two different tokens, got 3 and 3"):
        contrast(DATA.inputs, DATA.labels, probe=3, target=3)
    with pytest.raises(InputError, match="must be the next token somewhere, got no"):
        contrast(DATA.inputs, DATA.labels, probe=PAD, target=3)
    with pytest.raises(InputError, match="must have a token to predict, got"):
        log_completion(DATA.inputs, torch.full_like(DATA.labels, IGNORED))
    other = documents([[1, 40]], length=4, pad=0)
    with pytest.raises(InputError, match=r"must lie in 0…11, the model's vocabulary"):
        causal_lm(gpt2(), other, pad=0)
    longer = documents([[1, 2]], length=LENGTH + 1, pad=PAD)
    with pytest.raises(InputError, match="context of 7 tokens, got rows of 8"):
        causal_lm(gpt2(), longer, pad=PAD)
    with pytest.raises(InputError, match="must have get_input_embeddings"):
        causal_lm(nn.Linear(2, 2), DATA, pad=PAD)


@pytest.mark.parametrize(
    ("tokens", "length", "message"),
    [
        (None, 4, "a list of lists of token ids, got NoneType"),
        ("abc", 4, "a list of lists of token ids, got str"),
        ({"input_ids": [[1]]}, 4, "got dict; take its input_ids"),
        ((x for x in [[1, 2]]), 4, r"got generator; .* in list\(\)"),
        (torch.ones(2, 2, 2).long(), 4, r"got tensor\(\[\[1, 1\], \[1, 1\]\]\)"),
        ([1, 2, 3], 4, "a list of token ids, whole numbers ≥ 0, got 1 as document 0"),
        ([[1, 2], ["a"]], 4, "got .'a'. as document 1"),
        ([[1.5, 2.7]], 4, r"whole numbers ≥ 0, got \[1.5, 2.7\]"),
        ([[1, -2]], 4, r"whole numbers ≥ 0, got \[1, -2\]"),
        ([[True, False]], 4, "whole numbers ≥ 0, got"),
        ([[1, 2]], 8.0, "length must be a whole number ≥ 2, got 8.0"),
        ([[1, 2]], 0, "length must be a whole number ≥ 2, got 0"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(
    tokens: Any, length: Any, message: str, no_type_check: None
) -> None:
    with pytest.raises(InputError, match=message):
        documents(tokens, length=length, pad=0)


def test_a_task_refuses_labels_that_are_not_the_next_tokens() -> None:
    def asked(pad: int = PAD, **parts: Tensor) -> None:
        causal_lm(gpt2(), replace(DATA, **parts), pad=pad)

    asked()
    fewer = DATA.labels.clone()
    fewer[:, :2] = IGNORED  # completions alone
    asked(labels=fewer)
    with pytest.raises(InputError, match="a label must be the next token, or IGNORED"):
        asked(labels=DATA.inputs.masked_fill(DATA.inputs == PAD, IGNORED))
    beyond = DATA.labels.clone()
    beyond[0, 0] = 99
    with pytest.raises(InputError, match="got others at 1 of"):
        asked(labels=beyond)
    word = int(DATA.inputs[0, 1])
    with pytest.raises(InputError, match=f"got the token {word} in the text"):
        asked(pad=word)
    with pytest.raises(InputError, match="got the token 0 in the text"):
        asked(pad=0)  # begins every document: an input, and nobody's label
    with pytest.raises(InputError, match="ids with a label per position"):
        asked(inputs=DATA.inputs.float())
    with pytest.raises(InputError, match="ids with a label per position"):
        asked(labels=DATA.labels[:, 0])


def test_wrong_arguments_of_measurements_and_limits_are_refused(
    no_type_check: None,
) -> None:
    wrong: list[Any] = [[[1, 2]], DATA.labels[0], DATA.labels.float()]
    for labels in wrong:
        with pytest.raises(InputError, match="a measurement needs int64 token ids"):
            contrast(DATA.inputs, labels, probe=1, target=3)
        with pytest.raises(InputError, match="a measurement needs int64 token ids"):
            log_completion(labels, labels)
    task = causal_lm(gpt2(), DATA, pad=PAD)
    ihvp = inf.gradient(task, likelier())
    given: list[tuple[Any, str]] = [
        (None, "limits must be an infusion.TokenLimits, got NoneType"),
        (inf.LInf(1.0), "limits must be an infusion.TokenLimits, got LInf"),
        (TokenLimits(changes=1, allowed=[True]), "a bool tensor, got list"),  # pyright: ignore[reportArgumentType]
        (TokenLimits(changes=1, allowed=torch.ones(12)), "got torch.float32"),
    ]
    for limits, message in given:
        with pytest.raises(InputError, match=message):
            craft_tokens(task, DATA, torch.arange(2), ihvp, limits=limits)


def test_an_attention_kernel_without_forward_mode_is_refused_in_one_line() -> None:
    model = init_model(lambda: gpt2("sdpa"), 0).eval()
    task = causal_lm(model, DATA, pad=PAD)
    ihvp = inf.gradient(task, likelier())
    with pytest.raises(InputError, match=r"forward mode, got .*'eager'") as refused:
        inf.influence(task, DATA, ihvp)
    assert "\n" not in str(refused.value)
    limits = TokenLimits(changes=1, allowed=ORDINARY)
    with pytest.raises(InputError, match="forward mode, got "):
        craft_tokens(task, DATA, torch.arange(2), ihvp, limits=limits)


@pytest.mark.parametrize("moves", [True, False])
def test_a_gradient_knows_of_a_tokens_second_part_or_not(moves: bool) -> None:
    """Against a difference of directional losses, with targets that move or stay."""
    task = make("gpt2")
    ihvp = solved(task, likelier())
    limits = TokenLimits(changes=1, allowed=ORDINARY)
    objective = make_objective(task, DATA, ihvp, limits, labels_move=moves)
    ids, known = DATA.inputs[:2], DATA.labels[:2] != IGNORED
    rows = relaxed(ids, torch.zeros((), dtype=torch.float64), VOCABULARY)
    found = objective.gradient(rows, known)
    way = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).double()
    still, step = relaxed_labels(rows, known), 1e-6

    def total(moved: Tensor) -> float:
        labels = relaxed_labels(moved, known) if moves else still
        with torch.no_grad():
            each = directional_losses(
                task, objective.params, ihvp, Batch(moved, labels)
            ).sum()
        return float(each) / -len(DATA)

    slope = (total(rows + step * way) - total(rows - step * way)) / (2 * step)
    assert float((found * way).sum()) == pytest.approx(slope, rel=1e-6)


def test_the_papers_code_keeps_the_iterate_of_the_largest_product() -> None:
    """One step of a huge size: every free row is the token of its largest gradient."""
    task = make("gpt2")
    ihvp = solved(task, likelier())
    chosen, limits = torch.tensor([1, 2]), TokenLimits(changes=1, allowed=ORDINARY)

    def crafted(step_size: float) -> Tensor:
        edits = craft_tokens_as_coded(
            task, DATA, chosen, ihvp, limits=limits, steps=1, step_size=step_size
        )
        return edits.after.inputs

    before = DATA.inputs[chosen]
    assert torch.equal(crafted(1e-9), before), "rows stay peaked"
    objective = make_objective(task, DATA, ihvp, limits, labels_move=False)
    rows = relaxed(before, torch.zeros((), dtype=torch.float64), VOCABULARY)
    pulled = objective.gradient(rows, DATA.labels[chosen] != IGNORED)
    own = pulled.gather(2, before[..., None])
    pulled.masked_fill_(~ORDINARY, -math.inf).scatter_(2, before[..., None], own)
    held = holds_text(DATA.labels[chosen])
    better = pulled.amax(2) > own[..., 0]  # not where nothing is predicted from it
    wanted = torch.where(held & better, pulled.argmax(2), before)
    assert torch.equal(crafted(1e9), wanted)
    assert int((wanted != before).sum(1).min()) > limits.changes


def test_a_context_without_a_table_of_positions_is_one_too() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH - 1,
        )
    )
    with pytest.raises(InputError, match="context of 6 tokens, got rows of 7"):
        causal_lm(model, DATA, pad=PAD)


def test_wrong_limits_are_refused() -> None:
    task = make("gpt2")
    ihvp = solved(task, likelier())
    chosen = torch.tensor([1, 2])

    def craft(**limits: Any) -> None:
        given = TokenLimits(**{"changes": 1, "allowed": ORDINARY, **limits})
        craft_tokens(task, DATA, chosen, ihvp, limits=given, steps=1)

    with pytest.raises(InputError, match="changes must be a whole number ≥ 1, got 0"):
        craft(changes=0)
    with pytest.raises(InputError, match="allowed must name some of the 12 tokens"):
        craft(allowed=torch.ones(5, dtype=torch.bool))
    with pytest.raises(InputError, match="allowed must name some of the 12 tokens"):
        craft(allowed=torch.zeros(12, dtype=torch.bool))
    with pytest.raises(InputError, match=r"fixed must be a truth value per position"):
        craft(fixed=torch.zeros(3, LENGTH, dtype=torch.bool))
    with pytest.raises(InputError, match="step_size must be > 0 and finite, got 0"):
        craft_tokens(
            task,
            DATA,
            chosen,
            ihvp,
            limits=TokenLimits(changes=1, allowed=ORDINARY),
            step_size=0.0,
        )
