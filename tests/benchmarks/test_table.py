from __future__ import annotations

from benchmarks.measure import Measurement
from benchmarks.table import NOT_MEASURED, cells, machine, markdown, share, versions


def run(images: int, seconds: float, **more: int) -> Measurement:
    return Measurement(images, seconds, 2.0, {"program": 80_000_000, "worker": 200_000_000}, 300_000_000, {})


def test_medians_and_shares_of_the_reference_in_the_same_turn() -> None:
    runs = [run(1000, 1), run(1000, 2), run(1000, 4)]
    references = [run(1000, 0.5), run(1000, 0.5), run(1000, 1)]
    assert cells(runs, references) == ["500 (250 to 1,000)", "25% (25% to 50%)", "3", "200", "300", "2.00"]


def test_a_single_run_has_no_spread_and_is_held_against_the_first_turn() -> None:
    assert cells([run(1000, 0.5)], [run(1000, 1), run(1000, 8)])[:3] == ["2,000", "200%", "1"]


def test_what_was_not_run_has_no_share() -> None:
    assert share([], [run(1000, 1)]) == share([run(1000, 1)], []) == NOT_MEASURED


def test_numbers_are_set_to_the_right() -> None:
    assert markdown(("what", "n"), [["a", "1"]]) == "| what | n |\n| --- | ---: |\n| a | 1 |\n"


def test_the_machine_and_the_packages_are_named() -> None:
    assert "1 of " in machine([0])
    assert versions(["pyarrow", "no-such-package"]).startswith("pyarrow ")
