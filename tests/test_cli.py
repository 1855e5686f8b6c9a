"""The command itself: help, the last line for programs, and a small run to share."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from infusion.command.cli import main
from infusion.configs import ARMS, CONTROLS, RunConfig
from infusion.presets.digits import PRESET
from infusion.runs.config_files import from_yaml, to_yaml
from infusion.runs.store import Store

JSON_KEYS = {
    "preset",
    "scale",
    "n_pairs",
    "seeds",
    "clean_accuracy",
    "effects",
    "paired",
    "predicted_vs_realised",
}


def tiny_config(*, threads: int = 1, pairs: int = 2) -> RunConfig:
    """A digits run of seconds: every stage, nothing learnt."""
    small = PRESET.configs["small"]
    return replace(
        small,
        data=replace(small.data, train=150),
        train=replace(small.train, epochs=3),
        edit=replace(small.edit, k=5, steps=5),
        pairs=pairs,
        threads=threads,
    )


def write_config(folder: Path, config: RunConfig) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    return path


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "infusion", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """One thread outside torch's own count, and none that spins while it waits."""
    calm = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **calm, **more}


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class FinishedRun:
    """A tiny run by the real command, and what it printed."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        self.root, self.config = root / "run", config
        written = write_config(root / "asked", config)
        self.done = subprocess.run(
            command("run", "--config", written, "--out", self.root, "--json"),
            env=environment(COLUMNS="80"),
            capture_output=True,
            check=False,
            encoding="utf-8",
        )
        assert self.done.returncode == 0, self.done.stderr
        self.results = json.loads((self.root / "results.json").read_text("utf-8"))


@cache
def finished_run(base: Path, threads: int = 1) -> FinishedRun:
    """Made once per session, for every test file that only reads it."""
    return FinishedRun(base / f"finished-{threads}", tiny_config(threads=threads))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finished_run(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--help"], r"{run,sweep,"),
        (["run", "--help"], "--damping-ratio"),
        (["attribute", "--help"], "--self"),
        (["report", "--help"], "Run folder"),
    ],
    ids=["infusion", "run", "attribute", "report"],
)
def test_help_exits_0_and_waits_for_nothing_heavy(words: list[str], wanted: str):
    code = (
        "import sys\n"
        f"sys.argv = ['infusion', *{words!r}]\n"
        "from infusion.command.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'numpy', 'datasets', 'scipy', 'sklearn', 'matplotlib'}\n"
        "    print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(COLUMNS="80"),
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert wanted in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_last_line_is_one_json_object(finished: FinishedRun):
    last = json.loads(finished.done.stdout.splitlines()[-1])
    assert set(last) >= JSON_KEYS | {"run", "report"}
    assert (last["preset"], last["scale"]) == ("digits", "small")
    assert (last["n_pairs"], last["seeds"]) == (2, [0])
    assert set(last["clean_accuracy"]) == {"before", "after"}
    assert set(last["effects"]) == set(ARMS)
    assert set(last["paired"]) == set(CONTROLS)
    for interval in [*last["effects"].values(), *last["paired"].values()]:
        assert set(interval) == {"mean", "low", "high"}
        assert interval["low"] <= interval["mean"] <= interval["high"]
    assert "rank_correlation" in last["predicted_vs_realised"]
    assert Path(last["run"]) == finished.root
    assert Path(last["report"]).read_text(encoding="utf-8").strip()


def test_the_last_line_says_what_results_json_says(finished: FinishedRun):
    last = json.loads(finished.done.stdout.splitlines()[-1])
    for key in JSON_KEYS:
        assert last[key] == finished.results[key], key


def test_results_follow_from_the_rows(finished: FinishedRun):
    rows: list[dict[str, Any]] = finished.results["pairs"]
    for arm in ARMS:
        changes = [row["arms"][arm]["delta_log_p"] for row in rows]
        mean = sum(changes) / len(changes)
        assert finished.results["effects"][arm]["mean"] == pytest.approx(mean)
    edits = [row["arms"]["edit"] for row in rows]
    after = sum(edit["accuracy"] for edit in edits) / len(edits)
    assert finished.results["clean_accuracy"]["after"] == pytest.approx(after)
    assert all(edit["documents"] == 5 for edit in edits)
    assert all(0 < edit["reached"]["linf"] <= 2 / 16 for edit in edits)


def test_the_clean_replay_is_bit_identical(finished: FinishedRun):
    assert finished.results["replay_is_bit_identical"] is True
    nothing = {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert finished.results["effects"]["clean_replay"] == nothing
    for row in finished.results["pairs"]:
        assert row["arms"]["clean_replay"]["delta_log_p"] == 0.0


def test_no_pair_is_trivial(finished: FinishedRun):
    for row in finished.results["pairs"]:
        assert row["target"] not in (row["label"], row["before"]["top1"])


def test_the_folder_replays_itself(finished: FinishedRun):
    config = from_yaml((finished.root / "config.yaml").read_text(encoding="utf-8"))
    assert config == finished.config
    environment_file = json.loads((finished.root / "environment.json").read_text())
    assert environment_file == finished.results["environment"]
    manifest = (finished.root / "edits/manifest.jsonl").read_text("utf-8").splitlines()
    # k documents in four arms, one and five copies, for each pair.
    assert len(manifest) == 2 * (4 * 5 + 1 + 5)
    assert Store(finished.root).read_json("results.json") == finished.results


Call = Callable[..., int | str | None]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs the command in this process and returns its exit status."""

    def run(*words: str | Path) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["infusion", *map(str, words)])
        try:
            main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    return run


def test_a_finished_run_is_not_made_again(
    finished: FinishedRun, call: Call, capfd: pytest.CaptureFixture[str]
):
    before = tree(finished.root)
    assert call("run", "--config", finished.root / "config.yaml", "--out",
                finished.root, "--json") == 0  # fmt: skip
    again = capfd.readouterr()
    assert tree(finished.root) == before
    assert again.out == finished.done.stdout
    assert "retrain" not in again.err
    assert "page: " in again.err


def test_without_json_the_table_is_the_output(
    finished: FinishedRun, call: Call, capfd: pytest.CaptureFixture[str]
):
    config = finished.root / "config.yaml"
    assert call("run", "--config", config, "--out", finished.root) == 0
    printed = capfd.readouterr().out
    assert "clean replay" in printed
    assert printed.splitlines()[-1] == f"page: {finished.root / 'report.html'}"


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["table", "json"])
def test_any_terminal_will_do(finished: FinishedRun, tmp_path: Path, words: list[str]):
    out = tmp_path / "Läufe"
    shutil.copytree(finished.root, out)
    done = subprocess.run(
        command("run", "--config", out / "config.yaml", "--out", out, *words),
        env=environment(PYTHONIOENCODING="ascii", LC_ALL="C", COLUMNS="60"),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    last = done.stdout.decode("ascii").splitlines()[-1]
    if words:
        assert json.loads(last)["run"] == str(out)
    else:
        assert last.startswith("page: ")


def test_pairs_0_trains_the_base_model_only(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
):
    config = write_config(tmp_path / "asked", tiny_config(pairs=0))
    assert call("run", "--config", config, "--out", tmp_path / "run", "--json") == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["n_pairs"], last["effects"], last["paired"]) == (0, None, None)
    assert 0 <= last["clean_accuracy"]["before"] <= 1
    assert last["clean_accuracy"]["after"] is None
    assert not (tmp_path / "run" / "retrain").exists()


def test_a_replay_lands_beside_the_run_it_replays(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    write_config(tmp_path / "asked", tiny_config(pairs=0))
    monkeypatch.chdir(tmp_path / "asked")
    assert call("run", "--config", "config.yaml") == 0
    assert (tmp_path / "asked-replay" / "results.json").is_file()


def test_flags_reach_the_settings(tmp_path: Path, call: Call):
    words = [
        "--damping", "1e-6", "--epsilon", "0.2", "--steps", "7", "--seed", "3",
        "--delivery", "as_coded", "--fisher", "exact", "--k", "4", "--pairs", "0",
    ]  # fmt: skip
    config = write_config(tmp_path / "asked", tiny_config())
    out = tmp_path / "run"
    assert call("run", "--config", config, "--out", out, *words) == 0
    got = from_yaml((out / "config.yaml").read_text(encoding="utf-8"))
    assert (got.curvature.damping, got.curvature.damping_ratio) == (1e-6, None)
    assert (got.edit.epsilon, got.edit.steps, got.edit.k) == (0.2, 7, 4)
    assert (got.edit.delivery, got.curvature.fisher) == ("as_coded", "exact")
    assert (got.seed, got.pairs, got.train) == (3, 0, tiny_config().train)


def test_a_suite_runs_the_trials_it_is_asked_for(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
):
    config = write_config(tmp_path / "asked", tiny_config(pairs=1))
    words = ["run", "--config", config, "--suite", "controls", "--only", "noise*"]
    assert call(*words, "--out", tmp_path / "run", "--json") == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert {effect["trial"] for effect in last["effects"]} == {"noise L∞", "noise L2"}
    assert call("run", "--config", config, "--only", "noise*") == 2
    assert "--only must come with --suite, got 'noise*' alone" in capfd.readouterr().err
