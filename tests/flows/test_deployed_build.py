"""Runs of the nightly deployment on the services of docker-compose.yml, started as plain processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.location import open_location
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from tests.flows.services import ROOT, Services

pytestmark = pytest.mark.integration
RECIPE = load_recipe("quick")
STUDIES = 8
DEADLINE_S = 300


class Prefect:
    """The part of Prefect's API that these tests use."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def request(self, path: str, content: dict[str, Any] | None = None) -> Any:
        response = self._client.get(path) if content is None else self._client.post(path, json=content)
        assert response.is_success, response.text
        return response.json()

    def trigger(self, **parameters: Any) -> str:
        """Start a run of the deployment that does not wait for studies to settle; returns its ID."""
        deployment = self.request("deployments/name/build-dataset/nightly")["id"]
        content = {"parameters": {"settle_minutes": 0, **parameters}, "state": {"type": "SCHEDULED"}}
        run: str = self.request(f"deployments/{deployment}/create_flow_run", content)["id"]
        return run

    def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.request(f"flow_runs/{run}")["state"]
        return state

    def final_state(self, run: str) -> dict[str, Any]:
        """Wait until the run has ended."""
        wait_until(lambda: self.state(run)["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
        return self.state(run)

    def page(self, run: str) -> str:
        """The page that the run published."""
        (artifact,) = self.request("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        assert (artifact["key"], artifact["type"]) == ("build-dataset", "markdown")
        page: str = artifact["data"]
        return page

    def tasks(self, run: str, prefix: str = "") -> list[str]:
        """The states of the run's tasks whose names start with ``prefix``."""
        tasks = self.request("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return [task["state_name"] for task in tasks if task["name"].startswith(prefix)]

    def failure(self, run: str) -> dict[str, Any]:
        """Wait for the run's failure event, which must be the only one."""
        content = {"filter": {"event": {"name": ["spine-etl.build.failed"]}}}
        emitted: list[dict[str, Any]] = []

        def is_emitted() -> bool:
            events = self.request("events/filter", content)["events"]
            emitted[:] = [
                event for event in events if f"prefect.flow-run.{run}" in json.dumps(event["related"])
            ]
            return bool(emitted)

        wait_until(is_emitted)
        assert len(emitted) == 1
        return emitted[0]


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with tempfile.TemporaryDirectory(prefix="spine-", ignore_cleanup_errors=True) as folder:
        services = Services(Path(folder))
        write_phantom(services.folder("/data/source"), STUDIES, 3, size=96, slices=40)
        try:
            services.start(
                *(
                    "postgres",
                    "prefect-server",
                    "deploy",
                    "seaweedfs",
                    "dask-scheduler",
                    "dask-worker",
                    "worker",
                )
            )
            yield services
        finally:
            services.stop()


@pytest.fixture(scope="module")
def prefect(services: Services) -> Iterator[Prefect]:
    address = services.environment("worker")["PREFECT_API_URL"]
    with httpx.Client(base_url=f"{address}/", timeout=60) as client:
        yield Prefect(client)


@pytest.fixture
def s3(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the builder's credentials."""
    for name, value in services.environment("worker").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


def local_build(source: Path, store: Path) -> str:
    """The root digest of the same studies, built one after the other without the services."""
    writer = StoreWriter(store, RECIPE)
    records = [process_study(study, writer) for study in discover_studies(source, list(RECIPE.levels))]
    return writer.commit(records).root_digest


@pytest.fixture(scope="module")
def digest(services: Services, tmp_path_factory: pytest.TempPathFactory) -> str:
    return local_build(services.folder("/data/source"), tmp_path_factory.mktemp("local") / "store")


@contextmanager
def another_build(services: Services, store: str) -> Iterator[None]:
    """Another process that builds into the store, as a run of any deployment does."""
    code = (
        "import sys; from flows.building.deployment import exclusive_run\n"
        "with exclusive_run(sys.argv[1]): print(); input()"
    )
    settings = {"PREFECT_API_URL": services.environment("worker")["PREFECT_API_URL"]}
    process = subprocess.Popen(
        [sys.executable, "-c", code, store], cwd=ROOT, env=os.environ | settings, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        yield
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


def quick(store: str) -> dict[str, Any]:
    return {"recipe": RECIPE.model_dump(mode="json"), "store": store}


@pytest.mark.usefixtures("s3")
def test_a_run_commits_to_s3_and_the_next_run_changes_nothing(
    prefect: Prefect, services: Services, digest: str
) -> None:
    store = "s3://spine/plain"
    run = prefect.trigger(**quick(store))
    state = prefect.final_state(run)
    assert state["type"] == "COMPLETED", (state, services.log_tails())
    built = open_store(store)
    assert (len(built), built.root_digest, list(check_store(built))) == (STUDIES, digest, [])
    assert f"Version **1** of `{store}`, root digest `{digest}`" in prefect.page(run)
    assert prefect.tasks(run, "1.") == ["Stored"] * STUDIES
    # The next run waits while another build uses the store, and then has nothing to process.
    with another_build(services, store):
        run = prefect.trigger(**quick(store))
        wait_until(lambda: prefect.state(run)["type"] == "RUNNING")
        time.sleep(2)
        assert prefect.tasks(run) == []
    assert prefect.final_state(run)["type"] == "COMPLETED"
    assert f"| 0 | {STUDIES} | 0 |" in prefect.page(run)
    assert open_store(store).version == 1


@pytest.mark.usefixtures("s3")
def test_a_run_survives_a_killed_dask_worker(prefect: Prefect, services: Services, digest: str) -> None:
    store, key = "s3://spine/killed", Record.key
    uids = [study.uid for study in discover_studies(services.folder("/data/source"), list(RECIPE.levels))]
    run = prefect.trigger(**quick(store))
    wait_until(lambda: any(open_location(store).exists(key(uid)) for uid in uids))
    services.kill("dask-worker", 0)
    assert prefect.state(run)["type"] == "RUNNING", "the run ended before the worker was killed"
    assert prefect.final_state(run)["type"] == "COMPLETED"
    built = open_store(store)
    assert (built.root_digest, built.refused, list(check_store(built))) == (digest, [], [])


@pytest.mark.usefixtures("s3")
def test_a_failed_run_has_a_one_line_message_and_emits_an_event(prefect: Prefect) -> None:
    store = "s3://spine/other"
    StoreWriter(store, RECIPE)
    run = prefect.trigger(store=store)  # with the recipe of the deployment, rsna2022
    state = prefect.final_state(run)
    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    assert state["message"].startswith("[STORE_FINGERPRINT_DIFFERS] ")
    assert "\n" not in state["message"]
    event = prefect.failure(run)
    assert event["resource"] == {
        "prefect.resource.id": f"spine-etl.store.{sha256(store.encode()).hexdigest()[:16]}",
        "prefect.resource.name": store,
    }
    assert event["payload"]["code"] == "STORE_FINGERPRINT_DIFFERS"
    assert event["payload"].keys() == {"code", "reason", "action"}


def test_a_killed_run_emits_the_failure_event(prefect: Prefect, services: Services) -> None:
    run = prefect.trigger(**quick("s3://spine/crashed"))
    wait_until(lambda: prefect.state(run)["type"] == "RUNNING")
    services.kill_children("worker")
    assert prefect.final_state(run)["type"] == "CRASHED"
    assert prefect.failure(run)["payload"]["code"] == "UNEXPECTED"


def test_the_reader_role_can_only_read(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's role."""
    for name, value in services.environment("trainer").items():
        monkeypatch.setenv(name, value)
    assert len(open_store("s3://spine/plain")) == STUDIES
    with pytest.raises(PermissionError):
        StoreWriter("s3://spine/new", RECIPE)
