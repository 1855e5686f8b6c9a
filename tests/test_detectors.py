"""Every detector: a planted case, the same rows clean, nothing to read, its direction.

The planted rows are drawn by seed before anything is scored. The clean case scores the
rows that *would* have been planted, on the clean data and its model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import infusion as inf
from infusion.audit.detectors import DETECTORS, TOLD, detect
from infusion.audit.evidence import Evidence, Report
from infusion.audit.features import clustering, disagreement, isolation, spectral
from infusion.audit.neighbours import nearest
from infusion.audit.pictures import quiet_directions
from infusion.audit.reading import read
from infusion.audit.texts import least_expected
from infusion.audit.values import usual_values
from infusion.errors import InputError, NotApplicableError
from infusion.language import IGNORED, causal_lm, documents
from infusion.records import Batch, Dataset, Task

SIZE, WIDTH, CLASSES, PLANTED = 300, 12, 3, 9


@dataclass(frozen=True)
class Case:
    """Planted evidence, the same without, and which rows."""

    planted: Evidence
    clean: Evidence
    rows: Tensor


def points(seed: int = 0) -> Dataset:
    """Three clouds; the last axis is constant, for a trigger."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(SIZE) % CLASSES
    centres = 3 * torch.randn(CLASSES, WIDTH, generator=draw)
    inputs = centres[labels] + torch.randn(SIZE, WIDTH, generator=draw)
    inputs[:, -1] = 0
    return Dataset(inputs, labels, num_classes=CLASSES)


def trained(data: Dataset) -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    optimiser = torch.optim.Adam(model.parameters(), 0.02, weight_decay=1e-3)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.inputs), data.labels).backward()
        optimiser.step()
    return inf.classification(model.eval())


def held(data: Dataset, probe: Tensor, target: int, others: list[Tensor]) -> Evidence:
    task = trained(data)
    return Evidence(
        task,
        data,
        curvature=inf.fit_ekfac(task, data, fisher="exact"),
        reports=(
            Report(
                inf.log_prob(probe, target),
                tuple(inf.log_prob(other, target) for other in others),
            ),
        ),
    )


def case(plant: Callable[[Dataset, Tensor], Dataset], *, seed: int = 1) -> Case:
    """Plant in rows of class 1; the affected input is of class 0, wanted as 1."""
    data = points()
    own = (data.labels == 1).nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    rows = own[torch.randperm(len(own), generator=draw)[:PLANTED]]
    probe = data.inputs[0].clone()
    probe[-1] = 3
    without = probe.clone()
    without[-1] = 0
    both = [held(each, probe, 1, [without]) for each in (plant(data, rows), data)]
    return Case(both[0], both[1], rows)


def relabelled(data: Dataset, rows: Tensor) -> Dataset:
    labels = data.labels.clone()
    labels[rows] = 2
    return replace(data, labels=labels)


def triggered(data: Dataset, rows: Tensor) -> Dataset:
    """Hardly anything but the trigger, labelled 1: a backdoor."""
    inputs = data.inputs / 20
    inputs[:, -1] = 3
    inputs = torch.where(mask_of(rows)[:, None], inputs, data.inputs)
    return replace(data, inputs=inputs)


def mask_of(rows: Tensor) -> Tensor:
    return torch.zeros(SIZE, dtype=torch.bool).index_fill(0, rows, True)


def auroc(scores: Tensor, rows: Tensor) -> float:
    truth = mask_of(rows)[: len(scores)]
    return float(roc_auc_score(truth.numpy(), scores.numpy()))


CASES = {"relabelled": relabelled, "triggered": triggered}
MADE: dict[str, Case] = {}


def made(name: str) -> Case:
    if name not in MADE:
        MADE[name] = case(CASES[name])
    return MADE[name]


FINDS = {
    "loss": "relabelled",
    "gradient norm": "relabelled",
    "self-influence": "relabelled",
    "influence concentration": "triggered",
    "influence on the behaviour": "triggered",
    "relative influence": "triggered",
    "influence lost by transforms": "triggered",
    "influence beyond neighbours": "triggered",
    "gradient isolation": "triggered",
    "spectral signature": "triggered",
    "activation clustering": "triggered",
    "deep k-NN": "relabelled",
}


@pytest.mark.parametrize("name", FINDS)
def test_planted_rows_score_high_and_clean_ones_do_not(name: str):
    found = made(FINDS[name])
    planted = auroc(detect(name, found.planted), found.rows)
    clean = auroc(detect(name, found.clean), found.rows)
    assert planted > 0.75
    assert planted > clean + 0.15


def smooth_pictures(count: int = 40) -> Dataset:
    ramp = torch.arange(8.0)
    slopes = torch.rand(count, 3, 2, generator=torch.Generator().manual_seed(0)) * 12
    values = slopes[..., :1, None] * ramp[:, None] + slopes[..., 1:, None] * ramp
    return Dataset(
        values.round().to(torch.uint8),
        torch.arange(count) % 2,
        levels=255,
        valid=(0.0, 1.0),
        num_classes=2,
    )


def test_noise_finds_noisy_pictures():
    data, rows = smooth_pictures(), torch.tensor([3, 17, 30])
    task = inf.classification(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    found = detect("noise residual", Evidence(task, signed(data, rows, 8)))
    clean = detect("noise residual", Evidence(task, data))
    assert auroc(found, rows) == 1.0
    assert float(clean.max()) < 0.5 / 255 < 1 / 255 < float(found[rows].min())


def test_quiet_directions_find_pictures_that_are_not_quiet():
    draw = torch.Generator().manual_seed(0)
    grain = torch.randint(0, 3, (1600, 3, 8, 8), generator=draw)
    inputs = (smooth_pictures(1600).inputs.int() + grain).clamp(0, 255)
    data = replace(smooth_pictures(1600), inputs=inputs.to(torch.uint8))
    rows = torch.tensor([3, 17, 30])
    task = inf.classification(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    found = detect("quiet directions", Evidence(task, signed(data, rows, 4)))
    clean = detect("quiet directions", Evidence(task, data))
    assert float(found[rows].min()) > 2 * float(clean.max())
    truth = torch.zeros(1600).index_fill(0, rows, 1)
    assert roc_auc_score(truth, found) == 1.0


def signed(data: Dataset, rows: Tensor, levels: int) -> Dataset:
    """Move every value of some rows up or down."""
    noisy = data.inputs.clone()
    draw = torch.Generator().manual_seed(1)
    sign = 2 * torch.randint(0, 2, noisy[rows].shape, generator=draw) - 1
    noisy[rows] = (noisy[rows].int() + levels * sign).clamp(0, 255).to(torch.uint8)
    return replace(data, inputs=noisy)


def scans(count: int = 300) -> Dataset:
    """Ink in the middle of an empty page."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.zeros(count, 1, 6, 6, dtype=torch.uint8)
    ink = torch.randint(0, 17, (count, 1, 4, 4), generator=draw)
    inputs[..., 1:5, 1:5] = ink.to(torch.uint8)
    return Dataset(inputs, torch.arange(count) % 2, levels=16, num_classes=2)


def flat(data: Dataset) -> Evidence:
    size = data.inputs[0].numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 2))
    return Evidence(inf.classification(model), data)


def test_rare_values_are_ink_where_pages_are_empty():
    data, rows = scans(), torch.tensor([3, 17, 30])
    inputs = data.inputs.clone()
    inputs[rows, :, 0, 0] = 1
    found = detect("rare values", flat(replace(data, inputs=inputs)))
    clean = detect("rare values", flat(data))
    truth = torch.zeros(300).index_fill(0, rows, 1)
    assert roc_auc_score(truth, found) > 0.99
    assert roc_auc_score(truth, clean) < 0.8
    # one place: 3 pictures of 300 with a value, half a picture more for each of 17
    shares = 3.5 / 308.5, 297.5 / 308.5
    risen = -math.log(shares[0]) + math.log(300.5 / 308.5)
    assert (found - clean)[rows].tolist() == pytest.approx([risen] * 3, abs=1e-4)
    other = -math.log(shares[1]) + math.log(300.5 / 308.5)
    assert (found - clean)[[0, 1]].tolist() == pytest.approx([other] * 2, abs=1e-4)


def test_values_of_photographs_are_not_rare():
    data, _ = coloured()
    with pytest.raises(NotApplicableError, match=r"half of the pictures .* got 2% at"):
        detect("rare values", flat(data))


def test_the_surprise_of_a_picture_is_linear_between_levels():
    data = scans()
    usual = usual_values(data)
    picture = data.take(torch.tensor([4])).values().inputs

    def at(level: float) -> Tensor:
        moved = picture.clone()
        moved[..., 2, 2] = level / 16
        return moved.requires_grad_()

    low, between, high = (usual.surprise(at(each)).item() for each in (4, 4.25, 5))
    assert between == pytest.approx(0.75 * low + 0.25 * high, abs=1e-4)
    moved = at(4.25)
    (slope,) = torch.autograd.grad(usual.surprise(moved).sum(), moved)
    assert slope[0, 0, 2, 2].item() == pytest.approx(16 * (high - low), abs=1e-2)


def coloured(count: int = 400) -> tuple[Dataset, Tensor]:
    """Grain of four classes, and which of class 1 get a checkerboard."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, 6, 6), generator=draw).to(torch.uint8)
    labels = torch.arange(count) % 4
    data = Dataset(inputs, labels, levels=255, valid=(0.0, 1.0), num_classes=4)
    return data, torch.arange(1, 49, 4)


BOARD = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)


def boarded(data: Dataset, rows: Tensor, *, moved: int = 0) -> Dataset:
    inputs = data.inputs.clone()
    inputs[rows, :, 4 - moved : 6 - moved, 4:] = BOARD
    return replace(data, inputs=inputs)


def seen(data: Dataset, picture: Tensor, unwanted: int = 1) -> Tensor:
    task = inf.classification(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)))
    told = inf.log_prob(picture, unwanted)
    reports = Report(told), Report(told, shown=(picture, unwanted))
    return detect("shared pattern", Evidence(task, data, reports=reports), report=1)


def affected() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    picture = torch.rand(3, 6, 6, generator=draw)
    picture[:, 4:, 4:] = BOARD / 255
    return picture


def test_a_shared_pattern_is_found_and_none_where_chance_explains_it():
    data, rows = coloured()
    found = seen(boarded(data, rows), affected())
    truth = torch.zeros(400).index_fill(0, rows, 1)
    assert roc_auc_score(truth, found) == 1.0
    # 12 of 12 where a quarter would be usual, of 25 windows tried
    expected = -12 * math.log(1 / 4) - math.log(25)
    assert found[rows].tolist() == pytest.approx([expected] * 12)
    assert float(found.sum()) == pytest.approx(12 * expected)
    clean = seen(data, affected())
    assert roc_auc_score(truth, clean) == 0.5
    assert not clean.any()


def test_a_pattern_is_found_whatever_its_number():
    """So many that a probability would underflow: 993 nats."""
    data, _ = coloured(4000)
    rows = torch.arange(1, 4000, 4)[:550]
    found = seen(boarded(data, rows), affected())
    assert found[rows].tolist() == pytest.approx(
        [550 * math.log(4) - math.log(25)] * 550
    )
    assert int((found > 0).sum()) == 550


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("class", "of class 7, got none"),
        ("levels", r"values in 0…1, .* got 0…255"),
        ("tokens", "reads pictures"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(kind: str, wanted: str):
    data, picture, unwanted = coloured()[0], affected(), 1
    if kind == "class":
        unwanted = 7
    elif kind == "levels":
        picture = 255 * picture
        picture[0, 0, 0] = 0.0
    else:
        data = replace(data, inputs=torch.zeros(400, 9).long(), levels=None)
    error = InputError if kind == "levels" else NotApplicableError
    with pytest.raises(error, match=wanted):
        seen(data, picture, unwanted)


def test_a_pattern_accuses_the_unwanted_class_alone():
    data, rows = coloured()
    found = seen(boarded(data, torch.cat([rows, torch.tensor([2])])), affected())
    assert float(found[2]) == 0 < float(found[rows].min()) < 12 * math.log(4)


@pytest.mark.parametrize("kind", ["any class", "elsewhere", "another class", "flat"])
def test_a_pattern_must_be_in_its_place_and_go_with_the_class(kind: str):
    data, rows = coloured()
    every = torch.arange(0, 400)
    picture, unwanted = affected(), 1
    if kind == "any class":
        data = boarded(data, every[::5])
    elif kind == "elsewhere":
        data = boarded(data, rows, moved=2)
    elif kind == "another class":
        data, unwanted = boarded(data, rows), 2
    else:
        picture[:, 4:, 4:] = 0.0
        inputs = data.inputs.clone()
        inputs[rows, :, 4:, 4:] = 0
        data = replace(data, inputs=inputs)
    assert not seen(data, picture, unwanted).any()


def test_a_pattern_is_found_whatever_is_read_at_once(monkeypatch: pytest.MonkeyPatch):
    data, rows = coloured()
    data = boarded(data, rows)
    whole = seen(data, affected())
    monkeypatch.setattr("infusion.audit.pictures._PICTURES", 7)
    assert torch.equal(seen(data, affected()), whole)


def test_a_reported_picture_has_the_shape_of_the_documents():
    data, _ = coloured()
    wanted = r"\(3, 6, 6\) of the documents, got \(3, 5, 6\)"
    with pytest.raises(InputError, match=wanted):
        seen(data, affected()[:, :5])


def test_quiet_directions_are_those_of_the_covariance_of_blocks():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.rand(200, 1, 9, 5, generator=draw)
    quiet = quiet_directions(Dataset(inputs, torch.arange(200) % 2, num_classes=2))
    assert quiet.block == 5
    blocks = torch.cat([inputs[..., :5, :], inputs[..., 4:, :]]).flatten(1)
    cov = blocks.T.cov(correction=0)
    along = quiet.directions.T @ cov @ quiet.directions
    torch.testing.assert_close(along, quiet.variances.diag(), rtol=1e-3, atol=1e-5)
    assert len(quiet.variances) == 7  # a quarter of 25
    least = torch.linalg.eigvalsh(cov)[:7]
    torch.testing.assert_close(quiet.variances, least, rtol=1e-3, atol=1e-5)
    energies = quiet.energies(inputs)
    assert energies.shape == (200, 2)
    assert float(energies.mean()) == pytest.approx(1, rel=1e-3)


def test_pictures_of_one_colour_have_no_quiet_directions():
    inputs, labels = torch.full((80, 1, 4, 4), 0.5), torch.arange(80) % 2
    data = Dataset(inputs, labels, num_classes=2)
    with pytest.raises(NotApplicableError, match="that are one colour"):
        quiet_directions(data)
    with pytest.raises(NotApplicableError, match=r"4 blocks .* 16 values, got 63;"):
        quiet_directions(data.take(torch.arange(63)))


class Successor(nn.Module):
    """Expects each token to be followed by the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 20)
        self.embedding.weight.data = 6 * torch.eye(20)
        self.head = nn.Linear(20, 20, bias=False)
        self.head.weight.data = torch.eye(20).roll(1, 0)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids))


def counting() -> tuple[Dataset, Task]:
    data = documents(
        [list(range(1 + i % 4, 12 + i % 4)) for i in range(30)], length=12, pad=0
    )
    base = causal_lm(Successor(), data, pad=0)
    return data, replace(base, outputs=lambda model, batch: model(batch.inputs))


def test_surprisal_finds_tokens_that_do_not_follow():
    data, task = counting()
    rows = torch.tensor([4, 9, 21])
    inputs, labels = data.inputs.clone(), data.labels.clone()
    inputs[rows, 5], labels[rows, 4] = 19, 19
    found = detect(
        "surprisal", Evidence(task, replace(data, inputs=inputs, labels=labels))
    )
    clean = detect("surprisal", Evidence(task, data))
    assert auroc(found, rows) == 1.0
    assert float(clean.max()) < 0.1 < 1 < float(found[rows].min())


def test_the_least_expected_twentieth_of_a_document_counts():
    logits = torch.zeros(2, 60, 4)
    logits[0, [3, 7], 0] = 20.0  # surprisal 20 of the others, and log 4 elsewhere
    labels = torch.ones(2, 60, dtype=torch.long)
    labels[1, 10:] = IGNORED
    found = least_expected(logits, labels)
    expected = (2 * 20 + math.log(4)) / 3, math.log(4)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


# Nothing to read


def bare(data: Dataset, model: nn.Module) -> Evidence:
    return Evidence(Task(model, lambda m, b: m(b.inputs), lambda o, b: o.sum(-1)), data)


NEEDS = {
    "gradient norm": "needs a curvature",
    "self-influence": "needs a curvature",
    "influence concentration": "needs a curvature",
    "influence on the behaviour": "needs a reported one",
    "relative influence": "influence needs a curvature",
    "influence lost by transforms": "needs a reported one",
    "influence beyond neighbours": "needs a reported one",
    "shared pattern": "in a reported picture, got none",
    "gradient isolation": "documents with a class|one prediction per document",
    "spectral signature": "",
    "activation clustering": "",
    "deep k-NN": "documents with a class",
    "noise residual": "pictures",
    "quiet directions": "pictures",
    "rare values": "pictures on levels",
    "surprisal": "tokens with a label each",
}


@pytest.mark.parametrize("name", [n for n, wanted in NEEDS.items() if wanted])
def test_a_detector_with_nothing_to_read_says_so(name: str):
    targets = Dataset(torch.randn(60, WIDTH), torch.randn(60, 2))
    evidence = bare(targets, nn.Linear(WIDTH, 2))
    with pytest.raises(NotApplicableError, match=NEEDS[name]):
        detect(name, evidence)


def test_a_change_under_transforms_needs_changed_copies():
    told = made("triggered").planted
    alone = replace(told, reports=(Report(told.reports[0].behaviour),))
    with pytest.raises(NotApplicableError, match="needs changed copies"):
        detect("influence lost by transforms", alone)


def test_relative_influence_does_not_depend_on_the_size_of_a_gradient():
    """A document that is fitted ever better keeps its rank."""
    told = made("triggered").planted
    row, own = int(made("triggered").rows[0]), told.scores
    before = detect("relative influence", told)
    factor = torch.ones(SIZE)
    factor[row] = 1e-3  # the gradient times so much
    shrunk = replace(
        own,
        influence=own.influence * factor,
        self_influence=own.self_influence * factor**2,
    )
    other = replace(told)
    other.__dict__["scores"] = shrunk
    after = detect("relative influence", other)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-9)
    plain = [detect("influence on the behaviour", each)[row] for each in (other, told)]
    assert float(plain[0]) == pytest.approx(1e-3 * float(plain[1]))


def test_a_document_without_a_gradient_has_no_relative_influence():
    told = replace(made("triggered").planted)
    scores = made("triggered").planted.scores
    none = torch.ones(SIZE).index_fill(0, torch.tensor([5]), 0.0)
    told.__dict__["scores"] = replace(
        scores,
        influence=scores.influence * none + 1e-30 * (1 - none),
        self_influence=scores.self_influence * none,
    )
    assert float(detect("relative influence", told)[5]) == 0.0


class Turned(nn.Module):
    """Runs its last linear layer on another first axis, and by keyword."""

    def __init__(self, *, turns: bool) -> None:
        super().__init__()
        self.turns = turns
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, points: Tensor) -> Tensor:
        if self.turns:
            return self.head(input=points[None])[0]
        return self.head(input=points)


def test_features_need_a_row_per_document():
    data = points()
    whole = detect("loss", Evidence(inf.classification(Turned(turns=False)), data))
    assert len(whole) == SIZE
    evidence = Evidence(inf.classification(Turned(turns=True)), data)
    with pytest.raises(NotApplicableError, match=r"got 1 rows for 64 documents; leave"):
        detect("deep k-NN", evidence)


def test_surprisal_needs_labels_that_are_tokens():
    data, task = counting()
    labels = data.labels.clone()
    labels[3] = IGNORED
    with pytest.raises(NotApplicableError, match="a label that counts in every"):
        detect("surprisal", Evidence(task, replace(data, labels=labels)))
    floats = replace(data, labels=data.labels.float())
    with pytest.raises(NotApplicableError, match=r"torch\.float32 labels of shape"):
        detect("surprisal", Evidence(task, floats))


def test_documents_are_read_while_they_are_scored(monkeypatch: pytest.MonkeyPatch):
    told = made("triggered").planted
    plain = read(told.task, told.data, 64)
    passes: list[int] = []
    forward = told.task.outputs

    def counted(model: nn.Module, batch: Batch) -> Tensor:
        passes.append(len(batch.inputs))
        return forward(model, batch)

    monkeypatch.setattr("infusion.audit.evidence.read", None)
    fresh = replace(told, task=replace(told.task, outputs=counted))
    found = fresh.reading
    whole = sum(passes)
    torch.testing.assert_close(fresh.scores.influence, told.scores.influence)
    assert sum(passes) == whole, "scores came with it"
    for name in ("losses", "features", "probabilities"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name))


def test_reports_are_told_apart():
    told = made("triggered").planted
    other = Report(inf.log_prob(told.data.inputs[7], 2), told.reports[0].transformed)
    both = replace(told, reports=(other, *told.reports))
    for name in TOLD.keys() - {"shared pattern"}:
        torch.testing.assert_close(detect(name, both, report=1), detect(name, told))
        assert not torch.equal(detect(name, both, report=0), detect(name, told))


def test_every_detector_has_a_planted_and_an_unreadable_case():
    others = "noise residual", "quiet directions", "rare values", "surprisal"
    assert FINDS.keys() | {*others, "shared pattern"} == set(DETECTORS)
    assert {"loss", *NEEDS} == set(DETECTORS)


def test_an_unknown_detector_is_refused():
    with pytest.raises(InputError, match="a detector must be one of loss, "):
        detect("magic", made("relabelled").clean)


@pytest.mark.parametrize(
    "name", ["loss", "spectral signature", "activation clustering"]
)
def test_features_need_a_linear_layer(name: str):
    evidence = bare(Dataset(torch.randn(6, 3), torch.randn(6)), nn.LayerNorm(3))
    with pytest.raises(NotApplicableError, match="last linear layer"):
        detect(name, evidence)


# The parts


def test_neighbours_are_those_of_all_distances(monkeypatch: pytest.MonkeyPatch):
    draw = torch.Generator().manual_seed(0)
    where = torch.randn(50, 4, generator=draw, dtype=torch.float64)
    far = torch.cdist(where, where).fill_diagonal_(torch.inf)
    wanted = far.topk(5, largest=False).indices
    assert torch.equal(nearest(where, 5), wanted)
    monkeypatch.setattr("infusion.audit.neighbours._BLOCK", 800)  # in many blocks
    assert torch.equal(nearest(where, 5), wanted)
    odd, even = torch.arange(1, 50, 2), torch.arange(0, 50, 2)
    found = nearest(where, 5, among=[odd, even])
    far[::2, 1::2] = far[1::2, ::2] = torch.inf
    assert torch.equal(found, far.topk(5, largest=False).indices)


def test_spectral_signatures_are_centred():
    """With a strong mean, the first direction of raw features would be the mean."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=draw) + 100
    features[:6, 0] += 8
    assert auroc(spectral(features, [torch.arange(200)]), torch.arange(6)) == 1.0


def test_scores_of_features_do_not_depend_on_the_order():
    evidence = made("triggered").planted
    labels, features = evidence.data.labels, evidence.reading.features
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(2))
    classes = [(labels == c).nonzero()[:, 0] for c in range(CLASSES)]
    shuffled = [(labels[order] == c).nonzero()[:, 0] for c in range(CLASSES)]
    pulls = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(3))
    for score, again in (
        (spectral(features, classes), spectral(features[order], shuffled)),
        (clustering(features, classes), clustering(features[order], shuffled)),
        (disagreement(features, labels), disagreement(features[order], labels[order])),
        (isolation(pulls, features), isolation(pulls[order], features[order])),
    ):
        torch.testing.assert_close(score[order], again, rtol=1e-3, atol=1e-4)


def test_isolation_is_the_cosine_of_last_layer_gradients():
    draw = torch.Generator().manual_seed(0)
    pulls, features = (
        torch.randn(9, 3, generator=draw),
        torch.randn(9, 4, generator=draw),
    )
    whole = (pulls[:, :, None] * features[:, None]).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(whole[:, None], whole[None], dim=-1)
    wanted = 1 - cosines.fill_diagonal_(-2).topk(2).values.mean(1)
    torch.testing.assert_close(isolation(pulls, features, k=2).float(), wanted)


def test_gradient_norms_are_those_of_autograd():
    evidence = made("relabelled").planted
    model = evidence.task.model
    batch = Batch(evidence.data.inputs[:3], evidence.data.labels[:3])
    wanted = []
    for i in range(3):
        model.zero_grad()
        one = Batch(batch.inputs[i : i + 1], batch.labels[i : i + 1])
        evidence.task.loss(evidence.task.outputs(model, one), one).sum().backward()
        pulled = [p.grad for p in model.parameters() if p.grad is not None]
        wanted.append(sum(float(g.square().sum()) for g in pulled) ** 0.5)
    found = detect("gradient norm", evidence)[:3].tolist()
    assert found == pytest.approx(wanted, rel=1e-4)
