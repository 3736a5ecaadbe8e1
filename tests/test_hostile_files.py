"""Malicious and damaged files are refused in a line; nothing runs, little memory is taken."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import corpus
import corpus_headers
import corpus_pickles
import pytest
import torch
from safetensors.torch import save_file

from zoo import build, continuation, parse, plan
from zoo.errors import ConfigError, IntegrityError
from zoo.registry import NewRun, Registry

TESTS = Path(__file__).parent
NAMES = [
    *corpus_pickles.FILES,
    *(f"{name}.safetensors" for name in corpus_headers.CONTENTS),
    *corpus_headers.FOLDERS,
]
NOT_THERE = {  # rather than unsafe: no file, or no weights in it
    "a_billion_lists.pt",
    "dictionaries_in_themselves.pt",
    "hf_shard_is_a_device",
    "hf_shard_is_a_pipe",
    "hf_shard_missing",
    "nested_ten_thousand_deep.pt",
    "pipe.pt",
}
SAYS = {
    "payload.pt": "it names posix.system",
    "payload_eval.pth": "it names __builtin__.eval",
    "payload_legacy.pt": "must be a zip archive",
    "a_whole_module.pt": "it names torch.nn.modules.linear.Linear",
    "torchscript.pt": "TorchScript program, which is code",
    "stride_zero.pt": "takes 4000000000000 bytes, however its storage has 8",
    "storage_claims_more.pt": "claims 400000000000 bytes, however it has 8",
    "many_tensors_of_one_storage.pt": "however they take 8388608000",
    "bomb.pt": "torch.save does not compress or encrypt, however 'data/0' is",
    "hash_that_takes_years.pt": "keys must be text or numbers, however one is a tuple",
    "records_twice.pt": "'data.pkl' is there twice",
    "records_outside.pt": "no record named '../../../x'",
    "overlapping_records.pt": "may not overlap",
    "header_of_many_tensors.safetensors": "at most 100000 tensors",
    "header_key_twice.safetensors": "one comes twice",
    "offsets_overlap.safetensors": "must lie end to end",
    "offsets_leave_a_hole.safetensors": "must lie end to end",
    "offsets_beyond_the_file.safetensors": "however these take 4000000000 bytes of 8",
    "hf_shard_outside": "names files beside it",
}
MOST_SECONDS = 10.0  # of a slow machine; on a quick one none takes two
MOST_BYTES = 64 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("corpus")
    corpus.make(made)
    return made


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    """What came of importing each file, in one process of limited memory."""
    place = tmp_path_factory.mktemp("empty")
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    environment |= {"ZOO_REGISTRY": f"sqlite:///{place}/zoo/r.db", "ZOO_BLOBS": f"{place}/zoo/b"}
    ran = subprocess.run(
        [sys.executable, TESTS / "importing.py", *(folder / name for name in NAMES)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert list(place.iterdir()) == []  # not even an empty registry
    return {Path(path).name: outcome for path, outcome in json.loads(ran.stdout).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_in_a_line_and_costs_little(told, name):
    outcome = told[name]
    assert outcome["code"] == (2 if name in NOT_THERE else 4), outcome
    assert outcome["raised"] is None
    lines = outcome["output"].splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert name in lines[0]
    assert SAYS.get(name, "") in lines[0]
    assert "weights_only" not in lines[0]
    assert outcome["seconds"] < MOST_SECONDS
    assert outcome["bytes"] < MOST_BYTES


def test_nothing_was_executed(told, folder):
    assert told
    assert not list(folder.rglob(corpus_pickles.SIDE_EFFECT))


def test_the_payloads_do_run_where_they_are_unpickled(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(folder / "payload.pt") as opened:
        pickle.loads(opened.read("archive/data.pkl"))
    assert (tmp_path / corpus_pickles.SIDE_EFFECT).exists()


def test_the_filter_of_torch_alone_takes_a_tensor_of_a_trillion_elements(folder):
    state = torch.load(folder / "stride_zero.pt", weights_only=True)
    assert state["w"].numel() == 10**12


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "other", "gone"])
def test_a_link_in_a_registry_leads_nowhere(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other").write_bytes(b"another")
    facts = dict.fromkeys(("config_hash", "data_ref", "data_fingerprint", "split_hash"), "x")
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "blobs") as registry:
        (run,) = registry.add([NewRun(name="r", config={}, task="regression", **facts)])
        kept = registry.publish(
            run.id, {"w": torch.ones(2)}, epoch=1, epochs=1, metrics={}, seconds=0.0
        )
    path = next((tmp_path / "blobs").glob(f"*/{kept.sha256}.safetensors"))
    path.unlink()
    path.symlink_to(tmp_path / target)
    registry = Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "blobs")
    with registry, pytest.raises(IntegrityError, match="run r"):
        registry.load(run.id)


@pytest.mark.parametrize(
    "card",
    [
        {"config": 1},
        {"config": {"init": "x"}},
        {"config": {"init": {"trained": "x"}}, "epoch": "y"},
        {"config": {}, "name": 3},
    ],
)
def test_a_card_that_lies_is_refused_in_a_line_or_not_believed(tmp_path, monkeypatch, card):
    monkeypatch.chdir(tmp_path)
    state = build("mlp", {"hidden": [4]}, (4,), 3, seed=0).state_dict()
    save_file(state, "a.safetensors", metadata={"zoo": json.dumps(card)})
    asked = {"data": {"ref": "iris"}, "model": {"hidden": [4]}, "init": "a.safetensors"}
    assert plan(parse(asked)).requests[0].config["init"]["trained"] == 0
    registry = Registry("sqlite:///r.db", "blobs")
    with registry, pytest.raises(ConfigError, match=r"what it tells of its run is damaged"):
        continuation(registry, ["a.safetensors"], 1, {}, None)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").symlink_to("/dev/zero")
    for name in ("a", "b"):
        asked = {"data": {"ref": "iris"}, "init": f"{tmp_path}/{name}.safetensors"}
        with pytest.raises(ConfigError, match="must be a file, however it is none"):
            plan(parse(asked))
