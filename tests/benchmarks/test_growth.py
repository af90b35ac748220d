from __future__ import annotations

from benchmarks.growth import STAGES, joined, time_table
from benchmarks.memory_by_stage import Memory, Peak


def run(seconds: float, peak: int) -> Memory:
    times = dict.fromkeys(STAGES, seconds)
    return Memory({("flow", "upload"): Peak(peak, peak // 2)}, times, dict.fromkeys(STAGES, 2 * seconds))


def test_two_runs_of_a_size_count_as_their_mean() -> None:
    whole = joined([run(1, 100), run(3, 300)])
    assert whole.peaks == {("flow", "upload"): Peak(200, 100)}
    assert whole.seconds["preprocess"] == 2
    assert whole.cpu_seconds["preprocess"] == 4


def test_a_peak_that_one_run_alone_had_is_left_out() -> None:
    other = run(1, 100)
    other.peaks["worker", "publish"] = Peak(1, 1)
    assert set(joined([other, run(1, 100)]).peaks) == {("flow", "upload")}


def test_further_images_are_those_beyond_the_size_before() -> None:
    line = next(line for line in time_table({10: run(1, 1), 30: run(2, 1)}).splitlines() if "| 30 |" in line)
    assert line == "| upload | 30 | 2.0 | 66.667 | 50.000 | 133.333 | 100.000 |"
