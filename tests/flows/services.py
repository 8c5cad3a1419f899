"""The services of docker-compose.yml as plain processes of this machine.

Commands, environments, dependencies and health checks are those of the file. What a container engine would
give them is replaced: names and ports become free ports of the loopback, volumes become folders.
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
    "POSTGRES_PASSWORD": "p@ss/word:%41",  # what a secret may hold
    "S3_BUILDER_SECRET": "builder-secret",
    "S3_READER_SECRET": "reader-secret",
    "SPINE_SOURCE": "/nowhere",
    "SPINE_RUNS": "/nowhere",
}
_HOSTS = ("dask-scheduler", "postgres", "prefect-server", "seaweedfs")
_PORTS = (4200, 5432, 8080, 8090, 8333, 8786, 8787, 8788, 8888, 9333)
_DEADLINE_S = 300
# Of Dockerfile's environment what matters here, and shorter pauses than a night needs.
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PYTHONUNBUFFERED": "1",
}


def compose() -> Any:
    """docker-compose.yml with `SETTINGS` as its .env."""
    text = (ROOT / "docker-compose.yml").read_text()
    return yaml.safe_load(re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SETTINGS[found[1]], text))


def postgres_programs() -> Path:
    """The folder of a PostgreSQL that Prefect can use; skips where there is none."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        control = Path("/usr/share/postgresql") / folder.parent.name / "extension/pg_trgm.control"
        if (folder / "initdb").is_file() and control.is_file():
            return folder
    pytest.skip("there is no PostgreSQL with pg_trgm: apt-get install postgresql")


class Services:
    """The running services. ``workers`` is the scale of dask-worker."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._file = compose()
        self._folder = folder
        self._programs = postgres_programs()
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._more_ports = free_ports(workers)  # of the health of each Dask worker
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
        """The port of this machine that stands for one of the file."""
        return self._ports[number]

    def environment(self, service: str) -> dict[str, str]:
        """The service's environment, here."""
        given = self._file["services"][service].get("environment", {})
        found = {key: self._here(value) for key, value in given.items()}
        hosts = {key: "127.0.0.1" for key, value in given.items() if value in _HOSTS}
        return found | hosts

    def folder(self, target: str) -> Path:
        """The folder that stands for a volume's."""
        return self._paths[target]

    def kill(self, name: str, index: int) -> None:
        """End one process of a service, and all that it started, at once."""
        _kill(self.processes[name].pop(index))

    def kill_children(self, name: str) -> None:
        """End at once what the processes of a service started, not themselves."""
        for process in self.processes[name]:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

    def start(self, *names: str) -> None:
        """Start these services, each as soon as those that it depends on are healthy."""
        waiting, healthy = set(names), set()
        deadline = time.monotonic() + _DEADLINE_S
        while not set(names) <= healthy:
            assert time.monotonic() < deadline, self.told()
            for name in sorted(waiting):
                if set(self._file["services"][name].get("depends_on", {})) <= healthy:
                    waiting.remove(name)
                    self.processes[name] = [
                        self._start(name, index) for index in range(self._scale.get(name, 1))
                    ]
            healthy |= {name for name in self.processes.keys() - healthy if self._is_ready(name)}
            time.sleep(0.3)

    def stop(self) -> None:
        """End every process, and all that they started."""
        for group in self.processes.values():
            while group:
                _kill(group.pop())

    def told(self) -> str:
        """The last words of every service, for a test that fails."""
        return "\n".join(
            f"== {log.stem}\n{log.read_text(errors='replace')[-1500:]}" for log in self._folder.glob("*.log")
        )

    def _start(self, name: str, index: int) -> subprocess.Popen[bytes]:
        service = self._file["services"][name]
        command = [self._here(word, index) for word in [*service.get("entrypoint", []), *service["command"]]]
        user = None
        if name == "postgres":
            folder = self._lay_out_database()
            # Its port and folders are the image's own, and this machine may lose its power meanwhile.
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
            assert process.poll() in (None, 0), self.told()
            return process.poll() == 0
        for index, process in enumerate(self.processes[name]):
            assert process.poll() is None, self.told()
            check = [
                self._here(word, index) for word in self._file["services"][name]["healthcheck"]["test"][1:]
            ]
            if check[0] == "wget":  # which not every machine has
                check = ["python", "-c", f"import urllib.request as u; u.urlopen({check[-1]!r}, timeout=5)"]
            if check[0] == "pg_isready":
                check += ["--port", str(self.port(5432))]
            environment = self._environment_of(name)
            program = shutil.which(check[0], path=environment["PATH"])
            assert program, check
            if subprocess.run([program, *check[1:]], env=environment, capture_output=True).returncode:
                return False
        return True

    def _here(self, text: str, index: int = 0) -> str:
        """The text with this machine's loopback, ports and folders."""
        ports: Mapping[int, int] = self._ports | {8788: self._more_ports[index]}
        replaced = {
            **{rf"\b{host}(?=:\d)": "127.0.0.1" for host in _HOSTS},
            r"(?<=-ip=)seaweedfs\b": "127.0.0.1",
            r"\b0\.0\.0\.0\b": "127.0.0.1",
            **{rf"(?<![\w.]){port}\b": str(here) for port, here in ports.items()},
            **{rf"(?<![\w/:]){re.escape(path)}(?![\w/])": str(here) for path, here in self._paths.items()},
        }
        parts = re.compile("|".join(f"({pattern})" for pattern in replaced))
        values = list(replaced.values())
        return parts.sub(lambda found: values[(found.lastindex or 1) - 1], text)

    def _lay_out_database(self) -> Path:
        """What the image's first start does: a cluster, its owner and its database."""
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
        settle = {"cwd": "/", "user": user, "check": True, "stdout": subprocess.DEVNULL}
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
        subprocess.run(cluster, **settle)
        alone = [self._programs / "postgres", "--single", "-D", folder, "postgres"]
        subprocess.run(alone, input=f"create database {given['POSTGRES_DB']}\n".encode(), **settle)
        return folder


def _postgres_user() -> str | None:
    """PostgreSQL does not run as root; Debian's package brings a user for it."""
    return "postgres" if os.getuid() == 0 else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    everyone = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        everyone = [parent, *parent.children(recursive=True)]
    for found in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.kill()
    process.wait(30)
