"""Every kind of layer, and every way to share one, against a loop over documents."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import infusion as inf
from infusion.curvature.blocks import Curvature
from infusion.curvature.covariance import is_correlated
from infusion.curvature.layers import survey
from infusion.errors import InputError
from infusion.params import Params
from infusion.records import Batch, Dataset, call_model
from infusion.training.loop import init_model

from .test_curvature import Flow

TOKENS, VOCABULARY, WIDTH, CLASSES = 5, 11, 4, 3


class Mean(nn.Module):
    """Mean over positions, whichever axis they are on."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axis)


def shared_norms() -> nn.Module:
    """Two norms with one scale and shifts of their own."""
    model = embed_then(nn.LayerNorm(WIDTH), nn.Tanh(), nn.LayerNorm(WIDTH))
    model[3].weight = model[1].weight
    return model


def embed_then(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), *layers, Mean(1), nn.Linear(WIDTH, CLASSES)
    )


class Swap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def gpt2_conv() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(WIDTH, WIDTH)


class LlamaishRMSNorm(nn.Module):
    """A norm as language models bring along, with weight plus one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(-1, keepdim=True).rsqrt() * (1 + self.weight)


def tied_head() -> nn.Module:
    """An embedding whose weight is also the head's."""

    def flow(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(torch.tanh(m.inner(m.embed(x)))).mean(1)

    model = Flow(
        flow,
        embed=nn.Embedding(VOCABULARY, WIDTH),
        inner=nn.Linear(WIDTH, WIDTH),
        head=nn.Linear(WIDTH, VOCABULARY, bias=False),
    )
    model.head.weight = model.embed.weight
    return model


def tied_linears() -> nn.Module:
    def flow(m: nn.Module, x: Tensor) -> Tensor:
        return m.c(torch.tanh(m.b(torch.tanh(m.a(m.embed(x)))))).mean(1)

    model = Flow(
        flow,
        embed=nn.Embedding(VOCABULARY, WIDTH),
        a=nn.Linear(WIDTH, WIDTH),
        b=nn.Linear(WIDTH, WIDTH),
        c=nn.Linear(WIDTH, CLASSES),
    )
    model.b.weight = model.a.weight
    return model


def used_twice() -> nn.Module:
    return Flow(
        lambda m, x: m.c(m.a(torch.tanh(m.a(m.embed(x))))).mean(1),
        embed=nn.Embedding(VOCABULARY, WIDTH),
        a=nn.Linear(WIDTH, WIDTH),
        c=nn.Linear(WIDTH, CLASSES),
    )


def positions(shape: tuple[int, ...]) -> nn.Module:
    """Position embeddings that run once for all documents."""
    return Flow(
        lambda m, x: m.c(
            torch.tanh(m.embed(x) + m.place(torch.arange(TOKENS).reshape(shape)))
        ).mean(1),
        embed=nn.Embedding(VOCABULARY, WIDTH),
        place=nn.Embedding(TOKENS, WIDTH),
        c=nn.Linear(WIDTH, CLASSES),
    )


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "embedding": embed_then,
    "embedding with padding": lambda: nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH, padding_idx=2), Mean(1), nn.Linear(WIDTH, 3)
    ),
    "LayerNorm": lambda: embed_then(nn.LayerNorm(WIDTH)),
    "LayerNorm over two axes": lambda: embed_then(nn.LayerNorm((TOKENS, WIDTH))),
    "LayerNorm without shift": lambda: embed_then(nn.LayerNorm(WIDTH, bias=False)),
    "RMSNorm": lambda: embed_then(nn.RMSNorm(WIDTH)),
    "RMSNorm by name": lambda: embed_then(LlamaishRMSNorm()),
    "BatchNorm1d": lambda: embed_then(Swap(), nn.BatchNorm1d(WIDTH), Swap()),
    "BatchNorm1d, flat": lambda: nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), Mean(1), nn.BatchNorm1d(WIDTH), nn.Tanh()
    ),
    "GroupNorm": lambda: embed_then(Swap(), nn.GroupNorm(2, WIDTH), Swap()),
    "Conv1d": lambda: embed_then(
        Swap(), nn.Conv1d(WIDTH, WIDTH, 3, padding=1, stride=2), nn.Tanh(), Swap()
    ),
    "Conv1d, same": lambda: embed_then(
        Swap(), nn.Conv1d(WIDTH, WIDTH, 3, padding="same", bias=False), Swap()
    ),
    "Conv1d of width 1": lambda: embed_then(Swap(), nn.Conv1d(WIDTH, WIDTH, 1), Swap()),
    "Conv1D of transformers": lambda: embed_then(gpt2_conv(), nn.Tanh()),
    "Linear": lambda: embed_then(nn.Linear(WIDTH, WIDTH), nn.Tanh()),
    "frozen bias": lambda: frozen(
        embed_then(nn.Linear(WIDTH, WIDTH), nn.Tanh()), "1.bias"
    ),
    "norms that share a scale": shared_norms,
    "frozen weight": lambda: frozen(
        embed_then(nn.Linear(WIDTH, WIDTH), nn.Tanh()), "1.weight"
    ),
    "frozen weight, Conv1d": lambda: frozen(
        embed_then(Swap(), nn.Conv1d(WIDTH, WIDTH, 3), Swap()), "2.weight"
    ),
    "head tied to embedding": tied_head,
    "tied, own biases": tied_linears,
    "used twice": used_twice,
    "positions once": lambda: positions((1, TOKENS)),
    "positions once, flat": lambda: positions((TOKENS,)),
}


def make(name: str) -> nn.Module:
    model = init_model(MODELS[name], seed=0).double()
    with torch.no_grad():  # scales, shifts and statistics of their own
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.add_(0.3)
                module.running_var.mul_(1.7)
    return model.eval()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def texts(generator: torch.Generator) -> Dataset:
    """Seven texts of five ids; one id twice in a text, so that sums matter."""
    ids = torch.randint(0, VOCABULARY, (7, TOKENS), generator=generator)
    ids[:, 1] = ids[:, 0]
    labels = torch.randint(0, CLASSES, (7,), generator=generator)
    return Dataset(ids, labels, num_classes=CLASSES)


def oracle(task: inf.Task, data: Dataset) -> list[Params]:
    """Gradient of each document by autograd, zero where there is none."""
    named = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
    result = []
    for i in range(len(data)):
        batch = data.batch(torch.tensor([i]), like=next(task.model.parameters()))
        loss = task.loss(task.outputs(task.model, batch), batch).sum()
        pulled = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        result.append(
            {
                n: torch.zeros_like(p) if g is None else g
                for (n, p), g in zip(named.items(), pulled, strict=True)
            }
        )
    return result


def squares(curvature: Curvature, gradients: list[Params]) -> Params:
    """Mean of squared gradients in each block's basis."""
    return {
        name: torch.stack(
            [block.rotate(block.layout.matrix(g)).square() for g in gradients]
        ).mean(0)
        for name, block in curvature.blocks.items()
    }


@pytest.mark.parametrize("kind", ["ekfac", "diagonal"])
@pytest.mark.parametrize("name", MODELS)
def test_eigenvalues_are_mean_squares_of_document_gradients(
    name: str, kind: str, texts: Dataset
) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_curvature(
        task, texts, kind=kind, fisher="empirical", batch_size=3
    )
    expected = squares(curvature, oracle(task, texts))
    covered = sorted(n for block in curvature.blocks.values() for n in block.names)
    trainable = [n for n, p in task.model.named_parameters() if p.requires_grad]
    assert covered == sorted(trainable)
    for block_name, block in curvature.blocks.items():
        torch.testing.assert_close(
            block.eigenvalues, expected[block_name], rtol=1e-9, atol=1e-14
        )


@pytest.mark.parametrize("name", MODELS)
def test_bases_are_orthogonal(name: str, texts: Dataset) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_curvature(task, texts, fisher="empirical")
    for block in curvature.blocks.values():
        for basis in (block.row_basis, block.column_basis):
            if basis is not None:
                unit = torch.eye(len(basis), dtype=basis.dtype)
                torch.testing.assert_close(basis.T @ basis, unit, rtol=0, atol=1e-12)
        assert float(block.eigenvalues.min()) >= 0


@pytest.mark.parametrize("name", MODELS)
def test_layout_and_solve_undo_each_other(name: str, texts: Dataset) -> None:
    task = inf.classification(make(name))
    curvature = inf.fit_curvature(task, texts, fisher="empirical")
    vector = {
        n: torch.randn_like(p)
        for n, p in task.model.named_parameters()
        if p.requires_grad
    }
    for block in curvature.blocks.values():
        back = block.layout.parameters(block.layout.matrix(vector))
        assert list(back) == list(block.names)
        for n, value in back.items():
            assert torch.equal(value, vector[n])
    solved = curvature.solve(vector, damping=0.1)
    for block in curvature.blocks.values():
        matrix = block.rotate(block.layout.matrix(solved)) * (block.eigenvalues + 0.1)
        for n, value in block.layout.parameters(block.rotate_back(matrix)).items():
            torch.testing.assert_close(value, vector[n], rtol=1e-9, atol=1e-12)


def test_a_tied_weight_is_summed_before_it_is_squared(texts: Dataset) -> None:
    """The trap that gives 4.63 where 4.01 is right: squares of uses apart."""
    task = inf.classification(make("head tied to embedding"))
    curvature = inf.fit_curvature(task, texts, fisher="empirical", kind="diagonal")
    assert list(curvature.blocks) == ["embed", "inner"]
    true = sum(g["embed.weight"].square() for g in oracle(task, texts)) / len(texts)
    torch.testing.assert_close(curvature.blocks["embed"].eigenvalues, true)


def test_modules_that_share_a_weight_are_skipped_together() -> None:
    model = make("tied, own biases")
    with pytest.raises(InputError, match=r"a covered while another module with a\.we"):
        survey(model, ("b",))
    assert survey(model, ("a", "b")).skipped == {"a": 20, "b": 20}


def test_survey_places_every_parameter() -> None:
    model = frozen(make("tied, own biases"), "c.bias")
    found = survey(model, ("embed",))
    covered = sum(math.prod(layer.layout.shape) for layer in found.layers)
    total = sum(p.numel() for p in model.parameters())
    assert [layer.name for layer in found.layers] == ["a", "a.bias", "b.bias", "c"]
    assert (covered, found.frozen, found.skipped) == (36, 3, {"embed": 44})
    assert covered + found.frozen + 44 == total


# Masks


class Attentive(nn.Module):
    """Mean of kept positions after a layer; ids of 0 are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.a = nn.Linear(WIDTH, WIDTH)
        self.c = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, *, leak: float = 0.0) -> Tensor:
        kept = (x != 0).to(self.a.weight.dtype)[..., None]
        hidden = torch.tanh(self.a(self.norm(self.embed(x))))
        return self.c((hidden * (kept + leak)).sum(1) / kept.sum(1))


@pytest.mark.parametrize("kind", ["kfac", "ekfac", "diagonal"])
def test_masked_positions_leave_no_trace(kind: str, texts: Dataset) -> None:
    """Padded texts give the curvature of the same texts without padding, also where
    gradients reach the padding: activations and output gradients are both masked."""
    model = init_model(Attentive, seed=0).double().eval()
    short = replace(texts, inputs=texts.inputs.clamp(min=1))
    padded = replace(short, inputs=F.pad(short.inputs, (0, 3)))
    plain = inf.classification(model)
    leaky = inf.Task(
        model,
        outputs=lambda m, batch: m(batch.inputs, leak=0.5),
        loss=plain.loss,
        likelihood="categorical",
        mask=lambda batch: batch.inputs != 0,
    )
    assert not torch.allclose(
        leaky.outputs(model, everything(padded)), model(padded.inputs)
    )
    tight = replace(leaky, outputs=call_model)
    settings = {"kind": kind, "fisher": "empirical"}
    expected = inf.fit_curvature(plain, short, **settings)
    got = inf.fit_curvature(tight, padded, **settings)
    unmasked = inf.fit_curvature(plain, padded, **settings)
    for name, block in expected.blocks.items():
        torch.testing.assert_close(
            got.blocks[name].eigenvalues, block.eigenvalues, rtol=1e-8, atol=1e-14
        )
    if kind == "kfac":  # else padding would not show: it has no gradient here
        assert not torch.allclose(
            unmasked.blocks["a"].eigenvalues, expected.blocks["a"].eigenvalues
        )
    seen = inf.fit_curvature(leaky, padded, **settings)
    blind = inf.fit_curvature(replace(leaky, mask=None), padded, **settings)
    assert not torch.allclose(
        seen.blocks["a"].eigenvalues, blind.blocks["a"].eigenvalues
    )


def test_both_factors_leave_masked_positions_out(texts: Dataset) -> None:
    """The trap of masking activations only: gradients reach the padding here, so the
    trace of ``Λ``, which is ``tr A · tr G / (n · positions)``, would grow."""
    model = init_model(Attentive, seed=0).double().eval()
    padded = replace(texts, inputs=F.pad(texts.inputs.clamp(min=1), (0, 3)))
    task = inf.Task(
        model,
        outputs=lambda m, batch: m(batch.inputs, leak=0.5),
        loss=inf.classification(model).loss,
        mask=lambda batch: batch.inputs != 0,
    )
    seen: dict[str, Tensor] = {}

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["inputs"], seen["outputs"] = inputs[0].detach(), output
        output.retain_grad()

    with model.a.register_forward_hook(note):
        batch = everything(padded)
        task.loss(task.outputs(model, batch), batch).sum().backward()
    gradient = seen["outputs"].grad
    assert float(gradient[:, TOKENS:].abs().min()) > 0
    kept = TOKENS * len(texts)
    left = seen["inputs"][:, :TOKENS].square().sum() + kept  # ones for the bias
    expected = left * gradient[:, :TOKENS].square().sum() / kept / len(texts)
    block = inf.fit_curvature(task, padded, kind="kfac", fisher="empirical").blocks["a"]
    torch.testing.assert_close(block.eigenvalues.sum(), expected, rtol=1e-9, atol=0)


def everything(data: Dataset) -> Batch:
    return Batch(data.inputs, data.labels)


class OverTokens(nn.Module):
    """A convolution over tokens and the mean of what is not padding."""

    def __init__(self, conv: nn.Module, outputs: int) -> None:
        super().__init__()
        self.conv, self.c = conv, nn.Linear(outputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        kept = (x[:, :1] != 0).to(x.dtype)
        tokens = x[..., None] if isinstance(self.conv, nn.Conv2d) else x
        hidden = torch.tanh(self.conv(tokens).flatten(2)) * kept
        return self.c(hidden.sum(2) / kept.sum(2))


def assert_padding_leaves_no_trace(model: nn.Module, channels: int, kind: str) -> None:
    """Four tokens, masked where three more were appended, give the same curvature."""
    inputs = torch.randn(5, channels, 4, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (5,))
    short, padded = (
        Dataset(x, labels, num_classes=CLASSES) for x in (inputs, F.pad(inputs, (0, 3)))
    )
    task = inf.classification(model)
    masked = replace(task, mask=lambda batch: batch.inputs[:, 0] != 0)
    settings = {"kind": kind, "fisher": "empirical"}
    expected = inf.fit_curvature(task, short, **settings).blocks["conv"]
    got = inf.fit_curvature(masked, padded, **settings).blocks["conv"]
    torch.testing.assert_close(
        got.eigenvalues, expected.eigenvalues, rtol=1e-8, atol=1e-14
    )


@pytest.mark.parametrize("channels", [4, 7])
@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_masks_lie_on_positions_not_on_channels(kind: str, channels: int) -> None:
    """Seven tokens and as many channels: sizes alone do not tell the axes apart."""
    model = init_model(lambda: OverTokens(nn.Conv1d(3, channels, 1), channels), 0)
    assert_padding_leaves_no_trace(model.double(), 3, kind)


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_masks_hold_for_convolutions_over_tokens(kind: str) -> None:
    """Of stride 1 and without bias: their patches need not be written out, unmasked."""

    def build() -> nn.Module:
        conv = nn.Conv2d(16, 4, (3, 1), padding=(1, 0), bias=False)
        assert is_correlated(conv, (7, 1))
        return OverTokens(conv, 4)

    assert_padding_leaves_no_trace(init_model(build, 0).double(), 16, kind)


def test_a_mask_of_another_shape_is_refused(texts: Dataset) -> None:
    task = replace(inf.classification(make("Linear")), mask=lambda b: b.inputs)
    with pytest.raises(InputError, match=r"a mask must be bool of shape \[7, tokens\]"):
        inf.fit_ekfac(task, texts)


class Outside(nn.Module):
    """Uses the embedding's weight outside the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.a = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(self.a(self.embed(x))) @ self.embed.weight.T).mean(1)


class FirstLayerNorm(nn.Module):
    """A norm over channels that come first, known by its name only."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[:, None] * (x - x.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("model", "layer"),
    [(Outside, "embed"), (lambda: embed_then(FirstLayerNorm()), "1")],
    ids=["weight used outside its module", "norm of another kind"],
)
def test_gradients_that_hooks_do_not_see_are_refused(
    model: Callable[[], nn.Module], layer: str, texts: Dataset
) -> None:
    task = inf.classification(init_model(model, seed=0).double())
    message = f"the gradient at {layer} must be what its module computes"
    with pytest.raises(InputError, match=message):
        inf.fit_ekfac(task, texts)


def test_a_keyword_call_is_refused(texts: Dataset) -> None:
    model = Flow(
        lambda m, x: m.c(input=m.embed(x).mean(1)),
        embed=nn.Embedding(VOCABULARY, WIDTH),
        c=nn.Linear(WIDTH, CLASSES),
    ).double()
    with pytest.raises(InputError, match="must get its input by position, got a key"):
        inf.fit_ekfac(inf.classification(model), texts)


def test_a_call_without_effect_counts_for_nothing(texts: Dataset) -> None:
    model = Flow(
        lambda m, x: (m.a(m.embed(x)), m.c(m.a(m.embed(x))).mean(1))[1],
        embed=nn.Embedding(VOCABULARY, WIDTH),
        a=nn.Linear(WIDTH, WIDTH),
        c=nn.Linear(WIDTH, CLASSES),
    )
    task = inf.classification(init_model(lambda: model, 0).double())
    curvature = inf.fit_ekfac(task, texts, fisher="empirical")
    expected = squares(curvature, oracle(task, texts))
    for name, block in curvature.blocks.items():
        torch.testing.assert_close(
            block.eigenvalues, expected[name], rtol=1e-9, atol=1e-14
        )


def test_a_type_is_skipped_with_all_it_holds(texts: Dataset) -> None:
    class Block(nn.Sequential):
        pass

    model = nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        Block(nn.Linear(WIDTH, WIDTH), nn.PReLU()),
        Mean(1),
        nn.Linear(WIDTH, CLASSES),
    ).double()
    curvature = inf.fit_ekfac(inf.classification(model), texts, skip=("Block",))
    assert list(curvature.blocks) == ["0", "3"]
    assert curvature.skipped == {"1.0": 20, "1.1": 1}
