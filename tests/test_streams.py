"""Streams: whatever takes documents gives the same bits when it reads them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.records import Dataset
from infusion.training.loop import init_model


@pytest.mark.parametrize("positions", [[3], [-1], [0, 7]])
def test_positions_beyond_the_ends_are_refused(positions: list[int]) -> None:
    """A generator would make documents that are none of the corpus."""
    zeros = inf.Dataset(torch.zeros(8, 2), torch.zeros(8))
    stream = inf.Stream(3, lambda at: zeros.take(at % 8))
    with pytest.raises(inf.InputError, match="must be positions in 0…2, got"):
        stream.take(torch.tensor(positions))


def test_a_bad_row_is_named_by_its_position() -> None:
    """Its row in the batch that was read says nothing where batches are shuffled."""
    rows = torch.zeros(8, 2)
    rows[5, 1] = torch.nan
    stream = inf.Stream(8, lambda at: inf.Dataset(rows[at], torch.zeros(len(at))))
    wanted = "^document 5 of a stream, read by itself as row 0: inputs must be finite"
    with pytest.raises(inf.InputError, match=wanted):
        stream.take(torch.tensor([7, 2, 5, 1]))


def read_from(data: Dataset, seen: list[int]) -> inf.Stream:
    def read(positions: Tensor) -> Dataset:
        seen.append(len(positions))
        return data.take(positions)

    return inf.Stream(len(data), read)


def test_stages_give_the_same_bits_and_hold_a_batch(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    recipe = inf.TrainConfig(epochs=2, batch_size=4, lr=0.05)
    held: list[int] = []
    found: list[dict[str, Tensor]] = []
    for data in (pictures, read_from(pictures, held)):
        task = inf.classification(make_cnn())
        done = inf.train(task, data, recipe, seed=0)
        skip = ("BatchNorm2d",)
        curvature = inf.fit_ekfac(task, data, skip=skip, batch_size=4)
        torch.manual_seed(0)
        measured = inf.gradient(task, inf.log_prob(torch.rand(2, 6, 6).double(), 1))
        ihvp = curvature.solve(measured, damping_ratio=0.1)
        scores = inf.influence(task, data, ihvp, batch_size=4)
        chosen = inf.select(scores, k=3)
        edits = inf.craft(task, data, chosen, ihvp, budget=inf.LInf(2 / 16), steps=2)
        again = inf.classification(make_cnn())
        after = inf.train(again, edits.apply(data), recipe, seed=0)
        found.append(
            {
                **done.model,
                **{f"after/{name}": value for name, value in after.model.items()},
                "influence": scores,
                "influences": inf.influences(task, data, [ihvp] * 2, batch_size=4),
                "self": inf.self_influence(
                    task, data, curvature, damping_ratio=0.1, batch_size=4
                ),
                "edited": edits.after.inputs,
                "predicted": torch.tensor(
                    inf.predicted_effect(task, data, edits, ihvp)
                ),
            }
        )
    one, other = found
    assert set(one) == set(other)
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    assert max(held) <= 4
    assert not torch.equal(one["after/0.weight"], one["0.weight"])


def test_rows_put_into_a_stream_are_read_back(pictures: Dataset) -> None:
    stream = read_from(pictures, [])
    rows = pictures.take(torch.tensor([0, 1]))
    changed = stream.put(torch.tensor([5, 3]), rows)
    asked = torch.tensor([3, 4, 5, 6])
    wanted = pictures.put(torch.tensor([5, 3]), rows).take(asked)
    assert changed.take(asked) == wanted
    assert stream.take(asked) == pictures.take(asked), "the stream itself is as it was"


@pytest.mark.parametrize("kind", ["dataset", "stream"])
def test_rows_that_do_not_fit_are_not_put(kind: str, pictures: Dataset) -> None:
    data = pictures if kind == "dataset" else read_from(pictures, [])
    two = pictures.take(torch.tensor([0, 1]))
    for positions in ([3], [3, 3], [-1, 2], [2, 14]):
        with pytest.raises(inf.InputError, match="rows to put must have different"):
            data.put(torch.tensor(positions), two)
    with pytest.raises(inf.InputError, match="must be stored as the documents are"):
        data.put(torch.tensor([3, 4]), two.values())


def test_rows_of_a_stream_are_stored_alike(pictures: Dataset) -> None:
    def read(positions: Tensor) -> Dataset:
        found = pictures.take(positions)
        return found if int(positions[0]) < 5 else found.values()

    stream = inf.Stream(14, read)
    assert stream.take(torch.tensor([4])) == pictures.take(torch.tensor([4]))
    with pytest.raises(inf.InputError, match="rows of a stream must be stored alike"):
        stream.take(torch.tensor([5]))


def test_edits_of_a_stream_are_undone(pictures: Dataset) -> None:
    at = torch.tensor([2, 9])
    before, after = pictures.take(at), pictures.take(torch.tensor([0, 1]))
    edits = inf.Edits(at, before, after, "ascent", {})
    edited = edits.apply(read_from(pictures, []))
    assert edited.take(at) == after
    assert edits.undo(edited).take(torch.arange(14)) == pictures


@pytest.mark.usefixtures("no_type_check")
def test_what_is_no_stream_is_refused(pictures: Dataset) -> None:
    with pytest.raises(inf.InputError, match="size of a stream must be"):
        inf.Stream(0, pictures.take)
    with pytest.raises(inf.InputError, match="of the 1 rows asked for, got 14"):
        inf.Stream(14, lambda _: pictures)
    with pytest.raises(inf.InputError, match="rows asked for, got tuple"):
        inf.Stream(3, lambda _: (1, 2))  # pyright: ignore[reportArgumentType]
    task = inf.classification(init_model(lambda: nn.Linear(2, 3), 0))
    with pytest.raises(inf.InputError, match="data must be an infusion"):
        inf.fit_ekfac(task, torch.zeros(3, 2))  # pyright: ignore[reportArgumentType]
    edits = inf.Edits(
        torch.tensor([0]),
        pictures.take(torch.tensor([0])),
        pictures.take(torch.tensor([0])).values(),
        "ascent",
        {},
    )
    with pytest.raises(inf.InputError, match="edits of a stream must be stored as"):
        edits.apply(read_from(pictures, []))
