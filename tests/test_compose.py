"""docker-compose.yml: valid, closed to the outside, and without a default password."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml

from tests.flows.services import ROOT, compose

ONE_OFF = {"check", "deploy", "trainer"}
OURS = {"check", "dask-scheduler", "dask-worker", "deploy", "prefect-server", "trainer", "worker"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def test_it_keeps_to_the_specification() -> None:
    schema = json.loads((ROOT / "tests/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose())


def test_secrets_come_from_the_environment_file_alone() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == required == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    file = yaml.safe_load(text)
    settings = [pair for one in file["services"].values() for pair in one.get("environment", {}).items()]
    secrets = [value for name, value in settings if "PASSWORD" in name or "SECRET" in name]
    secrets += re.findall('"secretKey": "([^"]*)"', file["configs"]["s3-roles"]["content"])
    assert len(secrets) == 8
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", secret) for secret in secrets)


def test_ports_are_open_to_this_machine_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_runs_long_is_watched_and_started_again(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        if name not in ONE_OFF:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


def test_images_are_exact_and_ours_is_one(services: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in services.items()}
    assert len({images[name] for name in OURS}) == 1
    assert all(re.fullmatch(r"[\w./-]+:\d+(\.\d+)+(-\w+)?", image) for image in images.values())
    assert [name for name, service in services.items() if "build" in service] == ["prefect-server"]
    for name in OURS:
        assert services[name]["cap_drop"] == ["ALL"]
    base, *_ = (ROOT / "Dockerfile").read_text().partition("FROM ")[2].split()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_each_role_goes_where_it_is_needed(services: dict[str, Any]) -> None:
    roles = {
        name: service.get("environment", {}).get("AWS_ACCESS_KEY_ID") for name, service in services.items()
    }
    assert {name for name, role in roles.items() if role == "builder"} == {"worker", "dask-worker"}
    assert {name for name, role in roles.items() if role == "reader"} == {"check", "trainer"}
    identities = json.loads(compose()["configs"]["s3-roles"]["content"])["identities"]
    assert {identity["name"]: identity["actions"] for identity in identities}["reader"] == ["Read"]


def test_folders_of_the_image_are_made_in_it(services: dict[str, Any]) -> None:
    """A volume that is not in the image would belong to root."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    made = shlex.split(re.search(r"mkdir -p (.*) \\", dockerfile)[1])  # type: ignore[index]
    targets = {volume["target"] for name in OURS for volume in services[name].get("volumes", [])}
    assert targets <= set(made)
    assert not re.search(r"^USER root", dockerfile, re.MULTILINE)
    assert "\nUSER spine\n" in dockerfile
