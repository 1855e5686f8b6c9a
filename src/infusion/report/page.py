"""One self-contained HTML page per run folder; nothing here is computed anew.

Numbers are shown as stored, with the file and key they come from; ``derived`` ones are
unit conversions and shares of two stored numbers.
"""

from pathlib import Path
from typing import Any

import numpy as np

from infusion.errors import ArtefactError, InputError
from infusion.report.numbers import Numbers
from infusion.report.pictures import magnification, png_uri, values
from infusion.report.tables import NAMES
from infusion.report.templates import template
from infusion.runs.store import Store, write_whole

PAIRS_IN_DETAIL = 8
DOCUMENTS_PER_PAIR = 8
MOST_THUMBNAILS = 100
LINKED = (
    "config.yaml",
    "results.json",
    "attribution.csv",
    "attribution.parquet",
    "scores/influence.safetensors",
    "scores/self_influence.safetensors",
    "edits/manifest.jsonl",
    "environment.json",
    "times.json",
)
MEANINGS = {
    "edit": "the most influential pictures, each pixel moved within the budget",
    "clean_replay": "no edit, same order and seeds: the noise floor",
    "noise_linf": (
        "same pictures, every pixel moved by the edit's largest change with a random "
        "sign: does the direction matter?"
    ),
    "noise_l2": (
        "same pictures, random noise as long as the edit: does the direction matter?"
    ),
    "random_documents": (
        "the same crafting on as many random pictures: does the choice matter?"
    ),
    "copies_1": "one picture replaced by the probe itself, labelled as the target",
    "copies_5": "five pictures replaced by the probe itself, labelled as the target",
}


def report(root: Path) -> Path:
    """Draw the page of a run from its folder.

    Args:
        root: Run folder with a finished ``results.json``.

    Returns:
        Path of ``report.html`` inside the folder, at most a few MB and offline.

    Raises:
        InputError: The folder is of `infusion fidelity`, which has no page.
        ArtefactError: The run is unfinished, or one of its files was truncated,
            altered or written by another version.
    """
    from jinja2 import UndefinedError

    from infusion.report.attribution import attribution_context

    results = Store(root).read_json("results.json")
    source, verb, collect = "page.html", "run", _context
    kind = results.get("kind")
    if kind in ("lds", "flips"):
        raise InputError(
            "a page must be of `infusion run` or `infusion attribute`, got a folder of "
            f"`infusion fidelity` ({kind}); run that again with --out {root} for its "
            "table"
        )
    if kind == "attribution":
        source, verb = "attribution.html", "attribute"
        collect = attribution_context
    n = Numbers("results.json", results)
    context = _provenance(root, n, verb) | collect(Store(root), n)
    try:
        text = template(source).render(context)
    except UndefinedError as error:
        raise ArtefactError(
            f"{root / 'results.json'} must hold all that the page shows, got none: "
            f"{error}; run `infusion {verb} --config RUN/config.yaml --out RUN` again"
        ) from error
    page = root / "report.html"
    write_whole(page, text.encode())
    return page


def _provenance(root: Path, n: Numbers, verb: str) -> dict[str, Any]:
    """Collect what the end of every page says: settings, hashes, times, files."""
    return {
        "n": n,
        "results": n.values,
        "verb": verb,
        "settings": _settings(n, keep_unset=verb == "run"),
        "times": _times(root),
        "links": [name for name in LINKED if (root / name).is_file()],
    }


def _context(store: Store, n: Numbers) -> dict[str, Any]:
    """Collect what the page of an edit shows."""
    from infusion.report import figures

    arms = [arm for arm in n.at("config.arms") if n.at("n_pairs")]
    by_epoch = {int(e): a for e, a in n.at("accuracy_by_epoch").items()}
    by_epoch = dict(sorted(by_epoch.items()))
    context = {
        "d": Numbers("derived", _derived(n)),
        "names": n.at("class_names"),
        "arms": arms,
        "arm_names": NAMES,
        "meanings": MEANINGS,
        "matched": _largest_matched_control(n, arms),
        "epochs": list(by_epoch),
        "accuracy_figure": figures.accuracy(by_epoch),
        "fitted": n.at("curvature"),
        "hashes": {
            "base checkpoint": n.at("base_sha256"),
            **{f"{name} data": sha for name, sha in n.at("data_sha256").items()},
        },
        "pairs": [_pair(store, n, row) for row in range(n.at("n_pairs"))],
    }
    if arms:
        context["effects_figure"] = figures.effects(
            [NAMES[arm] for arm in arms],
            [n.at(f"effects.{arm}") for arm in arms],
            [arm == "edit" for arm in arms],
        )
        edits = [n.at(f"pairs.{row}.arms.edit") for row in range(n.at("n_pairs"))]
        context["scatter_figure"] = figures.scatter(
            [edit["predicted"] for edit in edits],
            [edit["delta_log_p"] for edit in edits],
        )
    return context


def _derived(n: Numbers) -> dict[str, Any]:
    """Shares and units: the only numbers that are not stored as shown."""
    levels, norm = n.at("levels"), n.at("config.edit.norm")
    share = n.at("config.edit.k") / n.at("num_documents.train")
    derived: dict[str, Any] = {"share_edited": share}
    if n.at("n_pairs"):
        reached = [row["arms"]["edit"]["reached"][norm] for row in n.at("pairs")]
        derived["largest_reached"] = max(reached)
        derived["pair_of_largest"] = reached.index(max(reached))
    if levels is not None and norm == "linf":
        derived["levels_asked"] = n.at("config.edit.epsilon") * levels
        if "largest_reached" in derived:
            derived["levels_reached"] = derived["largest_reached"] * levels
    return derived


def _largest_matched_control(n: Numbers, arms: list[str]) -> str | None:
    """Name the strongest control that edits no more than the edit does."""
    matched = [arm for arm in arms if arm != "edit" and not arm.startswith("copies")]
    return max(matched, key=lambda arm: n.at(f"effects.{arm}.mean"), default=None)


def _settings(n: Numbers, *, keep_unset: bool) -> dict[str, dict[str, Any]]:
    """Group the settings: the run's own, then one group per nested config."""
    config = n.at("config")
    nested = {name: value for name, value in config.items() if isinstance(value, dict)}
    own = {
        name: value
        for name, value in config.items()
        if name not in nested and (keep_unset or value is not None)
    }
    return {"run": own, **nested}


def _times(root: Path) -> Numbers | None:
    return (
        Numbers("times.json", Store(root).read_times())
        if (root / "times.json").is_file()
        else None
    )


def _pair(store: Store, n: Numbers, row: int) -> dict[str, Any]:
    """Collect a pair's pictures; the first ones in detail."""
    pair = n.at(f"pairs.{row}")
    shown: dict[str, Any] = {**pair, "row": row, "probe_uri": None, "documents": None}
    if row >= MOST_THUMBNAILS:
        return shown
    tensors = store.read_tensors(_file("edits", pair, ".safetensors"))
    edits = {name: tensor.numpy() for name, tensor in tensors.items()}
    probe = values(edits["probe"][0], n.at("levels"))
    shown["probe_uri"] = png_uri(probe, _range(n))
    if row < PAIRS_IN_DETAIL:
        shown |= _detail(store, n, pair, edits)
    return shown


def _detail(
    store: Store, n: Numbers, pair: dict[str, Any], edits: dict[str, Any]
) -> dict[str, Any]:
    """Draw a pair's influences and its edited documents before and after."""
    from infusion.report import figures

    name = _file("scores", pair, ".safetensors")
    scores = {k: v.numpy() for k, v in store.read_tensors(name).items()}
    influence, documents = scores["influence"], edits["edit/documents"]
    levels, valid = n.at("levels"), _range(n)
    before = values(edits["edit/before_inputs"], levels)
    after = values(edits["edit/after_inputs"], levels)
    order = np.argsort(-influence[documents], kind="stable")[:DOCUMENTS_PER_PAIR]
    low, high = valid
    factor = magnification((after[order] - before[order]) / (high - low))
    rows = [
        {
            "position": int(position),
            "index": int(documents[position]),
            "before": png_uri(before[position], valid),
            "after": png_uri(after[position], valid),
            "difference": png_uri(
                (low + high) / 2 + factor * (after[position] - before[position]), valid
            ),
        }
        for position in order
    ]
    facts = _file("edits", pair, ".json")
    outside = bool((after.min() < low) | (after.max() > high))
    return {
        "documents": rows,
        "factor": factor,
        "clipped": outside,
        "num_edited": len(documents),
        "influence": Numbers(name, {"influence": influence.tolist()}),
        "facts": Numbers(facts, store.read_json(facts)),
        "histogram": figures.histogram(influence, documents),
    }


def _file(folder: str, pair: dict[str, Any], ending: str) -> str:
    return f"{folder}/pair-{pair['index']:03d}{ending}"


def _range(n: Numbers) -> tuple[float, float]:
    """Values drawn black and white: the valid ones, 0 to 1 where none are stated."""
    low, high = n.at("valid") or (0.0, 1.0)
    return low, high
