"""Controls: noise of the edit's size on its documents, copies of the probe."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from infusion.data.edits import Edits
from infusion.data.hashing import dataset_hash
from infusion.errors import InputError
from infusion.perturb.ascent import deliver
from infusion.perturb.budget import BUDGETS
from infusion.perturb.controls import copies, noise_like, offsets_like
from infusion.records import Dataset

K, SHAPE = 6, (3, 5, 5)
MATCHES: tuple[Literal["linf", "l2"], ...] = ("linf", "l2")


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_data(levels: int | None) -> Dataset:
    generator = stream(0)
    inputs = torch.rand(20, *SHAPE, generator=generator)
    # Dark and bright corners, where clamping eats half of any noise.
    inputs[::4] *= 0.05
    inputs[1::4] = 1 - inputs[1::4] * 0.05
    stored = inputs if levels is None else (inputs * levels).round().byte()
    labels = torch.randint(0, 3, (20,), generator=generator)
    return Dataset(stored, labels, levels=levels, valid=(0.0, 1.0), num_classes=3)


def make_edits(levels: int | None, delivery: str) -> Edits:
    data = make_data(levels)
    documents = torch.tensor([0, 1, 2, 7, 11, 16])
    before = data.take(documents)
    # A size for each document: 1 … 6 levels of 16, with a random sign each.
    sizes = torch.arange(1, K + 1).reshape(-1, 1, 1, 1) / 16
    delta = sizes * torch.randn(K, *SHAPE, generator=stream(1)).sign()
    after = deliver(before, delta, None)
    if delivery == "as_coded":
        values = before.values()
        after = replace(values, inputs=values.inputs + delta)
    return Edits(documents, before, after, operator="ascent", asked={})


def make_noise(edits: Edits, match: Literal["linf", "l2"], seed: int = 3) -> Edits:
    return noise_like(edits, match=match, seed=seed)


def sizes(edits: Edits, norm: str) -> Tensor:
    return BUDGETS[norm].size(edits.delta)


@pytest.fixture(
    params=[
        (16, "realisable"),
        (255, "realisable"),
        (None, "realisable"),
        (16, "as_coded"),
        (255, "as_coded"),
        (None, "as_coded"),
    ],
    ids="{0[0]}-{0[1]}".format,
)
def edits(request: pytest.FixtureRequest) -> Edits:
    return make_edits(*request.param)


@pytest.mark.parametrize("match", MATCHES)
def test_noise_touches_the_same_documents_on_the_same_storage(
    edits: Edits, match: Literal["linf", "l2"]
):
    noise = make_noise(edits, match)
    assert torch.equal(noise.documents, edits.documents)
    assert dataset_hash(noise.before) == dataset_hash(edits.before)
    assert torch.equal(noise.after.labels, edits.before.labels)
    stored, wanted = noise.after, edits.after
    assert (stored.levels, stored.valid) == (wanted.levels, wanted.valid)
    assert stored.inputs.dtype == wanted.inputs.dtype
    assert noise.operator == f"noise_{match}"
    assert [row["seed"] for row in noise.manifest] == [3] * K


def test_linf_noise_is_as_large_as_the_edit(edits: Edits):
    noise = make_noise(edits, "linf")
    # Storing as float32 values may cost a rounding; stored levels are exact.
    atol = 0.0 if edits.after.levels else 1e-6
    torch.testing.assert_close(
        sizes(noise, "linf"), sizes(edits, "linf"), rtol=0, atol=atol
    )


def test_linf_noise_moves_every_entry_that_has_room(edits: Edits):
    noise, size = make_noise(edits, "linf"), sizes(edits, "linf")
    moved = noise.delta.abs()
    full = (moved - size.reshape(-1, 1, 1, 1)).abs() < 1e-6
    if edits.after.valid is None:
        assert bool(full.all())
        return
    at_a_bound = noise.after.values().inputs
    at_a_bound = (at_a_bound < 1e-6) | (at_a_bound > 1 - 1e-6)
    assert bool((full | at_a_bound).all())
    assert 0.2 < float((noise.delta[full] > 0).double().mean()) < 0.8


def test_l2_noise_is_as_long_as_the_edit(edits: Edits):
    """At least as long, and longer by less than one entry's last level would add."""
    noise = make_noise(edits, "l2")
    got, wanted = sizes(noise, "l2"), sizes(edits, "l2")
    if edits.after.levels is None:
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
        return
    # Two entries of equal noise may round up at one scale, so two levels, not one.
    step = 1 / edits.after.levels
    largest = sizes(noise, "linf")
    one_more = (wanted.square() + 2 * (2 * largest * step + step**2)).sqrt()
    assert bool((got >= wanted - 1e-6).all())
    assert bool((got <= one_more).all())


def test_l2_noise_is_not_lost_to_rounding():
    """One entry of 3,072 moved by one level: noise that long rounds to nothing."""
    levels = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    before = Dataset(levels, torch.tensor([0]), levels=255, valid=(0.0, 1.0))
    moved = levels.clone()
    moved[0, 0, 0, 0] += 1
    after = replace(before, inputs=moved)
    edits = Edits(torch.tensor([0]), before, after, operator="ascent", asked={})
    for seed in range(20):
        length = float(sizes(make_noise(edits, "l2", seed), "l2")) * 255
        assert 1 <= length + 1e-6 <= 2


@pytest.mark.parametrize("match", MATCHES)
def test_seeds_reproduce_and_differ(edits: Edits, match: Literal["linf", "l2"]):
    first, again, other = (make_noise(edits, match, seed) for seed in (3, 3, 4))
    assert torch.equal(first.after.inputs, again.after.inputs)
    assert not torch.equal(first.after.inputs, other.after.inputs)
    different = (first.delta != other.delta).flatten(1).any(1)
    assert bool(different.all()), "every document must get noise of its own seed"


def test_noise_can_be_applied_and_undone(edits: Edits):
    data = make_data(edits.before.levels)
    noise = make_noise(edits, "linf")
    assert dataset_hash(noise.undo(noise.apply(data))) == dataset_hash(data)
    assert dataset_hash(edits.undo(edits.apply(data))) == dataset_hash(data)


def test_noise_of_no_edit_is_none():
    edits = make_edits(255, "realisable")
    unchanged = replace(edits, after=edits.before)
    for match in MATCHES:
        noise = make_noise(unchanged, match)
        assert torch.equal(noise.after.inputs, edits.before.inputs)


@pytest.mark.parametrize("levels", [16, None])
def test_copies_are_the_probe_with_the_target_label(levels: int | None):
    data, probe = make_data(levels), make_data(levels).take(torch.tensor([5]))
    documents = torch.tensor([3, 9, 4])
    made = copies(data, documents, probe, target=2)
    edited = made.apply(data)
    for document in documents.tolist():
        assert torch.equal(edited.inputs[document], probe.inputs[0])
        assert int(edited.labels[document]) == 2
    others = torch.ones(len(data), dtype=torch.bool)
    others[documents] = False
    assert torch.equal(edited.inputs[others], data.inputs[others])
    assert torch.equal(edited.labels[others], data.labels[others])
    assert dataset_hash(made.undo(edited)) == dataset_hash(data)
    assert [row["label"] for row in made.manifest] == [2, 2, 2]


def test_copies_need_one_probe_of_the_same_shape():
    data = make_data(16)
    with pytest.raises(InputError, match=r"one document of shape \(3, 5, 5\), got \(2"):
        copies(data, torch.tensor([0]), data.take(torch.tensor([1, 2])), target=0)
    wide = replace(data, inputs=data.inputs.repeat(1, 1, 1, 2))
    with pytest.raises(InputError, match="take one row of the test set"):
        copies(data, torch.tensor([0]), wide.take(torch.tensor([1])), target=0)


@pytest.mark.parametrize("match", MATCHES)
def test_noise_of_offsets_is_as_large_where_they_are(
    match: Literal["linf", "l2"],
) -> None:
    before = Dataset(torch.zeros(K, 4, dtype=torch.long), torch.zeros(K, 4).long())
    offsets = torch.randn(K, 4, 3, generator=stream(0)) * torch.arange(K)[:, None, None]
    offsets[:, 2:] = 0  # padding
    after = replace(before, inputs=offsets)
    edits = Edits(torch.arange(K), before, after, operator="embeddings", asked={})
    noise = offsets_like(edits, match=match, seed=1)
    for wanted, got in zip(edits.reached, noise.reached, strict=True):
        assert got[match] == pytest.approx(wanted[match], rel=1e-5)
    assert torch.equal(noise.after.inputs != 0, offsets != 0)
    assert torch.equal(noise.after.inputs[0], offsets[0]), "nothing for no edit"
    again = offsets_like(edits, match=match, seed=2)
    assert not torch.equal(again.after.inputs, noise.after.inputs)
    assert noise.are_offsets
    with pytest.raises(InputError, match="must be of embeddings, got edits by ascent"):
        offsets_like(make_edits(16, "realisable"), match=match, seed=0)
