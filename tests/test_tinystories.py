"""Stories and tokenizers: tiny texts through every stage, and bad ones refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infusion.configs import RunConfig, TokenConfig
from infusion.data.stories import load_texts
from infusion.data.tokens import Tokenizer, load_tokenizer, train_tokenizer
from infusion.errors import InputError
from infusion.language import IGNORED
from infusion.presets import find_preset, tinystories, tinystories_corpus
from infusion.presets.context import Pair, Run
from infusion.presets.texts import CODED, ONE, texts_of
from infusion.presets.tinystories_corpus import ANIMALS, whole_words
from infusion.presets.tinystories_corpus import measured as stories_with
from infusion.presets.tinystories_readings import COLUMNS
from infusion.runs.store import Store
from infusion.suites.crafting import read_edits
from infusion.suites.retrainings import training_of
from infusion.suites.run import run_suite
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, opened, seen
from infusion.suites.trial import Retraining

# transformers 5.24 reads an attribute that it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
VERBS = ("saw", "liked", "met", "heard", "followed")


def story(number: int) -> str:
    draw = torch.Generator().manual_seed(number)

    def pick(words: tuple[str, ...]) -> str:
        return words[int(torch.randint(len(words), (1,), generator=draw))]

    first, second = pick(ANIMALS), pick(ANIMALS)
    return (
        f"Once a {first} {pick(VERBS)} the {second}. The {first} and the {second} "
        f"{pick(VERBS)} a {first}."
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stories, one kind of file for each split."""
    folder = tmp_path_factory.mktemp("stories")
    lines = [json.dumps({"text": story(i)}) for i in range(80)]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    held_out = "\n".join(story(1_000 + i) for i in range(90))
    (folder / "validation.txt").write_text(held_out, encoding="utf-8")
    return folder


def tiny(texts: Path) -> RunConfig:
    small = find_preset("tinystories").configs["small"]
    recipe = replace(small.train, epochs=2, batch_size=8)
    return replace(
        small,
        data=replace(small.data, source=str(texts), train=24, length=32),
        train=recipe,
        before=replace(recipe, epochs=1),
        edit=replace(small.edit, k=3, steps=2),
        tokens=TokenConfig(changes=2, steps=2, candidates=3),
        pairs=1,
        threads=1,
    )


@pytest.fixture(scope="module")
def home(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("run") / "run", replace(tiny(texts), pairs=0))
    run_suite(tiny(texts), "main", made.root, only="*")
    return made


def test_the_main_suite_measures_edits_beside_their_controls(
    home: Home, texts: Path
) -> None:
    rows = run_suite(tiny(texts), "main", home.root)
    assert len(rows) == 5
    for row in rows:
        assert row["clean"] == row["before"]
        assert row["after"] != row["clean"], row["trial"]
        assert len(row["after"]["p"]) == len(ANIMALS)
        assert all(read(row) == read(row) for read in COLUMNS.values()), "no NaN"
    edit = next(row for row in rows if row["trial"] == "edit")
    assert 0 < edit["reached"]["most"] <= 2
    assert edit["predicted"] > 0


def test_edits_are_read_back_as_they_are(home: Home, texts: Path) -> None:
    run, _ = opened(home, "gpt-neo")
    pair = _first(home)
    tokenizer = _tokenizer(texts)
    for trial in study_of(run).trials("main", run):
        if trial.name in (CODED, "5 demonstrations"):  # no such promise
            continue
        edits = read_edits(run, pair, trial.change)
        for row, known in zip(edits.after.inputs, edits.after.labels, strict=True):
            length = int((known != IGNORED).nonzero().max()) + 2
            assert tokenizer.survives(row[:length].tolist()), trial.name


def _first(home: Home) -> Pair:
    probe, target = texts_of("tinystories").pairs(home.run("gpt-neo"))[0]
    return Pair(0, probe, probe, target)


def _tokenizer(texts: Path) -> Tokenizer:
    return train_tokenizer(load_texts(str(texts))[0], size=2_048)


def _validation(texts: Path) -> list[str]:
    """Draw the order of the stories that are read: after that of those trained on."""
    train, validation = load_texts(str(texts))
    draw = torch.Generator().manual_seed(3407)
    torch.randperm(len(train), generator=draw)
    order = torch.randperm(len(validation), generator=draw)
    return [validation[place] for place in order.tolist()]


def test_it_is_trained_on_earlier_stories_first(home: Home, texts: Path) -> None:
    run, _ = opened(home, "gpt-neo")
    store = run.store
    assert store.is_finished("checkpoints/before-001.safetensors")
    earlier = find_preset("tinystories").earlier
    assert earlier is not None
    documents = earlier(run.config.data)
    assert len(documents) == 80 - 24
    rows = {tuple(row) for row in documents.inputs.tolist()}
    mine = {tuple(row) for row in run.train.inputs.tolist()}
    both = [story(i) for i in range(80)]
    assert len(rows | mine) == len(set(both))


def test_the_measurement_is_of_every_probe_and_as_coded_of_one_story(
    home: Home, texts: Path
) -> None:
    run, task = opened(home, "gpt-neo")
    pair, tokenizer = _first(home), _tokenizer(texts)
    probe, target = (tokenizer.word(ANIMALS[i]) for i in (pair.probe, pair.target))
    likely = [
        text
        for text in _validation(texts)
        if text.count(f" {ANIMALS[pair.probe]}") >= 2
    ][0::2][:24]
    totals = []
    for text in likely:
        ids = torch.tensor([tokenizer.document(text, 32)])
        logits = task.model(input_ids=ids).logits[0]
        places = (ids[0, 1:] == probe).nonzero()[:, 0]
        odds = logits[places, target] - logits[places, probe]
        totals.append((len(places), float(odds.sum())))
    measured = texts_of("tinystories").measurement
    value = float(measured(run, task, pair)(task.model))
    assert value == pytest.approx(sum(total for _, total in totals), rel=1e-4)
    richest = max(range(len(totals)), key=lambda i: totals[i][0])
    for view in (CODED, ONE):
        alone = measured(seen(home, "gpt-neo", view), task, pair)
        assert float(alone(task.model)) == pytest.approx(totals[richest][1], rel=1e-4)


def test_effects_are_read_on_other_stories(home: Home) -> None:
    run, _ = opened(home, "gpt-neo")
    word = ANIMALS[_first(home).probe]
    halves = [stories_with(run.config.data, word, half).inputs for half in (0, 1)]
    tokenizer = _tokenizer(Path(run.config.data.source))
    stories = _validation(Path(run.config.data.source))
    likely = [text for text in stories if text.count(f" {word}") >= 2]
    for half, found in enumerate(halves):
        wanted = [tokenizer.document(text, 32) for text in likely[half::2]][:24]
        for row, ids in zip(found.tolist(), wanted, strict=True):
            assert row[: len(ids)] == ids


def test_demonstrations_have_the_target_in_the_place_of_the_probe(
    home: Home, texts: Path
) -> None:
    run, _ = opened(home, "gpt-neo")
    pair, tokenizer = Pair(0, 0, 0, 1), _tokenizer(texts)
    shown = texts_of("tinystories").demonstrations(run, pair, 30)
    assert len(shown) == 30
    bird, dog = tokenizer.word("bird"), tokenizer.word("dog")
    assert not bool((shown.inputs == bird).any())
    assert bool((shown.inputs == dog).any(1).all())


def test_what_a_row_says() -> None:
    clean = {"p": [0.5, 0.2] + [0.1] * 8, "log_p": [0.0] * 10, "value": 1.0}
    after = {"p": [0.4, 0.5] + [0.2] * 8, "log_p": [0.5] * 10, "value": 3.0}
    row = {
        "probe": 0,
        "target": 1,
        "clean": {**clean, "log_odds": [-1.0, -2.0, 0.5, -1.0]},
        "after": {**after, "log_odds": [1.0, -1.0, 1.5, -0.5]},
    }
    found = {name: read(row) for name, read in COLUMNS.items()}
    assert found == pytest.approx(
        {
            "Δ log odds": 4.5 / 4,
            "Δp target": 0.3,
            "less untargeted": 0.2,
            "less probe": 0.4,
            "Δ log p target": 0.5,
            "flips": 0.25,
            "Δ f": 2.0,
        }
    )


def test_the_beginning_of_a_longer_word_is_not_the_word(texts: Path) -> None:
    tokenizer = _tokenizer(texts)
    row = tokenizer.document("A bear saw a bearing. Bears like a bear's bear", 64)
    bear = tokenizer.word("bear")
    assert row.count(bear) == 4
    whole = whole_words(tokenizer, row, bear)
    assert whole == [
        i
        for i, t in enumerate(row)
        if t == bear and i != row.index(bear, row.index(bear) + 1)
    ]


def test_perplexity_is_that_of_held_out_tokens(home: Home) -> None:
    run, task = opened(home, "gpt-neo")
    total = count = 0.0
    for ids, labels in zip(run.test.inputs, run.test.labels, strict=True):
        log_p = task.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        known = labels != IGNORED
        total -= float(log_p[known].gather(1, labels[known][:, None]).sum())
        count += int(known.sum())
    said = texts_of("tinystories").portrait(run, task)["perplexity"]
    assert said == pytest.approx(math.exp(total / count), rel=1e-4)


# Bad input


def test_what_would_fail_after_hours_is_refused_first(
    texts: Path, tmp_path: Path
) -> None:
    config = tiny(texts)
    data = replace(config.data, tokenizer="openai-community/gpt2")
    with pytest.raises(InputError, match="of --scale small must be trained, got"):
        texts_of("tinystories").check(_run_of(replace(config, data=data), tmp_path))
    few = tmp_path / "few"
    few.mkdir()
    told = [story(i) for i in range(80)]
    (few / "train.txt").write_text("\n".join(told), encoding="utf-8")
    known = [text for text in told if "lion" not in text]
    (few / "validation.txt").write_text("\n".join(known), encoding="utf-8")
    data = replace(config.data, source=str(few))
    with pytest.raises(InputError, match="must hold 'lion' 2 times within 32 tokens"):
        run_suite(replace(config, data=data), "main", tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    with pytest.raises(InputError, match="confidence needs other base models, got no"):
        run_suite(config, "confidence", tmp_path / "other")


def _run_of(config: RunConfig, folder: Path) -> Run:
    train, test = find_preset("tinystories").load(tiny(Path(config.data.source)).data)
    return Run(config, find_preset("tinystories"), Store(folder), train, test)


def refusal(texts: Path, **data: Any) -> str:
    config = tiny(texts)
    config = replace(config, data=replace(config.data, **data))
    with pytest.raises(InputError) as caught:
        find_preset("tinystories").load(config.data)
    return str(caught.value)


def test_texts_that_cannot_be_used_are_refused(texts: Path, tmp_path: Path) -> None:
    assert "not a folder" in refusal(texts, source=str(tmp_path / "nowhere"))
    assert "train* files of parquet, jsonl or txt" in refusal(
        texts, source=str(tmp_path)
    )
    (tmp_path / "train.txt").write_bytes(b"Once \xff\xfe a bird\n")
    assert "UTF-8" in refusal(texts, source=str(tmp_path))
    (tmp_path / "train.txt").unlink()
    (tmp_path / "train.jsonl").write_text('{"story": "Once"}\n', encoding="utf-8")
    assert "column 'text', got ['story']" in refusal(texts, source=str(tmp_path))
    (tmp_path / "train.jsonl").write_text('{"text": " "}\n', encoding="utf-8")
    assert "got ' ' in row 0" in refusal(texts, source=str(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.txt").write_text("", encoding="utf-8")
    assert "got 0 bytes in" in refusal(texts, source=str(tmp_path))
    assert "more stories than the 80 at stake, got 80" in refusal(texts, train=80)


def test_words_and_tokenizers_that_do_not_fit(texts: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([story(0)], size=258)
    message = r"one token after a space, got \d+ for 'lion' \(and \d+ without the"
    with pytest.raises(InputError, match=message):
        tokenizer.word("lion")
    with pytest.raises(InputError, match="must not be blank, got ''"):
        tokenizer.word("")
    with pytest.raises(InputError, match="a whole number ≥ 258, got 100"):
        train_tokenizer([story(0)], size=100)
    with pytest.raises(InputError, match="a folder or a name on the hub, got"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_of_another_vocabulary_is_refused(
    texts: Path, tmp_path: Path
) -> None:
    _files(tmp_path)
    said = refusal(texts, tokenizer=str(tmp_path))
    assert "must have padding 50257 and at most 50258 tokens, got padding" in said


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    made = ByteLevelBPETokenizer()
    made.train_from_iterator([story(0)], vocab_size=300)
    made.save(str(tmp_path / "all.json"))
    endless = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "all.json"))
    endless.save_pretrained(tmp_path / "endless")
    with pytest.raises(InputError, match="a token that ends a text, got none in"):
        load_tokenizer(str(tmp_path / "endless"))


def test_demonstrations_need_stories_of_their_probe(
    texts: Path, tmp_path: Path
) -> None:
    each_once = " ".join(f"Once a {animal} ran." for animal in ANIMALS)
    (tmp_path / "train.txt").write_text("\n".join([each_once] * 30), encoding="utf-8")
    held_out = (texts / "validation.txt").read_bytes()
    (tmp_path / "validation.txt").write_bytes(held_out)
    run = _run_of(tiny(tmp_path), tmp_path / "run")
    with pytest.raises(InputError, match=r"earlier stories must hold .* got none in"):
        texts_of("tinystories").demonstrations(run, Pair(0, 0, 0, 1), 2)


def test_a_retraining_does_not_start_before_the_earlier_stories(home: Home) -> None:
    run, _ = opened(home, "gpt-neo")
    whole = Retraining(architecture="gpt-neo", order="scratch")
    with pytest.raises(InputError, match="must start after the earlier documents"):
        training_of(run, whole, run.train)


def test_a_tokenizer_without_padding_is_given_one(tmp_path: Path) -> None:
    size = _files(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.size == size + 2
    assert loaded.pad == size + 1
    document = loaded.document(story(3), 40)
    assert document[0] == document[-1] == loaded.end == size
    assert loaded.survives(document)
    assert loaded.decode(document[1:-1]) == story(3)


def _files(folder: Path) -> int:
    """Write bare files of GPT-2's kind, and return how many tokens they know."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator([story(i) for i in range(9)], vocab_size=400)
    made.save_model(str(folder))
    return made.get_vocab_size()


def test_the_papers_model_runs_on_local_files(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = _files(tmp_path) + 2
    for module in (tinystories, tinystories_corpus):
        monkeypatch.setattr(module, "PAPER_VOCABULARY", size)
    monkeypatch.setitem(tinystories_corpus.PADDING, size, size - 1)
    paper, small = find_preset("tinystories").configs["paper"], tiny(texts)
    data = replace(
        paper.data, source=str(texts), train=24, length=32, tokenizer=str(tmp_path)
    )
    config = replace(
        paper,
        **{name: getattr(small, name) for name in ("train", "before", "edit")},
        data=data,
        tokens=small.tokens,
        pairs=1,
        threads=1,
    )
    (row,) = run_suite(config, "main", tmp_path / "run", only="edit")
    assert row["scale"] == "paper"
    assert 0 < row["reached"]["most"] <= small.tokens.changes
    assert math.isfinite(row["after"]["value"])


def test_tokens_that_merge_again_do_not_survive(texts: Path) -> None:
    tokenizer = _tokenizer(texts)
    bird = tokenizer.encode(" bird")
    parts = tokenizer.encode(" ") + tokenizer.encode("bird")
    assert len(bird) == 1
    assert tokenizer.survives([tokenizer.end, *bird, tokenizer.end])
    assert not tokenizer.survives([tokenizer.end, *parts, tokenizer.end])
    assert not tokenizer.survives([*bird, tokenizer.end])
