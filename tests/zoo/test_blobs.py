"""Bytes are kept whole under their digest or not at all, in a folder as in an object store."""

import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import servers

from zoo.errors import IntegrityError, UnreachableError, UsageError, ZooError
from zoo.registry.blobs import Entry, LocalBlobs, name_of, open_blobs
from zoo.registry.bucket import RETRIES

DATA = b"weights" * 100


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "blobs")


@pytest.fixture
def blobs(place):
    opened = open_blobs(place)
    opened.create()
    return opened


def test_what_is_kept_comes_back_and_is_told(blobs, place):
    before = time.time() - 2
    key = blobs.put(DATA)
    assert key == hashlib.sha256(DATA).hexdigest() == blobs.put(DATA)
    assert open_blobs(place).get(key, len(DATA), "it") == DATA
    empty = blobs.put(b"")
    assert blobs.get(empty, 0, "it") == b""
    found = {entry.sha256: entry for entry in blobs.entries()}
    assert {key: entry.size for key, entry in found.items()} == {key: len(DATA), empty: 0}
    assert all(before <= entry.modified <= time.time() + 2 for entry in found.values())
    assert list(blobs.strays()) == []
    assert blobs.place == place


def test_what_is_removed_is_gone_and_may_be_removed_again(blobs):
    key, other = blobs.put(DATA), blobs.put(b"other")
    assert blobs.remove(key)
    assert blobs.remove(key)
    with pytest.raises(IntegrityError, match="it: expected 700 bytes, found no"):
        blobs.get(key, len(DATA), "it")
    assert [entry.sha256 for entry in blobs.entries()] == [other]


def test_what_was_written_since_stays_and_is_told_to_be_there(blobs):
    key = blobs.put(DATA)
    [entry] = blobs.entries()
    assert blobs.remove(key, since=entry.modified - 10) is False
    assert blobs.get(key, len(DATA), "it") == DATA
    assert blobs.remove(key, since=entry.modified) is True
    assert list(blobs.entries()) == []


@pytest.mark.parametrize(
    "told", ["../../etc/passwd", "/etc/passwd", "", "ab" * 31 + "/.", "AB" * 32]
)
def test_a_digest_that_is_none_is_no_path(blobs, told):
    with pytest.raises(IntegrityError, match="files are named by their SHA-256, not"):
        blobs.get(told, 1, "it")
    with suppress(IntegrityError):
        assert not blobs.remove(told)


def test_a_place_within_another_keeps_to_itself(blobs, place):
    inner = blobs.child("states")
    key = inner.put(DATA)
    assert list(blobs.entries()) == []
    assert [entry.sha256 for entry in open_blobs(f"{place}/states").entries()] == [key]
    with pytest.raises(IntegrityError, match="found no"):
        blobs.get(key, len(DATA), "it")


def test_other_names_are_passed_over(blobs, place):
    key = blobs.put(DATA)
    names = [f"{key[:2]}/{key}.txt", f"{key[:2]}/{key[:-1]}.safetensors", "readme.md"]
    names += ["00/" + key + ".safetensors", f"{key[:2].upper()}/{key.upper()}.safetensors"]
    for name in names:
        if isinstance(blobs, LocalBlobs):
            path = blobs.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
        else:
            from obstore import put

            put(blobs._bucket.store, name, b"x")
    assert [(entry.sha256, entry.size) for entry in blobs.entries()] == [(key, len(DATA))]


def test_writers_at_once_write_one(place):
    open_blobs(place).create()
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: open_blobs(place).put(DATA), range(16)))
    (key,) = keys
    assert [entry.sha256 for entry in open_blobs(place).entries()] == [key]
    assert open_blobs(place).get(key, len(DATA), "it") == DATA


def test_bytes_that_do_not_read_back_as_written_are_refused(tmp_path, monkeypatch):
    blobs = LocalBlobs(tmp_path)
    write = "zoo.registry.blobs._write"
    monkeypatch.setattr(write, lambda path, data: path.write_bytes(data[:-1] + b"X"))
    with pytest.raises(ZooError, match="read otherwise than it was written"):
        blobs.put(DATA)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_was_written_is_read_back_from_the_disk_and_not_from_memory(tmp_path, monkeypatch):
    told = []

    def advise(descriptor, *advice):
        assert os.fstat(descriptor).st_size == len(DATA)
        told.append(advice)

    monkeypatch.setattr("os.posix_fadvise", advise, raising=False)
    monkeypatch.setattr("os.POSIX_FADV_DONTNEED", 4, raising=False)
    LocalBlobs(tmp_path).put(DATA)
    assert told == [(0, 0, 4)]  # all of the file


def test_a_system_without_such_advice_reads_back_what_it_wrote(tmp_path, monkeypatch):
    monkeypatch.delattr("os.posix_fadvise", raising=False)
    blobs = LocalBlobs(tmp_path)
    assert blobs.get(blobs.put(DATA), len(DATA), "it") == DATA


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    blobs = LocalBlobs(tmp_path)
    key = blobs.put(DATA)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ZooError, match=rf"it: cannot be read: Permission denied: .*{key}") as told:
        blobs.get(key, len(DATA), "it")
    assert not isinstance(told.value, IntegrityError)


def test_a_new_folder_survives_a_loss_of_power_as_the_file_in_it_does(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("zoo.registry.blobs.sync_folder", flushed.append)
    blobs = LocalBlobs(tmp_path)
    inner = blobs.path(blobs.put(DATA)).parent
    assert flushed == [tmp_path, inner]
    blobs.put(DATA)
    assert flushed == [tmp_path, inner, inner]


@pytest.mark.parametrize("lacking", [os.W_OK, os.X_OK])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, lacking):
    monkeypatch.setattr("os.access", lambda _, wanted: not wanted & lacking)
    with pytest.raises(UsageError, match="cannot be written; choose another place with --blobs"):
        LocalBlobs(tmp_path).create()


def test_a_file_that_cannot_be_removed_is_told_to_be_there(tmp_path, monkeypatch):
    blobs = LocalBlobs(tmp_path)
    key = blobs.put(DATA)

    def refuse(_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    assert blobs.remove(key) is False


def test_unfinished_files_are_told_and_are_no_entries(tmp_path, monkeypatch):
    blobs = LocalBlobs(tmp_path)
    seen = []

    def replace(source, target):
        seen.extend(blobs.strays())
        assert list(blobs.entries()) == []
        Path(source).rename(target)

    monkeypatch.setattr("os.replace", replace)
    blobs.put(DATA)
    assert [(stray.size, stray.path.parent.name) for stray in seen] == [(len(DATA), "tmp")]
    assert list(blobs.strays()) == []


def test_a_digest_is_computed_again_only_where_the_file_was_written(tmp_path, monkeypatch):
    blobs, computed = LocalBlobs(tmp_path), []
    key = blobs.put(DATA)
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data: computed.append(1) or sha256(data))
    blobs.get(key, len(DATA), "it")
    blobs.get(key, len(DATA), "it")
    assert len(computed) == 2  # it is so young that it could be written again within one tick
    os.utime(blobs.path(key), (1, 1))
    blobs.get(key, len(DATA), "it")
    blobs.get(key, len(DATA), "it")
    assert len(computed) == 3
    blobs.path(key).write_bytes(DATA[::-1])
    with pytest.raises(IntegrityError, match="SHA-256 mismatch"):
        blobs.get(key, len(DATA), "it")


def test_an_object_that_a_collector_may_take_is_written_anew(s3, monkeypatch):
    from obstore import put

    blobs = open_blobs(s3)
    key = blobs.put(DATA)
    put(blobs._bucket.store, name_of(key), DATA[::-1])
    blobs.put(DATA)
    assert next(blobs.entries()) == Entry(key, len(DATA), next(blobs.entries()).modified)
    with pytest.raises(IntegrityError, match="mismatch, the object was altered: s3://"):
        blobs.get(key, len(DATA), "it")
    monkeypatch.setattr("zoo.registry.remote.FRESH_S", -60)
    blobs.put(DATA)
    assert blobs.get(key, len(DATA), "it") == DATA


def test_a_large_object_arrives_in_parts(s3):
    data = os.urandom(12_000_000)
    blobs = open_blobs(s3)
    assert blobs.get(blobs.put(data), len(data), "it") == data


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/x", "or az://CONTAINER/PREFIX, however this is 'ftp://...'"),
        ("s3://", "however this is 's3://...'"),
        ("s3://ann:hush-hush@bucket/x", "s3://bucket/x: the URL must hold the place alone"),
        ("s3://bucket/x?secret=hush-hush", "put credentials into AWS_ACCESS_KEY_ID"),
        ("az://box/x?sig=hush-hush", "put credentials into AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_a_url_holds_a_place_and_no_secret(url, said):
    with pytest.raises(UsageError) as refusal:
        open_blobs(url)
    assert said in str(refusal.value)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("url", ["s3://bucket/x", "az://box/x"])
def test_missing_credentials_are_asked_for(url, s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")  # but not the secret that belongs to it
    with pytest.raises(UsageError, match=r"access was refused: .*; check A(WS|ZURE)_"):
        open_blobs(url).create()


def test_plain_http_must_be_allowed(s3, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(UsageError, match=r"plain http, .*; allow it by AWS_ALLOW_HTTP=true"):
        open_blobs(s3).create()


def test_a_bucket_that_is_not_there_is_named(s3):
    blobs = open_blobs("s3://nobody/zoo")
    for call in (blobs.create, lambda: blobs.put(DATA), lambda: blobs.get("ab" * 32, 1, "it")):
        with pytest.raises(UsageError, match="s3://nobody/zoo: there is no such bucket; make it"):
            call()


def test_a_server_that_is_not_there_is_unreachable(s3, monkeypatch):
    monkeypatch.setitem(RETRIES, "max_retries", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    blobs = open_blobs(s3)
    for call in (blobs.create, lambda: blobs.put(DATA), lambda: blobs.get("ab" * 32, 1, "it")):
        with pytest.raises(UnreachableError, match="try again when it answers") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert servers.CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    assert not blobs.remove("ab" * 32)


@contextmanager
def refusing(answers):
    """Serve one (status, code) after another, then empty lists; give the address, and what came."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, code = answers.pop(0) if answers else (200, "")
            asked.append(self.path)
            body = f"<Error><Code>{code}</Code><Message>as asked</Message></Error>"
            if status == 200:
                body = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_throttling_is_waited_out(s3, monkeypatch):
    with refusing([(503, "SlowDown"), (503, "SlowDown"), (429, "Throttled")]) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        open_blobs(s3).create()
    assert len(asked) == 4


def test_throttling_without_end_is_told(s3, monkeypatch):
    monkeypatch.setitem(RETRIES, "max_retries", 2)
    with refusing([(503, "SlowDown")] * 9) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(UnreachableError, match="SlowDown: as asked; try again"):
            open_blobs(s3).create()
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (403, "AccessDenied"), (401, "Odd")],
)
def test_refused_credentials_are_told_at_once(s3, monkeypatch, status, code):
    with refusing([(status, code)] * 9) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(UsageError, match=f"access was refused: {code}: as asked; check AWS_"):
            open_blobs(s3).create()
    assert len(asked) == 1


def test_a_fork_does_not_use_the_client_of_its_parent(s3):
    blobs = open_blobs(s3)
    key = blobs.put(DATA)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            open_blobs(s3).get(key, len(DATA), "it")
        except ZooError as error:
            code = 0 if "start processes by spawn" in str(error) else 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert blobs.get(key, len(DATA), "it") == DATA
