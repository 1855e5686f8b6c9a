"""The walls between modules (style.md §3.1), read from the source."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(
        ".__init__"
    ): (ast.parse(path.read_text(encoding="utf-8")))
    for path in sorted((SOURCE / "infusion").rglob("*.py"))
}
# A module imports only from its own layer and those before it.
LAYERS = [
    "errors",
    "configs",
    "memory",
    "device",
    "params",
    "norms",
    "sharding",
    "records",
    "questions",
    "seeding",
    "intervals",
    "tasks",
    "runs",
    "data",
    "models",
    "training",
    "measure",
    "language",
    "curvature",
    "attribution",
    "audit",
    "perturb",
    "replay",
    "report",
    "presets",
    "cases",
    "suites",
    "fidelity",
    "bench",
    "command",
    "__main__",
]
SEES_RUNS = {
    "runs",
    "audit",
    *LAYERS[LAYERS.index("report") : LAYERS.index("__main__")],
}
AUDIT_NEVER_SEES = {"training", "perturb", "attribution.selection", "replay"}
REPORT_MAY_SEE = {"errors", "configs", "records", "report", "runs.store"}
TORCH_FREE = [
    "infusion",
    "infusion.__main__",
    "infusion.audit",
    "infusion.audit.changes",
    "infusion.audit.contents",
    "infusion.audit.findings",
    "infusion.audit.provenance",
    "infusion.audit.rows",
    "infusion.audit.run",
    "infusion.audit.seal",
    "infusion.command.cli",
    "infusion.command.defend",
    "infusion.command.output",
    "infusion.command.sweep",
    "infusion.command.verbs",
    "infusion.configs",
    "infusion.errors",
    "infusion.fidelity",
    "infusion.memory",
    "infusion.presets",
    "infusion.runs.config_files",
    "infusion.runs.files",
    "infusion.runs.parallel",
    "infusion.runs.progress",
    "infusion.runs.store",
    "infusion.runs.weighed",
]
OPENS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (part if part in MODULES else str(node.module) for part in parts)


def layer(module: str) -> str:
    return module.split(".")[1]


# The package itself only names its modules; it imports them on first use.
EDGES = [
    (module, other)
    for module, tree in MODULES.items()
    if module != "infusion"
    for other in sorted(set(imports(tree)))
    if other.startswith("infusion.") and other != module
]


def test_every_module_has_a_layer():
    found = {layer(module) for module in MODULES if module != "infusion"}
    assert found <= set(LAYERS), "give a new module its place in LAYERS"
    assert EDGES


def test_imports_point_up_the_list():
    order = {name: position for position, name in enumerate(LAYERS)}
    wrong = [(m, o) for m, o in EDGES if order[layer(o)] > order[layer(m)]]
    assert wrong == []


def test_no_module_imports_itself_by_a_detour():
    needs: dict[str, set[str]] = {}
    for module, other in EDGES:
        if (module, other) != ("infusion.presets", "infusion.presets.preset"):  # types
            needs.setdefault(module, set()).add(other)
    assert list(TopologicalSorter(needs).static_order())


def test_only_the_run_layer_touches_run_folders():
    seen_by = {layer(m) for m, o in EDGES if layer(o) == "runs"}
    assert seen_by <= SEES_RUNS


def test_the_report_computes_nothing():
    seen = {
        o.removeprefix("infusion.") if layer(o) == "runs" else layer(o)
        for m, o in EDGES
        if layer(m) == "report"
    }
    assert seen <= REPORT_MAY_SEE


def test_the_audit_neither_edits_nor_trains():
    needs: dict[str, set[str]] = {}
    for module, other in EDGES:
        needs.setdefault(module, set()).add(other)
    waiting = [module for module in MODULES if module.startswith("infusion.audit")]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += needs.get(module, ())
    assert any(module.startswith("infusion.audit.") for module in seen)
    walled = {
        module
        for module in seen
        for wall in AUDIT_NEVER_SEES
        if f"{module}.".startswith(f"infusion.{wall}.")
    }
    assert walled == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_read_that_could_hold_code(module: str):
    """Run folders and cases come from others."""
    tree = MODULES[module]
    assert not {name.split(".")[0] for name in imports(tree)} & OPENS_CODE
    called = {
        ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
    }
    assert not called & {"torch.load", "eval", "exec"}
    named = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert "allow_pickle" not in named


@pytest.mark.parametrize("module", TORCH_FREE)
def test_help_does_not_wait_for_torch(module: str):
    at_import = [
        node
        for node in MODULES[module].body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    seen = set(imports(ast.Module(body=list(at_import), type_ignores=[])))
    assert not {name for name in seen if name.split(".")[0] == "torch"}
    assert {name for name in seen if name.startswith("infusion")} <= set(TORCH_FREE)
