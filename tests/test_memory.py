"""Freed memory is kept while a stage runs, and given back after the outermost one."""

import pytest

from infusion import memory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def note(trim_threshold: int, growth: int) -> None:
        del growth
        found.append("keep" if trim_threshold == 2**31 - 1 else "default")

    monkeypatch.setattr(memory, "_set_malloc", note)
    monkeypatch.setattr(memory, "give_back", lambda: found.append("give back"))
    monkeypatch.setattr(memory, "_HOLDERS", set())
    return found


def test_the_outermost_stage_gives_back(calls: list[str]) -> None:
    with memory.freed_memory_kept():
        with memory.freed_memory_kept():
            pass
        assert calls == ["keep"]
    assert calls == ["keep", "default", "give back"]


def test_a_failed_stage_gives_back(calls: list[str]) -> None:
    with pytest.raises(ValueError, match="inside"), memory.freed_memory_kept():
        raise ValueError("inside")
    assert calls == ["keep", "default", "give back"]


def test_a_command_keeps_to_its_end(calls: list[str]) -> None:
    memory.keep_freed_memory()
    with memory.freed_memory_kept():
        pass
    assert calls == ["keep"]
