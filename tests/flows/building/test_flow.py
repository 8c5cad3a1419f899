"""The deployed flow: its form, and its deployment in prefect.yaml."""

from __future__ import annotations

import tomllib

import yaml

from flows.building.flow import build_dataset
from flows.building.request import BuildRequest
from spine_etl.recipe import load_recipe
from spine_etl.source.label_names import load_label_names
from tests.flows.services import ROOT


def test_the_form_describes_every_parameter() -> None:
    schema = build_dataset.parameters.model_dump()
    described = {**schema["properties"], **schema["definitions"]["Recipe"]["properties"]}
    assert set(schema["required"]) == {"source", "store", "recipe"}
    assert [name for name, field in described.items() if not field.get("description")] == []
    assert schema["definitions"]["Recipe"]["additionalProperties"] is False
    assert schema["properties"]["settle_minutes"]["default"] == 10


def test_a_request_has_the_parameters_of_the_flow() -> None:
    recipe = load_recipe("quick")
    names = load_label_names("verse")
    request = BuildRequest(
        "source", "store", recipe, 3, "tcp://host:8786", "localizer", 90, masks="masks", label_names=names,
        folds="folds.csv",
    )  # fmt: skip
    parameters = request.flow_parameters()
    assert parameters.keys() == build_dataset.parameters.model_dump()["properties"].keys()
    validated = build_dataset.validate_parameters(parameters)
    assert validated == {
        "source": "source", "store": "store", "recipe": recipe, "workers": 3, "dask": "tcp://host:8786",
        "localizer": "localizer", "settle_minutes": 1.5, "masks": "masks", "label_names": names,
        "folds": "folds.csv",
    }  # fmt: skip


def test_the_nightly_deployment_uses_the_shipped_recipe() -> None:
    (nightly,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    shipped = tomllib.loads((ROOT / "spine_etl/recipes/rsna2022.toml").read_text())
    assert nightly["parameters"]["recipe"] == shipped
    levels = list(nightly["parameters"]["recipe"]["levels"])
    assert levels == list(shipped["levels"])  # their order is an axis of the dataset
    assert nightly["parameters"].keys() <= build_dataset.parameters.model_dump()["properties"].keys()
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert nightly["schedules"] == [{"cron": "0 2 * * *", "timezone": "UTC"}]


def test_the_deployment_names_this_flow() -> None:
    (nightly,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert nightly["entrypoint"] == f"{build_dataset.fn.__module__}.{build_dataset.fn.__name__}"
