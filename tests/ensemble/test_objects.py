"""Objects in a store are averaged as files are, and the result is there in full or not at all."""

import json
import os
from threading import Thread

import pytest
import torch
from click.testing import CliRunner
from obstore import get, list_with_delimiter, put
from safetensors.torch import load, save, save_file

from cli import main
from ensemble import average_files, objects
from ensemble.errors import NonFiniteError, StateMismatchError
from zoo.errors import UnreachableError, UnsafeFileError, UsageError
from zoo.exchange.opening import INDEX
from zoo.registry.bucket import Bucket

FOLDER_CASES = [("uniform", {}), ("median", {}), ("weighted", {"weights": [3, 1]}), ("ties", {})]


def state(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "long": torch.randn(300_001, generator=generator),
        "half": torch.randn(7, 3, generator=generator).half(),
        "count": torch.tensor(seed),
    }


@pytest.fixture
def chunks(monkeypatch):
    monkeypatch.setattr(objects, "CHUNK", 100_003)  # which cuts across tensors and pieces


@pytest.fixture
def bucket(s3):
    return Bucket(s3)


@pytest.fixture
def members(bucket, tmp_path):
    """Two members and a base, as objects and as files."""
    for seed in range(3):
        save_file(state(seed), tmp_path / f"{seed}.safetensors")
        put(bucket.store, f"{seed}.safetensors", tmp_path / f"{seed}.safetensors")
    return [f"{bucket.place}/{seed}.safetensors" for seed in range(3)]


def names(bucket):
    return sorted(
        found["path"].rpartition("/")[2] for found in list_with_delimiter(bucket.store)["objects"]
    )


@pytest.mark.parametrize(("method", "options"), FOLDER_CASES)
def test_objects_are_averaged_as_files_are(members, bucket, tmp_path, method, options, chunks):
    *urls, base = members
    files = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    of_files = options | ({"base": str(tmp_path / "2.safetensors")} if method == "ties" else {})
    of_objects = options | ({"base": base} if method == "ties" else {})
    average_files(files, tmp_path / "a.safetensors", method=method, options=of_files)
    seen = []
    done = average_files(
        urls,
        f"{bucket.place}/b.safetensors",
        method=method,
        options=of_objects,
        watch=lambda count, total: seen.append((count, total)),
    )
    assert done.paths == (f"{bucket.place}/b.safetensors",)
    ours = load(bytes(get(bucket.store, "b.safetensors").bytes()))
    theirs = load((tmp_path / "a.safetensors").read_bytes())
    assert all(torch.equal(ours[key], theirs[key]) for key in (ours | theirs))
    # Of what is not averaged the first member is read alone.
    assert 0.9 * seen[0][1] < sum(count for count, _ in seen) <= seen[0][1]
    average_files([urls[0], files[1]], tmp_path / "c.safetensors", method=method, options=of_files)
    mixed = load((tmp_path / "c.safetensors").read_bytes())
    assert all(torch.equal(mixed[key], theirs[key]) for key in theirs)


def test_a_folder_of_shards_becomes_one(s3, chunks):
    for which in ("one", "two"):
        seed = ("one", "two").index(which)
        place = Bucket(f"{s3}/{which}")
        shards = {"model-1.safetensors": ["long"], "model-2.safetensors": ["count", "half"]}
        for name, keys in shards.items():
            put(place.store, name, save({key: state(seed)[key] for key in keys}))
        told = {key: name for name, keys in shards.items() for key in keys}
        put(place.store, INDEX, json.dumps({"weight_map": told}).encode())
        put(place.store, "config.json", b'{"torch_dtype": "float32", "layers": 2}')
    average_files([f"{s3}/one", f"{s3}/two/"], f"{s3}/mean", dtype="bfloat16")
    result = Bucket(f"{s3}/mean")
    assert names(result) == ["config.json", *sorted(shards), INDEX]
    assert json.loads(bytes(get(result.store, INDEX).bytes()))["weight_map"] == told
    config = json.loads(bytes(get(result.store, "config.json").bytes()))
    assert config == {"torch_dtype": "bfloat16", "layers": 2}
    mean = (state(0)["long"].double() + state(1)["long"].double()) / 2
    found = load(bytes(get(result.store, "model-1.safetensors").bytes()))["long"]
    assert torch.equal(found, mean.bfloat16())


def test_nothing_is_there_after_an_error(members, bucket):
    spoiled = state(1)
    spoiled["long"][-1] = torch.nan
    put(bucket.store, "bad.safetensors", save(spoiled))
    before = names(bucket)
    with pytest.raises(NonFiniteError, match=r"'long' holds NaN or infinity in s3://.*/bad\.safe"):
        average_files(
            [members[0], f"{bucket.place}/bad.safetensors"], f"{bucket.place}/o.safetensors"
        )
    assert names(bucket) == before


def test_what_is_there_stays_unless_it_is_said(members, bucket):
    with pytest.raises(UsageError, match=r"2\.safetensors: is there already; --force replaces it"):
        average_files(members[:2], members[2])
    average_files(members[:2], members[2], force=True)
    with pytest.raises(UsageError, match=r"1\.safetensors: is one of the members; name another"):
        average_files(members[:2], members[1], force=True)


def test_an_object_that_changes_meanwhile_is_refused(members, bucket, chunks):
    def replace(count, total):
        thread = Thread(target=put, args=(bucket.store, "1.safetensors", save(state(7))))
        thread.start()
        thread.join()

    with pytest.raises(UnsafeFileError, match=r"1\.safetensors: was changed while it was read"):
        average_files(members[:2], f"{bucket.place}/o.safetensors", watch=replace)
    assert "o.safetensors" not in names(bucket)


def test_places_without_weights_are_told(members, bucket, s3, tmp_path, monkeypatch):
    where = tmp_path / "o.safetensors"
    with pytest.raises(
        UsageError, match=r"9\.safetensors: cannot be read: there is no such object"
    ):
        average_files([members[0], f"{s3}/9.safetensors"], where)
    with pytest.raises(
        UsageError, match=r"or one \.safetensors file, however it has 3; name a file"
    ):
        average_files([s3], where)
    with pytest.raises(UsageError, match=r"nowhere-at-all: there is no such bucket; make it$"):
        average_files(["s3://nowhere-at-all"], where)
    with pytest.raises(UsageError, match=r"a place is a folder, s3://BUCKET/PREFIX"):
        average_files(["https://example.org/a.safetensors"], where)
    put(bucket.store, "cut.safetensors", save(state(0))[:-1])
    with pytest.raises(UnsafeFileError, match=r"cut\.safetensors"):
        average_files([f"{s3}/cut.safetensors"], where)
    put(bucket.store, "other.safetensors", save({"w": torch.zeros(2)}))
    with pytest.raises(StateMismatchError, match="keys, shapes and dtypes"):
        average_files([members[0], f"{s3}/other.safetensors"], where)
    assert not where.exists()


def test_a_store_that_does_not_answer_is_told(s3, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("zoo.registry.bucket.RETRIES", {"max_retries": 0})
    with pytest.raises(UnreachableError, match="try again when it answers"):
        average_files([f"{s3}/a.safetensors"], tmp_path / "o.safetensors")


def test_the_command_takes_urls(members, bucket):
    done = CliRunner().invoke(
        main, ["average", *members[:2], "-o", f"{bucket.place}/cli.safetensors"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{bucket.place}/cli.safetensors\n"
