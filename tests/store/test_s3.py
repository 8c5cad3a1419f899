"""A store on a real S3 server, reached through a proxy that loses what it is told to lose."""

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

import spine_etl.s3
from spine_etl.errors import (
    ChunkCorrupt,
    ChunkMissing,
    StoreForbidden,
    StoreNotFound,
    StoreUnreachable,
)
from spine_etl.store import Store, open_store
from spine_etl.store.check import check_store
from spine_etl.store.location import open_location
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, build_alone, built, refused, voxels

pytestmark = pytest.mark.integration


@pytest.fixture
def address(s3_bucket: str) -> str:
    return f"{s3_bucket}/team/tiny"


@pytest.fixture
def store(address: str) -> Store:
    writer = StoreWriter(address, RECIPE)
    writer.commit([built(writer, "1.2", 2, positive=1), built(writer, "1.1", 1), refused("1.3")])
    return open_store(address)


def test_what_was_written_is_read(store: Store, tmp_path) -> None:
    assert store.study_uids == ["1.1", "1.2"]
    assert [entry["uid"] for entry in store.refused] == ["1.3"]
    assert list(check_store(store)) == []
    np.testing.assert_array_equal(store.image(1), voxels(2)["image"])
    local = StoreWriter(tmp_path / "store", RECIPE)
    local.commit([built(local, "1.2", 2, positive=1), built(local, "1.1", 1), refused("1.3")])
    assert open_store(tmp_path / "store").root_digest == store.root_digest


def test_other_zarr_clients_read_the_same(store: Store, s3_server) -> None:
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    parts = urlsplit(str(store.location))
    client = S3Store(parts.netloc, prefix=parts.path.strip("/"), client_options={"allow_http": True})
    group = zarr.open_group(ObjectStore(client, read_only=True), mode="r")
    row = int(store.table["row"][1])
    np.testing.assert_array_equal(group["image"][row], voxels(2)["image"])


@pytest.mark.parametrize("role", ["reader", None])
def test_reading_needs_the_right_to_read_alone(store, address, s3_server, monkeypatch, role) -> None:
    """Neither listing nor writing; without a signature where the bucket is public."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in s3_server.settings(role).items():
        monkeypatch.setenv(name, value)
    reading = open_store(address)
    assert reading.root_digest == store.root_digest
    assert list(check_store(reading)) == []
    with pytest.raises(StoreForbidden, match="STORE_FORBIDDEN"):
        built(StoreWriter(address, RECIPE), "1.4", 4)


def test_without_any_right_it_is_said_so(store, address, s3_server, monkeypatch) -> None:
    for name, value in s3_server.settings("nobody").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreForbidden, match="credentials"):
        open_store(address)


def test_a_missing_object_is_no_fill(store: Store, address: str) -> None:
    import obstore

    key = store.arrays["mask"].key(int(store.table["row"][0]))
    obstore.delete(spine_etl.s3.open_bucket(address), key)
    with pytest.raises(ChunkMissing, match=r"1\.1"):
        store.mask(0)
    table = json.loads(open_location(address).read("versions/1/zarr.json"))["attributes"]["path"]
    obstore.delete(spine_etl.s3.open_bucket(address), f"{table}/fracture/c/0/0")
    with pytest.raises(ChunkCorrupt, match="version"):
        open_store(address)
    obstore.delete(spine_etl.s3.open_bucket(address), f"{table}/row/zarr.json")
    with pytest.raises(ChunkMissing, match="not whole"):
        open_store(address)


@pytest.mark.parametrize("wrong", ["s3://", "s3:///a", "gs://bucket/a", "s3://bucket/a?b=c"])
def test_addresses_that_are_none(wrong: str) -> None:
    with pytest.raises(StoreNotFound):
        open_location(wrong)


def test_where_there_is_no_store(s3_bucket: str) -> None:
    with pytest.raises(StoreNotFound, match="no store at"):
        open_store(f"{s3_bucket}/nothing")
    with pytest.raises(StoreNotFound, match="no store at"):
        open_store("s3://there-is-no-such-bucket/nothing")


def test_what_is_sent_to_a_worker_holds_no_credentials(address: str) -> None:
    writer = StoreWriter(address, RECIPE)
    sent = pickle.dumps(writer)
    assert b"writer-secret" not in sent
    assert pickle.loads(sent).latest() is None  # noqa: S301


def _read_in_child(store: Store, settings: dict[str, str]) -> str:
    os.environ.update(settings)  # a fork server's are those of the moment when it was started
    try:
        return str(store.image(0).shape)
    except StoreUnreachable as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "told"), [("spawn", "(2, 4, 6, 8)"), ("forkserver", "(2, 4, 6, 8)"), ("fork", "forkserver")]
)
def test_a_forked_process_is_told_and_does_not_hang(store: Store, method: str, told: str) -> None:
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert told in pool.apply_async(_read_in_child, (store, settings)).get(timeout=60)


def test_builds_at_once_lose_nothing(address: str) -> None:
    context = multiprocessing.get_context("spawn")
    builds = [context.Process(target=build_alone, args=(address, name)) for name in range(3)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert [build.exitcode for build in builds] == [0] * 3
    store = open_store(address)
    assert len(set(store.table["row"].tolist())) == len(store) == 9
    assert list(check_store(store)) == []


def lose(kind: str, handler: BaseHTTPRequestHandler) -> None:
    """End a request in that way, without what the server said."""
    if kind.isdigit():
        handler.send_response(int(kind))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    else:
        handler.close_connection = True
        handler.connection.close()


class Proxy(ThreadingHTTPServer):
    """Hands requests on; ``plan`` names what befalls those for a path: a status or ``reset``, before or (with
    an ``after:`` in front) after the server has done what it was asked for."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint)
        self.plan: Callable[[str, str, int], str | None] = lambda method, path, number: None
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None: ...

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = (self.command, urlsplit(self.path).path)
        with self.server.lock:
            number = self.server.seen.count(asked)
            self.server.seen.append(asked)
        fault = self.server.plan(*asked, number)
        if fault and not fault.startswith("after:"):
            return lose(fault, self)
        upstream = HTTPConnection(self.server.upstream.hostname, self.server.upstream.port, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers))  # Host is part of the signature
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault:
            return lose(fault.removeprefix("after:"), self)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = _hand_on  # noqa: N815


@pytest.fixture
def proxy(s3_bucket, s3_server, monkeypatch) -> Iterator[Proxy]:
    with Proxy(s3_server.endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(spine_etl.s3, "_FIRST_PAUSE_S", 0.001)
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset"])
def test_what_passes_is_tried_ten_times(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    location = open_location(f"{s3_bucket}/a")
    proxy.plan = lambda method, path, number: fault if number < 9 else None
    location.write("x", b"content")
    assert location.read("x") == b"content"
    assert location.exists("x")
    path = f"/{s3_bucket[5:]}/a/x"
    assert proxy.seen == [("PUT", path)] * 10 + [("GET", path)] * 10 + [("HEAD", path)] * 10


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_what_does_not_pass_is_given_up(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    location = open_location(f"{s3_bucket}/a")
    proxy.plan = lambda method, path, number: fault
    with pytest.raises(StoreUnreachable, match="after 10 tries"):
        location.read("x")
    assert len(proxy.seen) == 10


@pytest.mark.parametrize("fault", ["400", "403"])
def test_what_cannot_pass_is_not_tried_again(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    location = open_location(f"{s3_bucket}/a")
    proxy.plan = lambda method, path, number: fault
    with pytest.raises(StoreForbidden if fault == "403" else StoreUnreachable):
        location.read("x")
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("fault", ["after:500", "after:reset"])
def test_an_answer_that_was_lost_makes_no_rival_of_us(proxy: Proxy, s3_bucket: str, fault: str) -> None:
    """The object is there after the first try; the second finds it and must know it for its own."""
    location = open_location(f"{s3_bucket}/a")
    proxy.plan = lambda method, path, number: fault if (method, number) == ("PUT", 0) else None
    location.create("mine", b"1")
    assert location.read("mine") == b"1"
    with pytest.raises(FileExistsError):
        location.create("mine", b"1")
    proxy.plan = lambda method, path, number: "500" if (method, number) == ("PUT", 2) else None
    with pytest.raises(FileExistsError):  # a fault of the network makes another's object not ours either
        location.create("mine", b"1")


def test_a_build_over_a_bad_line_is_whole(proxy: Proxy, s3_bucket: str) -> None:
    """Every second request of each kind fails, one way or another."""
    faults = ["500", "after:503", "reset", "after:reset"]
    proxy.plan = lambda method, path, number: faults[len(path) % 4] if number % 2 == 0 else None
    build_alone(f"{s3_bucket}/a", 1, studies=2)
    build_alone(f"{s3_bucket}/a", 2, studies=2)
    store = open_store(f"{s3_bucket}/a")
    assert (store.version, len(store)) == (2, 4)
    assert list(check_store(store)) == []
    assert sorted(store.table["row"].tolist()) == [0, 1, 2, 3]
