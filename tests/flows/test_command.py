"""The command line: its options, what it calls wrong usage, and that it answers before anything heavy is imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from flows.command import main, parse
from flows.pets import pets
from imageshards.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("prefect", "prefect_aws", "ray", "boto3", "PIL", "pyarrow")


def test_the_command_line_has_the_flows_parameters_with_their_defaults() -> None:
    options = vars(parse([]))
    parameters = inspect.signature(pets.fn).parameters
    assert set(options) == set(parameters)
    assert options.pop("recipe") is None  # a file, of which there is none
    assert parameters["recipe"].default == Recipe()
    assert options == {name: parameters[name].default for name in options}


def test_the_command_line_explains_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for name in inspect.signature(pets.fn).parameters:
        assert f"--{name.replace('_', '-')}" in said


@pytest.mark.parametrize(
    "options",
    [["--resolutions", "0"], ["--resolutions"], ["--resolutions", "225"], ["--max-reject-fraction", "x"], ["--what"]],
    ids=" ".join,
)
def test_options_that_cannot_be_read_are_wrong_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2


@pytest.mark.parametrize("recipe", ["fitt: stretch", "crop_fraction: 2", "- a list", "{", None], ids=str)
def test_a_recipe_that_cannot_be_used_is_wrong_usage(
    recipe: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    if recipe is not None:
        file.write_text(recipe)
    assert main(["--recipe", str(file)]) == 2
    assert "recipe" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--max-reject-fraction", "2"], ["--max-reject-fraction", "nan"]], ids=" ".join)
def test_parameters_out_of_range_are_wrong_usage(
    prefect_api: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert "max_reject_fraction" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("options", "status"), [(["--help"], 0), (["--resolutions", "225"], 2)], ids=str)
def test_help_and_wrong_usage_import_nothing_heavy_and_start_nothing(options: list[str], status: int) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "flows.pets", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "flows.command" in imported
    assert not imported & set(HEAVY)
