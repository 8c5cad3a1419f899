"""The services of docker-compose.yml as plain processes on this machine.

Commands, environments, dependencies and health checks are those of the file. Host names and ports become free
ports of the loopback interface, and volumes become folders.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import free_ports

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "POSTGRES_PASSWORD": "p@ss/word:%41",  # needs quoting in a URL
    "S3_BUILDER_SECRET": "builder-secret",
    "S3_READER_SECRET": "reader-secret",
    "SPINE_SOURCE": "/nowhere",
    "SPINE_RUNS": "/nowhere",
}
_HOSTS = ("dask-scheduler", "postgres", "prefect-server", "seaweedfs")
_PORTS = (4200, 5432, 8080, 8090, 8333, 8786, 8787, 8788, 8888, 9333)
_DEADLINE_S = 300
# The relevant part of the Dockerfile's environment; and query more often, to save time.
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PYTHONUNBUFFERED": "1",
}


def compose() -> Any:
    """docker-compose.yml with `SETTINGS` as its .env."""
    text = (ROOT / "docker-compose.yml").read_text()
    return yaml.safe_load(re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: SETTINGS[match[1]], text))


def postgres_programs() -> Path:
    """The programs of a PostgreSQL that Prefect can use; skips the test if none is installed."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        control = Path("/usr/share/postgresql") / folder.parent.name / "extension/pg_trgm.control"
        if (folder / "initdb").is_file() and control.is_file():
            return folder
    pytest.skip("PostgreSQL with pg_trgm is not installed: apt-get install postgresql")


class Services:
    """The running services, with ``workers`` instances of dask-worker."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._file = compose()
        self._folder = folder
        self._programs = postgres_programs()
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._health_ports = free_ports(workers)  # one for each Dask worker
        self._paths = {
            "/data": folder / "seaweed",
            "/data/source": folder / "source",
            "/tmp": folder / "dask",
        }
        for path in self._paths.values():
            path.mkdir(exist_ok=True)
        self._paths["/etc/seaweedfs/roles.json"] = folder / "roles.json"
        (folder / "roles.json").write_text(self._file["configs"]["s3-roles"]["content"])
        self._scale = {"dask-worker": workers}
        self.processes: dict[str, list[subprocess.Popen[bytes]]] = {}

    def port(self, number: int) -> int:
        """The local port that replaces a port of the file."""
        return self._ports[number]

    def environment(self, service: str) -> dict[str, str]:
        """The service's environment with local ports and folders."""
        given = self._file["services"][service].get("environment", {})
        local = {key: self._localized(value) for key, value in given.items()}
        hosts = {key: "127.0.0.1" for key, value in given.items() if value in _HOSTS}
        return local | hosts

    def folder(self, target: str) -> Path:
        """The local folder that replaces a volume."""
        return self._paths[target]

    def kill(self, name: str, index: int) -> None:
        """Kill one process of a service and its children."""
        _kill(self.processes[name].pop(index))

    def kill_children(self, name: str) -> None:
        """Kill the children of a service's processes, but not the processes."""
        for process in self.processes[name]:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

    def start(self, *names: str) -> None:
        """Start these services, each as soon as its dependencies are healthy."""
        waiting, healthy = set(names), set()
        deadline = time.monotonic() + _DEADLINE_S
        while not set(names) <= healthy:
            assert time.monotonic() < deadline, self.log_tails()
            for name in sorted(waiting):
                if set(self._file["services"][name].get("depends_on", {})) <= healthy:
                    waiting.remove(name)
                    self.processes[name] = [
                        self._start(name, index) for index in range(self._scale.get(name, 1))
                    ]
            healthy |= {name for name in self.processes.keys() - healthy if self._is_ready(name)}
            time.sleep(0.3)

    def stop(self) -> None:
        """Kill all processes and their children."""
        for group in self.processes.values():
            while group:
                _kill(group.pop())

    def log_tails(self) -> str:
        """The last lines of every service's log, for the message of a failed assertion."""
        return "\n".join(
            f"== {log.stem}\n{log.read_text(errors='replace')[-1500:]}" for log in self._folder.glob("*.log")
        )

    def _start(self, name: str, index: int) -> subprocess.Popen[bytes]:
        service = self._file["services"][name]
        command = [
            self._localized(word, index) for word in [*service.get("entrypoint", []), *service["command"]]
        ]
        user = None
        if name == "postgres":
            folder = self._init_database()
            # In the image, the entry point sets the port and the folders.
            command += ["-D", str(folder), "-k", str(folder), "-p", str(self.port(5432)), "-h", "127.0.0.1"]
            user = _postgres_user()
        with (self._folder / f"{name}{index}.log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=ROOT if name != "postgres" else "/", env=self._environment_of(name),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, user=user,
            )  # fmt: skip

    def _environment_of(self, name: str) -> dict[str, str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("AWS_", "PREFECT_", "DASK_"))
        }
        path = [str(Path(sys.executable).parent), str(self._programs), os.environ["PATH"]]
        home = {"PREFECT_HOME": str(self._folder / "prefect" / name), "PATH": os.pathsep.join(path)}
        return inherited | _ENVIRONMENT | home | self.environment(name)

    def _is_ready(self, name: str) -> bool:
        if "healthcheck" not in self._file["services"][name]:
            (process,) = self.processes[name]
            assert process.poll() in (None, 0), self.log_tails()
            return process.poll() == 0
        for index, process in enumerate(self.processes[name]):
            assert process.poll() is None, self.log_tails()
            check = [
                self._localized(word, index)
                for word in self._file["services"][name]["healthcheck"]["test"][1:]
            ]
            if check[0] == "wget":  # not installed on every machine
                check = ["python", "-c", f"import urllib.request as u; u.urlopen({check[-1]!r}, timeout=5)"]
            if check[0] == "pg_isready":
                check += ["--port", str(self.port(5432))]
            environment = self._environment_of(name)
            program = shutil.which(check[0], path=environment["PATH"])
            assert program, check
            if subprocess.run([program, *check[1:]], env=environment, capture_output=True).returncode:
                return False
        return True

    def _localized(self, text: str, index: int = 0) -> str:
        """The text with local host names, ports and folders."""
        ports: Mapping[int, int] = self._ports | {8788: self._health_ports[index]}
        replacements = {
            **{rf"\b{host}(?=:\d)": "127.0.0.1" for host in _HOSTS},
            r"(?<=-ip=)seaweedfs\b": "127.0.0.1",
            r"\b0\.0\.0\.0\b": "127.0.0.1",
            **{rf"(?<![\w.]){port}\b": str(local) for port, local in ports.items()},
            **{rf"(?<![\w/:]){re.escape(path)}(?![\w/])": str(local) for path, local in self._paths.items()},
        }
        parts = re.compile("|".join(f"({pattern})" for pattern in replacements))
        values = list(replacements.values())
        return parts.sub(lambda match: values[(match.lastindex or 1) - 1], text)

    def _init_database(self) -> Path:
        """Create a database cluster with its owner and its database, as the image does at its first start."""
        folder = self._folder / "postgres"
        folder.mkdir()
        user = _postgres_user()
        if user:
            shutil.chown(folder, user)
            self._folder.chmod(0o711)
        given = self.environment("postgres")
        secret = folder.with_suffix(".secret")
        secret.write_text(given["POSTGRES_PASSWORD"])
        secret.chmod(0o644)
        options = {"cwd": "/", "user": user, "check": True, "stdout": subprocess.DEVNULL}
        owner = ["--username", given["POSTGRES_USER"], f"--pwfile={secret}", "--auth=scram-sha-256"]
        cluster = [
            self._programs / "initdb",
            "-D",
            folder,
            *owner,
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(cluster, **options)
        single_user = [self._programs / "postgres", "--single", "-D", folder, "postgres"]
        subprocess.run(single_user, input=f"create database {given['POSTGRES_DB']}\n".encode(), **options)
        return folder


def _postgres_user() -> str | None:
    """The user to run PostgreSQL as: it refuses to run as root, so Debian's package creates one."""
    return "postgres" if os.getuid() == 0 else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    processes = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        processes = [parent, *parent.children(recursive=True)]
    for running in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            running.kill()
    process.wait(30)
