"""prefect.yaml: nothing in it that Prefect would drop or refuse, and what a server makes of it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flows import Flow, load_flow_from_entrypoint
from pydantic import BaseModel

from blocks.from_environment import main as create_blocks
from deploy.resources import create_pools, read_resources
from imageshards.recipe import RESOLUTIONS

FILE = Path(__file__).resolve().parents[1] / "prefect.yaml"
POOL = "imageshards"
COMMAND_SECONDS = 90
STRATEGIES = {"nightly": "CANCEL_NEW", "manual": "ENQUEUE", "housekeeping": "CANCEL_NEW"}


def read_file() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def deployments() -> list[dict[str, Any]]:
    return read_file()["deployments"]


each_deployment = pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment["name"])


def unknown_keys(model: type[BaseModel], data: Any, where: str = "") -> Iterator[str]:
    """Keys of the data, at any depth, that the model has no field for; Prefect's own models drop them silently."""
    if not isinstance(data, dict):
        return
    model.model_rebuild()  # until then, some fields are annotated by name
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    fields |= {name: field.annotation for name, field in model.model_fields.items()}
    for key, value in data.items():
        if key not in fields:
            yield f"{where}{key}"
            continue
        nested = list(models_in(fields[key]))
        if not nested:
            continue
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            place = f"{where}{key}[{number}]." if isinstance(value, list) else f"{where}{key}."
            found = [list(unknown_keys(candidate, item, place)) for candidate in nested]
            yield from min(found, key=len)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field may hold, itself or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (list, Union, UnionType):
        for argument in get_args(annotation):
            yield from models_in(argument)


def test_prefect_knows_every_key_of_the_file_but_the_one_that_is_for_its_reader() -> None:
    PrefectYamlModel.model_validate(read_file())
    assert list(unknown_keys(PrefectYamlModel, read_file())) == ["definitions"]


@pytest.mark.parametrize(
    ("misspell", "found"),
    [
        (lambda data: data.update(deployment=[]), "deployment"),
        (lambda data: data["deployments"][0].update(concurrency_limits=1), "deployments[0].concurrency_limits"),
        (lambda data: data["deployments"][1].update(parameter={}), "deployments[1].parameter"),
        (lambda data: data["deployments"][0]["work_pool"].update(queue="x"), "deployments[0].work_pool.queue"),
        (
            lambda data: data["deployments"][0]["concurrency_limit"].update(strategy="x"),
            "deployments[0].concurrency_limit.strategy",
        ),
        (
            lambda data: data["deployments"][0]["schedules"][0].update(time_zone="UTC"),
            "deployments[0].schedules[0].time_zone",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_misspelt_key_would_be_found(misspell: Callable[[dict[str, Any]], None], found: str) -> None:
    data = copy.deepcopy(read_file())
    misspell(data)
    assert list(unknown_keys(PrefectYamlModel, data)) == sorted(["definitions", found])


def test_there_are_three_deployments_with_what_a_reader_needs() -> None:
    assert [deployment["name"] for deployment in deployments()] == ["nightly", "manual", "housekeeping"]
    for deployment in deployments():
        assert deployment["description"]
        assert deployment["tags"]
        assert deployment["work_pool"]["name"] == POOL


@each_deployment
def test_its_entrypoint_is_a_module_path_that_imports(deployment: dict[str, Any]) -> None:
    assert ":" not in deployment["entrypoint"]  # which would put flows/ first on sys.path
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert isinstance(flow, Flow)
    assert f"{flow.fn.__module__}.{flow.fn.__name__}" == deployment["entrypoint"]


@each_deployment
def test_its_parameters_are_the_flows_and_their_values_are_valid(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    flow.validate_parameters(deployment["parameters"])


@each_deployment
def test_it_names_blocks_and_no_folder_as_a_workers_folder_is_temporary(deployment: dict[str, Any]) -> None:
    given = deployment["parameters"]
    assert given["store"].startswith("block:")
    assert given.get("ray", "block:").startswith("block:")


def test_the_schedules_can_be_found_again_and_say_when() -> None:
    given = {deployment["name"]: deployment.get("schedules", []) for deployment in deployments()}
    times = {name: [schedule["cron"] for schedule in schedules] for name, schedules in given.items()}
    assert times == {"nightly": ["0 2 * * *"], "manual": [], "housekeeping": ["0 5 * * 0"]}
    for schedule in (schedule for schedules in given.values() for schedule in schedules):
        assert {"slug", "active", "cron", "timezone"} <= set(schedule)
        assert schedule["active"] is True
        CronSchedule(cron=schedule["cron"], timezone=str(ZoneInfo(schedule["timezone"])))


def test_housekeeping_deletes_no_raw_image() -> None:
    [housekeeping] = [deployment for deployment in deployments() if deployment["name"] == "housekeeping"]
    assert housekeeping["parameters"]["dry_run"] is False
    assert "delete_raw" not in housekeeping["parameters"]


@each_deployment
def test_it_runs_one_at_a_time(deployment: dict[str, Any]) -> None:
    expected = STRATEGIES[deployment["name"]]
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": expected}


@pytest.fixture(scope="session")
def pool(prefect_api: str) -> None:
    """The work pool of deploy/resources.yaml."""
    with get_client(sync_client=True) as client:
        list(create_pools(client, read_resources().work_pools))


@pytest.fixture(scope="session")
def deployed(pool: None) -> dict[str, DeploymentResponse]:
    """The deployments as a server has them after `prefect deploy --all`."""
    return deploy(FILE, "nightly", "manual", "housekeeping")


def deploy(file: Path, *names: str) -> dict[str, DeploymentResponse]:
    """Deploy all of a file; the deployments of these names as the server has them then."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    subprocess.run(command, cwd=FILE.parent, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    with get_client(sync_client=True) as client:
        return {deployment.name: deployment for deployment in client.read_deployments() if deployment.name in names}


@pytest.mark.parametrize("variant", ["installed", "git", "image"])
def test_each_way_of_the_code_can_be_deployed(pool: None, tmp_path: Path, variant: str) -> None:
    data = read_file()
    [manual] = [deployment for deployment in data["deployments"] if deployment["name"] == "manual"]
    manual["name"] = f"manual-{variant}"
    file = tmp_path / "prefect.yaml"
    file.write_text(
        yaml.safe_dump({"name": data["name"], "pull": data["definitions"][variant], "deployments": [manual]})
    )
    [deployment] = deploy(file, f"manual-{variant}").values()
    assert deployment.pull_steps == data["definitions"][variant]
    names = {"installed": [], "git": ["git_clone"], "image": ["set_working_directory"]}
    assert [next(iter(step)).rpartition(".")[2] for step in deployment.pull_steps] == names[variant]


def test_the_code_in_use_is_the_installed_one() -> None:
    assert read_file()["pull"] == []


def test_a_server_takes_them_with_schedules_and_limits(deployed: dict[str, DeploymentResponse]) -> None:
    assert set(deployed) == set(STRATEGIES)
    for name, deployment in deployed.items():
        assert deployment.work_pool_name == POOL
        assert deployment.pull_steps == []
        assert deployment.enforce_parameter_schema
        assert deployment.global_concurrency_limit is not None
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options is not None
        assert deployment.concurrency_options.collision_strategy == ConcurrencyLimitStrategy(STRATEGIES[name])
        assert name in deployment.tags
    for name in ("nightly", "manual"):
        assert deployed[name].entrypoint == "flows.pets.pets"
        assert deployed[name].parameters == {"store": "block:pets", "ray": "block:ray", "resolutions": [224]}
    assert deployed["manual"].schedules == []
    [schedule] = deployed["nightly"].schedules
    assert schedule.active
    assert schedule.slug == "nightly"
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "UTC")


def test_the_form_has_a_multi_select_of_resolutions(deployed: dict[str, DeploymentResponse]) -> None:
    resolutions = deployed["manual"].parameter_openapi_schema["properties"]["resolutions"]
    assert resolutions["type"] == "array"
    assert resolutions["items"]["enum"] == list(RESOLUTIONS)
    assert resolutions["default"] == [224]
    assert "224: ResNet" in resolutions["description"]


def test_the_form_has_a_help_text_and_a_default_for_each_parameter(deployed: dict[str, DeploymentResponse]) -> None:
    schema = deployed["manual"].parameter_openapi_schema
    assert schema.get("required", []) == []
    for name, field in schema["properties"].items():
        assert field.get("description"), name
        assert "default" in field, name
    assert schema["properties"]["keep_unlisted"]["type"] == "boolean"
    assert schema["properties"]["max_reject_fraction"]["type"] == "number"


def test_the_form_of_the_recipe_has_help_ranges_and_choices(deployed: dict[str, DeploymentResponse]) -> None:
    schema = deployed["manual"].parameter_openapi_schema
    assert schema["properties"]["recipe"]["$ref"] == "#/definitions/Recipe"
    recipe, augment = schema["definitions"]["Recipe"], schema["definitions"]["Augment"]
    for model in (recipe, augment):
        assert model["additionalProperties"] is False
        for name, field in model["properties"].items():
            assert field.get("description"), name
            assert "default" in field, name
    assert recipe["properties"]["fit"]["enum"] == ["center-crop", "letterbox", "stretch"]
    assert recipe["properties"]["encoding_quality"]["minimum"] == 1
    assert recipe["properties"]["encoding_quality"]["maximum"] == 100
    assert augment["properties"]["copies"]["minimum"] == 0
    assert augment["properties"]["horizontal_flip"]["maximum"] == 1.0


@pytest.mark.parametrize(
    "parameters",
    [{"resolutions": [225]}, {"recipe": {"fitt": "stretch"}}, {"recipe": {"crop_fraction": 2}}],
    ids=str,
)
def test_a_server_refuses_a_run_with_wrong_parameters(
    deployed: dict[str, DeploymentResponse], parameters: dict[str, Any]
) -> None:
    with get_client(sync_client=True) as client, pytest.raises(PrefectHTTPStatusError, match="Validation failed"):
        client.create_flow_run_from_deployment(deployed["manual"].id, parameters=parameters)


def test_the_blocks_it_names_are_those_that_the_environment_command_creates(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGESHARDS_STORE_URL", "data")
    monkeypatch.setenv("IMAGESHARDS_RAY_ADDRESS", "local")
    assert create_blocks([]) == 0
    created = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    for deployment in deployments():
        assert {value for value in deployment["parameters"].values() if str(value).startswith("block:")} <= created
