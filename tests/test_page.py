"""The page: self-contained, and every number on it as stored in the run folder."""

import base64
import copy
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from infusion.errors import ArtefactError
from infusion.intervals import bootstrap_mean
from infusion.report.figures import effects
from infusion.report.page import report
from infusion.report.pictures import magnification, png_uri, values
from infusion.report.suites import suite_figures
from infusion.report.tables import effects_rows, effects_table, interval
from infusion.runs.store import Store, json_bytes
from infusion.suites.collected import collect
from infusion.suites.shown import show_page

from . import text_rows
from .browser import Chromium, Page, Visit, number_faults, read

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium must be installed; apt-get install chromium"
)
LIMIT = 5_000_000
BOOTSTRAPPED = {
    "effects": "delta_log_p",
    "paired": "delta_log_p",
    "effects_p": "delta_p",
    "effects_log_odds": "delta_log_odds",
    "accuracy_after": "accuracy",
}
"""Blocks of intervals in ``results.json``, and which value of a pair each is of."""


def wanted_keys(results: dict[str, Any]) -> set[str]:
    """Keys of ``results.json`` that a page must show."""
    arms = results["config"]["arms"]
    ends = ("mean", "low", "high") if results["n_pairs"] > 1 else ("mean",)
    blocks = [block for block in BOOTSTRAPPED if block != "paired"]
    keys = {f"{b}.{a}.{end}" for b in blocks for a in arms for end in ends}
    keys |= {f"paired.{a}.{end}" for a in arms if a != "edit" for end in ends}
    keys |= {f"top1.{a}.{end}" for a in arms for end in ("count", "low", "high")}
    keys |= {"clean_accuracy.before", "clean_accuracy.after", "n_pairs", "threads"}
    keys |= {"seeds.0", "config.edit.k", "config.edit.epsilon"}
    for row, pair in enumerate(results["pairs"]):
        at = f"pairs.{row}"
        keys |= {f"{at}.arms.{a}.delta_log_p" for a in arms}
        keys |= {f"{at}.before.p", f"{at}.arms.edit.p", f"{at}.arms.edit.predicted"}
        if row < 8:
            classes = (pair["target"], pair["label"])
            keys |= {f"{at}.arms.{a}.probabilities.{c}" for a in arms for c in classes}
    return keys


def decode(uri: str | None) -> Image.Image:
    assert uri is not None
    assert uri.startswith("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    image.load()
    return image


def assert_self_contained(path: Path) -> None:
    text = path.read_text()
    assert len(text.encode()) < LIMIT
    assert not re.findall(r"https?://|//[a-z]+\.|<script|<link|@import", text)
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", text))


def drawn(root: Path) -> Path:
    page = root / "report.html"
    return page if page.is_file() else report(root)


def clone(root: Path, to: Path) -> Path:
    return shutil.copytree(root, to / "run")


@pytest.fixture(scope="session")
def large_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 90 pairs with colour pictures of noise and as-coded edits."""
    root = tmp_path_factory.mktemp("runs") / "colour"
    results = json.loads((small_run / "results.json").read_text())
    first = results["pairs"][0]
    results["pairs"] = []
    generator = torch.Generator().manual_seed(0)
    store, documents = Store(root), torch.randperm(400, generator=generator)[:20]
    for index in range(90):
        pair = copy.deepcopy(first) | {"index": index, "label": 0}
        results["pairs"].append(pair)
        before = torch.randint(0, 256, (20, 3, 32, 32), generator=generator).byte()
        noise = torch.rand(before.shape, generator=generator) - 0.5
        tensors = {
            "edit/documents": documents,
            "edit/before_inputs": before,
            "edit/after_inputs": before / 255 + 0.1 * noise,
            "probe": before[:1].clone(),
        }
        store.tensors(f"edits/pair-{index:03d}.safetensors", 0, lambda t=tensors: t)
        influence = torch.randn(400, generator=generator)
        store.tensors(
            f"scores/pair-{index:03d}.safetensors",
            0,
            lambda i=influence: {"influence": i, "chosen": documents},
        )
        entry = {"index": 0, "label": 1, "reached": {"linf": 0.05, "l2": 1.5}}
        manifest = [entry | {"index": d} for d in documents.tolist()]
        store.json(
            f"edits/pair-{index:03d}.json",
            0,
            lambda m=manifest: {"edit": {"manifest": m}},
        )
    results |= {"n_pairs": 90, "levels": 255}
    results["predicted_vs_realised"] = {"rank_correlation": 0.5}
    results["class_names"] = ["<b>zero & one</b>", *results["class_names"][1:]]
    derive(root, results)
    return root


@pytest.fixture(scope="session")
def base_only(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that trained the base model and edited nothing."""
    root = tmp_path_factory.mktemp("runs") / "base"
    root.mkdir()
    results = json.loads((small_run / "results.json").read_text())
    gone = ("effects", "paired", "effects_p", "effects_log_odds", "top1")
    gone += ("accuracy_after", "replay_is_bit_identical", "predicted_vs_realised")
    results = {key: value for key, value in results.items() if key not in gone}
    results |= {"n_pairs": 0, "pairs": []}
    results["clean_accuracy"]["after"] = None
    derive(root, results)
    return root


@pytest.fixture(scope="session")
def one_pair(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run as it would be with its first pair alone."""
    root = clone(small_run, tmp_path_factory.mktemp("runs"))
    results = read(root / "results.json")
    (pair,) = results["pairs"] = results["pairs"][:1]
    results["n_pairs"] = 1
    edit = pair["arms"]["edit"]
    for name, stored in BOOTSTRAPPED.items():
        for arm in results[name]:
            value = pair["arms"][arm][stored]
            value = edit[stored] - value if name == "paired" else value
            results[name][arm] = asdict(bootstrap_mean([value], seed=0))
    results["predicted_vs_realised"] = {"rank_correlation": None}
    derive(root, results)
    return root


@pytest.mark.parametrize("name", ["small_run", "large_run", "one_pair", "base_only"])
def test_page_is_one_offline_file_with_the_stored_numbers(
    name: str, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(name)
    path = report(root)
    page = Page(path)
    assert path == root / "report.html"
    assert_self_contained(path)
    assert all(picture["alt"] for picture in page.pictures)
    assert all(min(decode(picture["src"]).size) > 0 for picture in page.pictures)
    assert number_faults(page.numbers, root) == []
    results = read(root / "results.json")
    shown = {n["key"] for n in page.numbers if n["source"] == "results.json"}
    if results["pairs"]:
        assert wanted_keys(results) - shown == set()
    assert {"clean_accuracy.before", "num_documents.train"} <= shown


def test_page_shows_pictures_of_the_run(small_run: Path) -> None:
    page = Page(drawn(small_run))
    by_alt = {picture["alt"]: picture["src"] for picture in page.pictures}
    pair = read(small_run / "results.json")["pairs"][0]
    edits = load_file(small_run / "edits/pair-000.safetensors")
    probe = decode(by_alt[f"probe {pair['probe']}"])
    stored = edits["copies_1/after_inputs"][0, 0]
    assert probe.mode == "L"
    np.testing.assert_array_equal(np.asarray(probe), np.round(stored / 16 * 255))
    scores = load_file(small_run / "scores/pair-000.safetensors")["influence"]
    documents = edits["edit/documents"]
    top = documents[np.argsort(-scores[documents])[:8]]
    shown = [n for n in page.numbers if n["source"] == "edits/pair-000.json"]
    keys = [n for n in shown if n["key"].endswith(".index")]
    assert [int(n["value"]) for n in keys] == top.tolist()


def test_page_is_drawn_alike_twice(small_run: Path) -> None:
    first = report(small_run).read_bytes()
    assert report(small_run).read_bytes() == first


def test_large_page_says_what_it_leaves_out_and_clips(large_run: Path) -> None:
    text = drawn(large_run).read_text()
    assert "The first 8 pairs in detail" in text
    assert text.count("<details") == 8
    assert "they are clipped here" in text
    assert "<b>zero" not in text
    assert "&lt;b&gt;zero &amp; one" in text


def test_one_pair_has_no_interval_anywhere(one_pair: Path, small_run: Path) -> None:
    text, two = drawn(one_pair).read_text(), drawn(small_run).read_text()
    arms = read(one_pair / "results.json")["config"]["arms"]
    assert text.count("(n = 1: no interval)") == 5 * len(arms) - 1 + 4
    assert "null" not in text
    assert "None" not in text
    assert "no interval" not in two
    assert 'aria-label="Mean effect of every arm"' in text
    assert 'aria-label="Mean effect of every arm with its 95 % interval"' in two


def test_figure_draws_one_pair_as_a_dot_without_a_bar() -> None:
    value = {"mean": 1.25, "low": 1.0, "high": 1.5}
    bar, dot = (
        effects(["edit"], [value | ends], [True])
        for ends in ({}, {"low": None, "high": None})
    )
    drawn_in_accent = [svg.count("stroke: var(--accent)") for svg in (bar, dot)]
    assert drawn_in_accent[0] == drawn_in_accent[1] + 1
    assert "fill: var(--accent)" in dot


def test_table_shows_one_pair_without_an_interval(
    one_pair: Path, tmp_path: Path
) -> None:
    results = read(one_pair / "results.json")
    effect = results["effects"]["edit"]["mean"]
    first, second = effects_rows(results)[:2]
    assert first[1:3] == (f"{effect:+.2f} [—]", "")
    assert second[1:3] == ("+0.00 [—]", f"{effect:+.2f} [—]")
    printed = tmp_path / "table.txt"
    with printed.open("w", encoding="utf-8") as file:
        effects_table(results, file)
    assert printed.read_text("utf-8").count("[—]") == 2 * len(results["effects"]) - 1
    assert interval({"mean": 0.906, "low": 0.52, "high": 1.3}) == "+0.91 [+0.52, +1.30]"


def test_page_without_copies_shows_the_probe_too(
    small_run: Path, tmp_path: Path
) -> None:
    root = clone(small_run, tmp_path)
    results = read(root / "results.json")
    arms = ["edit", "clean_replay", "noise_l2"]
    results["config"]["arms"] = arms
    for pair in results["pairs"]:
        pair["arms"] = {arm: pair["arms"][arm] for arm in arms}
    derive(root, results)
    page = Page(report(root))
    assert [p for p in page.pictures if "probe" in (p["alt"] or "")]
    assert number_faults(page.numbers, root) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root), "must hold a finished results.json, got no"),
        (
            lambda root: (root / "results.json").unlink(),
            "results.json must have sha256 .*, got no file",
        ),
        (
            lambda root: (root / "results.json").write_text('{"effects": {"ed'),
            "results.json must have sha256 .*: it was truncated or altered",
        ),
        (
            lambda root: change_digit(root / "results.json"),
            "results.json must have sha256 .*: it was truncated or altered",
        ),
        (
            lambda root: derive(root, {}),
            "results.json must hold .*, got none: another version wrote it",
        ),
        (
            lambda root: drop(root, "environment"),
            "must hold all that the page shows, got none: .*environment",
        ),
        (lambda root: drop(root, "levels"), "results.json must hold levels, got none"),
        (
            lambda root: (root / "times.json").write_text('{"train": 1'),
            "times.json must hold a JSON object of seconds",
        ),
        (
            lambda root: (root / "edits/pair-001.safetensors").write_bytes(b"12"),
            "it was truncated or altered",
        ),
        (
            lambda root: (root / "scores/pair-000.safetensors.record.json").unlink(),
            "must hold a finished scores/pair-000.safetensors, got none",
        ),
    ],
)
def test_unfinished_or_damaged_run_is_one_clear_error(
    small_run: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    root = clone(small_run, tmp_path)
    (root / "report.html").unlink(missing_ok=True)
    damage(root)
    with pytest.raises(ArtefactError, match=message) as caught:
        report(root)
    assert "\n" not in str(caught.value)
    assert not (root / "report.html").exists()


def derive(root: Path, results: dict) -> None:
    """Write results with the record of their hash, as a run does."""
    Store(root).derive("results.json", json_bytes(results))


def change_digit(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("1", "2", 1))


def drop(root: Path, key: str) -> None:
    results = read(root / "results.json")
    del results[key]
    derive(root, results)


def test_import_of_the_page_leaves_torch_and_matplotlib_alone() -> None:
    code = (
        "import sys, infusion.report.page;"
        "print({'torch', 'matplotlib', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_pictures_are_grey_or_colour_clipped_and_shrunk() -> None:
    half = decode(png_uri(np.full((1, 4, 4), 0.5)))
    assert (half.mode, half.getpixel((0, 0))) == ("L", 128)
    colour = decode(png_uri(np.stack([np.full((2, 2), v) for v in (-0.3, 0.2, 1.4)])))
    assert (colour.mode, colour.getpixel((1, 1))) == ("RGB", (0, 51, 255))
    assert decode(png_uri(np.zeros((3, 96, 64)))).size == (32, 48)
    assert values(np.array([[8]], dtype=np.uint8), 16) == 0.5
    assert values(np.array([[1.25]], dtype=np.float32), 16) == 1.25
    assert magnification(np.array([0.0])) == 1
    assert magnification(np.array([-0.9])) == 1
    assert magnification(np.array([-12 / 255], dtype=np.float32)) == 10


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert CHROMIUM is not None
    with Chromium(CHROMIUM, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


def faults(visit: Visit, root: Path) -> list[str]:
    """List everything that a page must not do or show."""
    found = [f"error {error}" for error in visit.errors]
    found += [f"request {address}" for address in visit.requests]
    found += [f"picture {p['alt']}" for p in visit.pictures if p["width"] == 0]
    if visit.overflow > 0:
        found.append(f"overflow of {visit.overflow} pixels")
    return found + number_faults(visit.numbers, root)


@needs_chromium
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("name", ["small_run", "large_run", "one_pair", "base_only"])
def test_page_opens_in_a_browser_without_fault(
    name: str, width: int, browser: Chromium, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(name)
    path = drawn(root)
    visit = browser.visit(path, width=width)
    assert faults(visit, root) == []
    assert len(visit.pictures) == len(Page(path).pictures)
    assert len(visit.numbers) == len(Page(path).numbers) > 0


@needs_chromium
@pytest.mark.parametrize("width", [400, 1_200])
def test_page_of_suites_opens_in_a_browser_without_fault(
    width: int, browser: Chromium, tmp_path: Path
) -> None:
    line = [0.0, *(1 + place / 26 for place in range(25))]
    matrix = [text_rows.turned(probe, 26, line) for probe in range(26)]
    after = [[*each[:7], each[7] - 0.5, *each[8:]] for each in matrix]
    shares = {name: [0.5, 0.3, 0.2] for name in ("shifts", "letters", "head")}
    rows = [text_rows.row(probe, 7, matrix[probe], {7: -0.5}) for probe in range(3)]
    rows[0]["portrait"] = {
        "before": {"matrix": matrix, "spectra": shares},
        "clean": {"matrix": matrix, "spectra": shares},
        "after": {"matrix": after, "spectra": shares},
    }
    told = ["⟨0⟩", "\n", "a", "<b>", "c" * 200]
    other = [*told[:2], "&", *told[3:]]
    rows[0]["examples"] = [
        {"document": 5, "whole": whole, "after": told, "before": before}
        for whole, before in ((False, other), (True, told))
    ]
    rows.append(text_rows.story(1, 0.5, examples=rows[0]["examples"][:1]))
    show_page(text_rows.written(tmp_path, *rows), as_json=False)
    visit = browser.visit(tmp_path / "suites.html", width=width)
    assert visit.errors == visit.requests == []
    assert visit.overflow <= 0
    assert visit.shown["ins"] == visit.shown["del"] == 2, "of a cipher, of a story"
    drawings = [suite_figures(suite) for suite in collect(tmp_path)]
    assert {"matrix", "matrix-2", "matrix-3", "spectra"} < set(drawings[0])
    assert visit.shown["figure svg"] == sum(map(len, drawings))
    text = (tmp_path / "suites.html").read_text("utf-8")
    assert "&lt;b&gt;" in text
    assert "<del>&amp;</del><ins>a</ins>" in text
    assert "what stands in its place" in text
    assert "factor shared by difference and alphabet" in text


@needs_chromium
def test_page_has_a_dark_mode(small_run: Path, browser: Chromium) -> None:
    path = drawn(small_run)
    light, dark = browser.visit(path), browser.visit(path, dark=True)
    assert faults(dark, small_run) == []
    assert light.background != dark.background


INJECTED = {
    "a request": ('<img alt="x" src="http://127.0.0.1:9/x.png">', "request http"),
    "a file": ('<img alt="x" src="other.png">', "request file"),
    "a broken picture": ('<img alt="x" src="data:image/png;base64,AAAA">', "picture x"),
    "an exception": ("<script>throw new Error('x')</script>", "error exception"),
    "a console error": ("<script>console.error('x')</script>", "error console"),
    "a wide element": ('<div style="width:3000px">x</div>', "overflow"),
}


@needs_chromium
@pytest.mark.parametrize("name", INJECTED)
def test_browser_check_flags_injected(
    name: str, small_run: Path, tmp_path: Path, browser: Chromium
) -> None:
    html, expected = INJECTED[name]
    text = drawn(small_run).read_text()
    path = tmp_path / "report.html"
    path.write_text(text.replace("</main>", f"{html}</main>"))
    found = faults(browser.visit(path), small_run)
    assert any(fault.startswith(expected) for fault in found), found


@needs_chromium
@pytest.mark.parametrize("part", ["value", "text"])
def test_browser_check_flags_a_changed_number(
    part: str, small_run: Path, tmp_path: Path, browser: Chromium
) -> None:
    pattern = r'(data-key="effects.edit.mean" data-value=")([^"]*)(">)([^<]*)'
    value, text = (r"\g<1>1.2345\3\4", r"\1\2\g<3>+9.99")
    changed, count = re.subn(
        pattern, value if part == "value" else text, drawn(small_run).read_text()
    )
    assert count >= 2
    path = tmp_path / "report.html"
    path.write_text(changed)
    found = faults(browser.visit(path), small_run)
    assert len(found) >= count
    assert all("effects.edit.mean" in fault for fault in found)
