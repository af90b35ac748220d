from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import throughput
from benchmarks.measure import Measurement, Program
from benchmarks.throughput import Row, results, run_rows


def measured(rate: float) -> Measurement:
    return Measurement(1000, 1000 / rate, 2.0, {"program": 80_000_000}, 90_000_000, {"ray_seconds": 1.5})


def row(name: str, *rates: float) -> Row:
    return Row(name, None, "not installed", runs=[measured(rate) for rate in rates])


def test_the_page_holds_each_row_against_what_does_the_same_work() -> None:
    bare = [row("decode", 200, 200), row("resize", 100, 200), row("trimaps", 80, 100)]
    local = [row("alone", 90, 160), row("whole", 72, 80)]
    page = results([*bare, *local, row("absent")], bare, local, 1000, [0])
    assert "photographs alone 85% (80% to 90%); with trimaps 85% (80% to 90%)." in page
    assert "| whole | 76 (72 to 80) | 56% (40% to 72%) | 2 |" in page
    assert "| absent | not installed |" in page
    assert "(here 1.5 s)" in page


def test_every_second_turn_goes_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def note(program: Program, **_: object) -> Measurement:
        order.append(program.module)
        return measured(100)

    monkeypatch.setattr(throughput, "measure", note)
    rows = [Row(name, lambda _, name=name: Program(name)) for name in "ab"]  # type: ignore[misc]
    run_rows(rows, 3, cpus=[0], folder=tmp_path)
    assert order == ["a", "b", "b", "a", "a", "b"]
