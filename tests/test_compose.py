"""docker-compose.yml: valid, reachable from this machine only, and without default passwords."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml

from tests.flows.services import ROOT, compose

RUN_ONCE = {"check", "deploy", "trainer"}
PROJECT_SERVICES = {"check", "dask-scheduler", "dask-worker", "deploy", "prefect-server", "trainer", "worker"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = compose()["services"]
    return services


def test_the_file_conforms_to_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose())


def test_secrets_come_only_from_the_environment_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    variables = set(re.findall(r"\$\{(\w+)", text))
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert variables == required == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    file = yaml.safe_load(text)
    environments = [service.get("environment", {}) for service in file["services"].values()]
    secrets = [
        value
        for environment in environments
        for name, value in environment.items()
        if "PASSWORD" in name or "SECRET" in name
    ]
    secrets += re.findall('"secretKey": "([^"]*)"', file["configs"]["s3-roles"]["content"])
    assert len(secrets) == 8
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", secret) for secret in secrets)


def test_ports_are_bound_to_the_loopback_interface(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_long_running_services_have_health_checks_and_restart(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        if name not in RUN_ONCE:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


def test_images_are_pinned_and_the_project_has_one(services: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in services.items()}
    assert len({images[name] for name in PROJECT_SERVICES}) == 1
    assert all(re.fullmatch(r"[\w./-]+:\d+(\.\d+)+(-\w+)?", image) for image in images.values())
    assert [name for name, service in services.items() if "build" in service] == ["prefect-server"]
    for name in PROJECT_SERVICES:
        assert services[name]["cap_drop"] == ["ALL"]
    base, *_ = (ROOT / "Dockerfile").read_text().partition("FROM ")[2].split()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_each_service_has_only_the_s3_role_it_needs(services: dict[str, Any]) -> None:
    roles = {
        name: service.get("environment", {}).get("AWS_ACCESS_KEY_ID") for name, service in services.items()
    }
    assert {name for name, role in roles.items() if role == "builder"} == {"worker", "dask-worker"}
    assert {name for name, role in roles.items() if role == "reader"} == {"check", "trainer"}
    identities = json.loads(compose()["configs"]["s3-roles"]["content"])["identities"]
    assert {identity["name"]: identity["actions"] for identity in identities}["reader"] == ["Read"]


def test_the_image_creates_the_folders_of_its_volumes(services: dict[str, Any]) -> None:
    """A volume whose folder is not in the image belongs to root."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    created = shlex.split(re.search(r"mkdir -p (.*) \\", dockerfile)[1])  # type: ignore[index]
    targets = {volume["target"] for name in PROJECT_SERVICES for volume in services[name].get("volumes", [])}
    assert targets <= set(created)
    assert not re.search(r"^USER root", dockerfile, re.MULTILINE)
    assert "\nUSER spine\n" in dockerfile
