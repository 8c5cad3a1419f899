"""A store on a real S3 server, in part through a proxy that fails or drops requests."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest

from spine_etl.errors import (
    ChunkMissing,
    StoreForbidden,
    StoreNotFound,
    StoreUnreachable,
)
from spine_etl.s3 import open_bucket
from spine_etl.store import Store, open_store
from spine_etl.store.check import check_store
from spine_etl.store.location import open_location
from spine_etl.store.s3 import S3Location
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, refused_record, voxels, write_and_commit, write_study

pytestmark = pytest.mark.integration


@pytest.fixture
def address(s3_bucket: str) -> str:
    return f"{s3_bucket}/team/tiny"


@pytest.fixture
def store(address: str) -> Store:
    writer = StoreWriter(address, RECIPE)
    writer.commit(
        [write_study(writer, "1.2", 2, positive=1), write_study(writer, "1.1", 1), refused_record("1.3")]
    )
    return open_store(address)


def test_store_on_s3_equals_the_local_store(store: Store, tmp_path) -> None:
    assert store.study_uids == ["1.1", "1.2"]
    assert [entry["uid"] for entry in store.refused] == ["1.3"]
    assert list(check_store(store)) == []
    np.testing.assert_array_equal(store.image(1), voxels(2)["image"])
    local = StoreWriter(tmp_path / "store", RECIPE)
    local.commit(
        [write_study(local, "1.2", 2, positive=1), write_study(local, "1.1", 1), refused_record("1.3")]
    )
    assert open_store(tmp_path / "store").root_digest == store.root_digest


def test_zarr_python_reads_the_same_voxels(store: Store, s3_server) -> None:
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    parts = urlsplit(str(store.location))
    client = S3Store(parts.netloc, prefix=parts.path.strip("/"), client_options={"allow_http": True})
    group = zarr.open_group(ObjectStore(client, read_only=True), mode="r")
    row = int(store.table["row"][1])
    np.testing.assert_array_equal(group["image"][row], voxels(2)["image"])


@pytest.mark.parametrize("role", ["reader", None])
def test_reading_needs_only_read_permission(store, address, s3_server, monkeypatch, role) -> None:
    """Listing and writing are not needed, nor a signature if the bucket is public."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in s3_server.settings(role).items():
        monkeypatch.setenv(name, value)
    opened = open_store(address)
    assert opened.root_digest == store.root_digest
    assert list(check_store(opened)) == []
    with pytest.raises(StoreForbidden, match="STORE_FORBIDDEN"):
        write_study(StoreWriter(address, RECIPE), "1.4", 4)


def test_denied_access_is_reported(store, address, s3_server, monkeypatch) -> None:
    for name, value in s3_server.settings("no-access").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreForbidden, match="credentials"):
        open_store(address)


def test_missing_object_is_an_error_not_fill_values(store: Store, address: str) -> None:
    import obstore

    key = store.arrays["mask"].key(int(store.table["row"][0]))
    obstore.delete(open_bucket(address), key)
    with pytest.raises(ChunkMissing, match=r"1\.1"):
        store.mask(0)
    table = json.loads(open_location(address).read("versions/1/zarr.json"))["attributes"]["path"]
    obstore.delete(open_bucket(address), f"{table}/fracture/c/0/0")
    with pytest.raises(ChunkMissing, match="fracture/c/0/0 is missing: the version's table cannot be read"):
        open_store(address)


def test_missing_store_is_refused(s3_bucket: str) -> None:
    with pytest.raises(StoreNotFound, match="no store at"):
        open_store(f"{s3_bucket}/nothing")
    with pytest.raises(StoreNotFound, match="no store at"):
        open_store("s3://there-is-no-such-bucket/nothing")


def test_pickled_writer_contains_no_credentials(address: str) -> None:
    writer = StoreWriter(address, RECIPE)
    pickled = pickle.dumps(writer)
    assert b"writer-secret" not in pickled
    assert pickle.loads(pickled).latest() is None  # noqa: S301


def _read_in_child(store: Store, settings: dict[str, str]) -> str:
    os.environ.update(settings)  # a fork server has the variables of the time it was started
    try:
        return str(store.image(0).shape)
    except StoreUnreachable as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "result"), [("spawn", "(2, 4, 6, 8)"), ("forkserver", "(2, 4, 6, 8)"), ("fork", "forkserver")]
)
def test_forked_process_gets_an_error_instead_of_hanging(store: Store, method: str, result: str) -> None:
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert result in pool.apply_async(_read_in_child, (store, settings)).get(timeout=60)


def test_three_concurrent_builds(address: str) -> None:
    context = multiprocessing.get_context("spawn")
    builds = [context.Process(target=write_and_commit, args=(address, name)) for name in range(3)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert [build.exitcode for build in builds] == [0] * 3
    store = open_store(address)
    assert len(set(store.table["row"].tolist())) == len(store) == 9
    assert list(check_store(store)) == []


def fail(kind: str, handler: BaseHTTPRequestHandler) -> None:
    """End a request with a status code, or with ``reset`` close the connection without a response."""
    if kind.isdigit():
        handler.send_response(int(kind))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    else:
        handler.close_connection = True
        handler.connection.close()


class Proxy(ThreadingHTTPServer):
    """Forwards requests to the S3 server, except those that ``plan`` makes fail.

    ``plan`` gets the method, the path, and the number of earlier equal requests. It returns None, or a status
    code or ``reset``. With the prefix ``after:`` the request fails after the server has processed it.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint)
        self.plan: Callable[[str, str, int], str | None] = lambda method, path, number: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None: ...

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = (self.command, urlsplit(self.path).path)
        with self.server.lock:
            number = self.server.requests.count(request)
            self.server.requests.append(request)
        fault = self.server.plan(*request, number)
        if fault and not fault.startswith("after:"):
            return fail(fault, self)
        upstream = HTTPConnection(self.server.upstream.hostname, self.server.upstream.port, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers))  # Host is part of the signature
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault:
            return fail(fault.removeprefix("after:"), self)
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = _forward  # noqa: N815


@pytest.fixture
def proxy(s3_bucket, s3_server, monkeypatch) -> Iterator[Proxy]:
    with Proxy(s3_server.endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset"])
def test_transient_failures_are_retried_nine_times(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    location = S3Location(f"{s3_bucket}/a", first_pause_s=0.001)
    proxy.plan = lambda method, path, number: fault if number < 9 else None
    location.write("x", b"content")
    assert location.read("x") == b"content"
    assert location.exists("x")
    path = f"/{s3_bucket[5:]}/a/x"
    assert proxy.requests == [("PUT", path)] * 10 + [("GET", path)] * 10 + [("HEAD", path)] * 10


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_request_fails_after_ten_tries(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    location = S3Location(f"{s3_bucket}/a", first_pause_s=0.001)
    proxy.plan = lambda method, path, number: fault
    with pytest.raises(StoreUnreachable, match="after 10 tries"):
        location.read("x")
    assert len(proxy.requests) == 10


@pytest.mark.parametrize("fault", ["400", "403"])
def test_permanent_failure_is_not_retried(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    location = S3Location(f"{s3_bucket}/a", first_pause_s=0.001)
    proxy.plan = lambda method, path, number: fault
    with pytest.raises(StoreForbidden if fault == "403" else StoreUnreachable):
        location.read("x")
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("fault", ["after:500", "after:reset"])
def test_lost_put_response_is_recognised_as_own_write(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    """The first try creates the object; the second finds it and must recognise it as its own."""
    location = S3Location(f"{s3_bucket}/a", first_pause_s=0.001)
    proxy.plan = lambda method, path, number: fault if (method, number) == ("PUT", 0) else None
    location.create("mine", b"1")
    assert location.read("mine") == b"1"
    with pytest.raises(FileExistsError):
        location.create("mine", b"1")
    proxy.plan = lambda method, path, number: "500" if (method, number) == ("PUT", 2) else None
    with pytest.raises(FileExistsError):  # a retry must not mistake another call's object for its own
        location.create("mine", b"1")


def test_builds_complete_although_every_second_request_fails(proxy: Proxy, s3_bucket: str) -> None:
    faults = ["500", "after:503", "reset", "after:reset"]
    proxy.plan = lambda method, path, number: faults[len(path) % 4] if number % 2 == 0 else None
    write_and_commit(f"{s3_bucket}/a", 1, studies=2)
    write_and_commit(f"{s3_bucket}/a", 2, studies=2)
    store = open_store(f"{s3_bucket}/a")
    assert (store.version, len(store)) == (2, 4)
    assert list(check_store(store)) == []
    assert sorted(store.table["row"].tolist()) == [0, 1, 2, 3]
