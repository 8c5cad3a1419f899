"""Sources on S3: the number of requests, and reads of objects that changed since they were listed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from spine_etl.dicom import read_series
from spine_etl.errors import NoSlices, SourceChanged, SourceNotFound, SourceUnreachable
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.s3 import open_bucket
from spine_etl.source.files import open_source
from spine_etl.source.files.s3 import S3Folder
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest

RECIPE = load_recipe("quick")
LEVELS = list(RECIPE.levels)
BUCKET = S3Folder("s3://bucket", first_pause_s=0.001)
DATE = "2026-01-02T03:04:05.000Z"


class Server(ThreadingHTTPServer):
    """Implements the S3 requests of a source (ListObjectsV2, GetObject), but ignores If-Match."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = {
            p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }
        self.status = {"list": 200, "get": 200}
        self.etags = dict.fromkeys(self.objects, "first")
        self.page = 1000  # most entries of one listing, as on S3
        self.requests: list[str] = []
        self.conditions: list[str | None] = []
        self.lock, self.pause = threading.Lock(), threading.Event()
        self.concurrent, self.most_concurrent = 0, 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query, key = parse_qs(parts.query), unquote(parts.path).removeprefix("/bucket").strip("/")
        kind = "list" if "list-type" in query else "get"
        with self.server.lock:
            self.server.requests.append(kind)
            self.server.conditions.append(self.headers["If-Match"])
            self.server.concurrent += 1
            self.server.most_concurrent = max(self.server.most_concurrent, self.server.concurrent)
        status, content = self.server.status[kind], b""
        if status == 200 and kind == "list":
            first = int(query.get("continuation-token", ["0"])[0])
            content = self._listing(query.get("prefix", [""])[0], first)
        elif status == 200:
            status, content = (200, self.server.objects[key]) if key in self.server.objects else (404, b"")
        self.server.pause.wait(timeout=0.05)  # so that concurrent requests overlap
        with self.server.lock:
            self.server.concurrent -= 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
        if kind == "get":
            self.send_header("ETag", f'"{self.server.etags.get(key)}"')
        self.end_headers()
        self.wfile.write(content)

    def _etag(self, key: str) -> str:
        etag = self.server.etags[key]
        return f"<ETag>&quot;{etag}&quot;</ETag>" if etag else ""

    def _listing(self, prefix: str, first: int) -> bytes:
        """The entries from ``first`` on, as many as fit on a page."""
        below = [key.removeprefix(prefix) for key in self.server.objects if key.startswith(prefix)]
        folders = sorted({key.split("/")[0] for key in below if "/" in key})
        entries = [
            f"<Contents><Key>{prefix}{key}</Key><LastModified>{DATE}</LastModified>"
            f"{self._etag(prefix + key)}"
            f"<Size>{len(self.server.objects[prefix + key])}</Size></Contents>"
            for key in below
            if "/" not in key
        ]
        entries += [f"<CommonPrefixes><Prefix>{prefix}{n}/</Prefix></CommonPrefixes>" for n in folders]
        last = first + self.server.page
        more = "<IsTruncated>false</IsTruncated>"
        if last < len(entries):
            more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
        return f"<ListBucketResult>{more}{''.join(entries[first:last])}</ListBucketResult>".encode()


@pytest.fixture
def server(phantom: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(phantom) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def study(server: Server) -> Study:
    study = next(study for study in discover_studies(BUCKET, LEVELS) if study.mask)
    server.requests.clear()
    return study


def test_source_digest_takes_one_listing_and_reads_no_object(server: Server, study: Study) -> None:
    source_digest(study)
    assert server.requests == ["list"]


@pytest.mark.parametrize("page", [7, 39, 40, 41])
def test_listing_of_several_pages_is_complete(server: Server, study: Study, phantom: Path, page: int) -> None:
    """S3 lists 1000 entries at a time: more slices or studies than that must not get lost."""
    server.page = page
    expected = {path.name for path in (phantom / "train_images" / study.uid).iterdir()}
    assert len(expected) == 40
    files = study.folder.files()
    assert {file.name for file in files} == expected
    assert len(files) == 40
    assert len(server.requests) == -(-40 // page)
    assert len(discover_studies(BUCKET, LEVELS)) == 3


def test_source_digest_changes_with_an_etag(server: Server, study: Study) -> None:
    before = source_digest(study)
    assert source_digest(study) == before
    server.etags[f"train_images/{study.uid}/1.dcm"] = "second"
    assert source_digest(study) != before


def test_objects_are_read_once_up_to_sixteen_at_a_time(server: Server, study: Study, phantom: Path) -> None:
    volume = read_series(study.folder, threads=1)
    expected = read_series(phantom / "train_images" / study.uid).voxels
    np.testing.assert_array_equal(volume.voxels, expected)
    assert server.requests == ["list"] + ["get"] * len(expected)
    assert server.conditions[-len(expected) :] == ['"first"'] * len(expected)
    assert 10 <= server.most_concurrent <= 16


def test_folder_marker_objects_are_ignored(server: Server, study: Study) -> None:
    before = source_digest(study)
    for key in (f"train_images/{study.uid}/", "train_images/"):
        server.objects[key], server.etags[key] = b"", "marker"
    assert source_digest(study) == before
    assert study.uid in [found.uid for found in discover_studies("s3://bucket", LEVELS)]


def test_modification_time_is_that_of_the_newest_object(study: Study) -> None:
    expected = 1767323045.0  # date -d 2026-01-02T03:04:05Z +%s
    assert study.folder.modified_at() == expected
    assert study.mask.modified_at() == expected


def test_changed_object_is_detected_without_if_match(server: Server, study: Study, tmp_path: Path) -> None:
    assert study.mask
    key = f"segmentations/{study.mask.name}"
    server.etags[key] = "second"
    with pytest.raises(SourceChanged, match="since it was listed"):
        study.mask.open()
    record = process_study(study, StoreWriter(tmp_path, RECIPE))
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.transient) == ("SOURCE_CHANGED", True)
    server.etags[key] = "first"
    server.objects[key] += b"\0"
    with pytest.raises(SourceChanged):
        study.mask.open()
    del server.objects[key]
    server.requests.clear()
    with pytest.raises(SourceChanged):
        study.mask.open()
    assert server.requests == ["get"]


@pytest.mark.parametrize(("status", "tries"), [(500, 10), (503, 10), (403, 1), (400, 1)])
def test_failed_request_is_a_source_error(
    server: Server, study: Study, tmp_path: Path, status: int, tries: int
) -> None:
    server.status["get"] = status
    with pytest.raises(SourceUnreachable, match=study.mask.name):
        study.mask.open()
    assert server.requests == ["get"] * tries
    record = process_study(study, StoreWriter(tmp_path, RECIPE))
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.transient) == ("SOURCE_UNREACHABLE", True)
    server.status["list"] = status
    with pytest.raises(SourceUnreachable):
        discover_studies(BUCKET, LEVELS)


def test_listing_without_etags_is_refused(server: Server, study: Study) -> None:
    server.etags[f"train_images/{study.uid}/1.dcm"] = ""
    with pytest.raises(SourceUnreachable, match="no ETag"):
        read_series(study.folder)


@pytest.mark.integration
def test_changed_object_is_detected_on_a_real_server(s3_bucket: str, phantom: Path) -> None:
    client = open_bucket(s3_bucket)
    folder = sorted((phantom / "train_images").iterdir())[0]
    for path in folder.iterdir():
        client.put(f"a/{path.name}", path.read_bytes())
    (file,) = [file for file in open_source(f"{s3_bucket}/a").files() if file.name == "7.dcm"]
    content = (folder / "7.dcm").read_bytes()
    with file.open() as opened:
        assert opened.read() == content
    client.put("a/7.dcm", content[:-1] + b"\1")
    with pytest.raises(SourceChanged):
        file.open()
    client.delete("a/7.dcm")
    with pytest.raises(SourceChanged):
        file.open()


@pytest.mark.integration
def test_invalid_sources_on_a_real_server(s3_bucket: str, s3_server, monkeypatch: pytest.MonkeyPatch) -> None:
    open_bucket(s3_bucket).put("train_images/README", b"not a folder")
    open_bucket(s3_bucket).put("empty/LICENSE", b"not a slice")
    with pytest.raises(SourceNotFound, match="contains no studies"):
        discover_studies(s3_bucket, LEVELS)
    with pytest.raises(SourceNotFound, match="train_images"):
        discover_studies(f"{s3_bucket}/nothing", LEVELS)
    with pytest.raises(SourceUnreachable, match="status 404 after 1 try"):
        discover_studies("s3://there-is-no-such-bucket", LEVELS)
    with pytest.raises(NoSlices):
        read_series(f"{s3_bucket}/empty")
    for name, value in s3_server.settings("no-access").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceUnreachable, match="credentials"):
        discover_studies(s3_bucket, LEVELS)
