"""Files become one file: the same as averaging in memory, whatever they hold and however cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ensemble import average_files
from ensemble.catalogue import methods
from ensemble.elementwise import PIECE
from ensemble.files import SUPPLIED

ROOT = Path(__file__).parents[2]
SMALL = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, *SMALL]
WEIGHTS = [2.0, 1.0, 1.0]
METHODS = {found.name: found for found in methods("weights") if set(found.needs) <= SUPPLIED}
PAIRS = {"lerp", "slerp"}  # that take two members


def state(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "z": random(3, 5),
        "long": random(PIECE + 7),
        "scalar": random(),
        "empty": random(0, 3),
        "count": torch.tensor(seed),
        "mask": torch.tensor([True, seed > 0]),
        "bytes": torch.arange(seed, seed + PIECE + 1).to(torch.uint8),
    }


@pytest.fixture
def saved(tmp_path):
    """Write states as files; return their paths."""

    def save(states, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        for k, each in enumerate(states):
            save_file(each, folder / f"{k}.safetensors", metadata={"format": "pt"})
        return [folder / f"{k}.safetensors" for k in range(len(states))]

    return save


def average(paths, **options):
    output = paths[0].parent / "out.safetensors"
    average_files(paths, output, force=True, **options)
    return load_file(output)


def supplies(name, paths, count):
    """What a method needs: as options of files, and in memory."""
    method, given, supply = METHODS[name], {}, {}
    if "weights" in method.needs:
        given["weights"] = supply["weights"] = WEIGHTS[:count]
    if "base" in method.needs:
        given["base"] = paths[-1]
        supply["base"] = load_file(paths[-1])
    return given, supply


def bits(leaf):
    return leaf.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_files_are_merged_as_their_states_are(saved, name, dtype):
    count = 2 if name in PAIRS else 3
    paths = saved([state(seed, dtype) for seed in range(count + 1)])
    given, supply = supplies(name, paths, count)
    states = [load_file(path) for path in paths[:count]]
    expected = METHODS[name].function(states, **supply, **METHODS[name].bind({}))
    found = average(paths[:count], method=name, options=given)
    assert found.keys() == expected.keys()
    for key, leaf in expected.items():
        assert found[key].dtype == leaf.dtype
        assert found[key].shape == leaf.shape
        if leaf.dtype == torch.float64:  # sums may be in another order
            assert torch.allclose(found[key], leaf, rtol=0, atol=4e-15)
        elif name == "uniform" and leaf.dtype == dtype:  # in memory, thirds of members are rounded
            wide = torch.complex128 if leaf.is_complex() else torch.float64
            exact = sum(each[key].to(wide) for each in states) / count
            assert torch.equal(bits(found[key]), bits(exact.to(dtype))), key
        else:
            assert torch.equal(bits(found[key]), bits(leaf)), key


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["uniform", "weighted", "median"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_identical_files_come_back_bit_for_bit(saved, name, dtype, count):
    paths = saved([state(3, dtype)]) * count
    options = {"weights": [0.1 * k + 0.3 for k in range(count)]} if name == "weighted" else {}
    found = average(paths, method=name, options=options)
    for key, leaf in state(3, dtype).items():
        assert torch.equal(bits(found[key]), bits(leaf)), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_mean_is_that_of_float64_rounded_once(saved, dtype):
    states = [state(seed, dtype) for seed in range(8)]
    found = average(saved(states))["long"]
    exact = torch.stack([each["long"].double() for each in states]).mean(0)
    assert torch.equal(found, exact.to(dtype))
    naive = sum(each["long"] for each in states) / 8
    assert not torch.equal(found, naive)


def test_weights_count_by_their_shares_of_the_sum(saved):
    paths = saved([{"w": torch.tensor([0.0, 8.0])}, {"w": torch.tensor([8.0, 0.0])}])
    found = average(paths, method="weighted", options={"weights": [3, 1]})
    assert torch.equal(found["w"], torch.tensor([2.0, 6.0]))


def test_the_order_of_tensors_in_a_file_does_not_matter(saved, tmp_path):
    first, second = state(0), state(1)
    paths = saved([first, second])
    expected = average(paths)
    blob = {"zzz": torch.zeros(5, dtype=torch.float64)}  # shifts all others
    save_file({**first, **blob}, paths[0])
    save_file({**blob, **dict(reversed(second.items()))}, paths[1])
    found = average(paths)
    assert all(torch.equal(found[key], leaf) for key, leaf in expected.items())


@pytest.mark.parametrize("name", ["uniform", "trimmed-mean"])
def test_a_dtype_can_be_asked_for(saved, name):
    if name not in METHODS:
        pytest.skip("not in the catalogue")
    members = [state(0, torch.bfloat16), state(1, torch.float32), state(2, torch.float16)]
    found = average(saved(members), method=name, dtype="float32")
    exact = torch.stack([each["z"].double() for each in members]).mean(0)
    assert torch.equal(found["z"], exact.float())
    assert found["count"].dtype == torch.int64


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_eight_bits_can_be_asked_for(saved, dtype):
    members = [state(seed) for seed in range(2)]
    found = average(saved(members), dtype=str(dtype).removeprefix("torch."))
    mean = (members[0]["z"].double() + members[1]["z"].double()) / 2
    assert torch.equal(bits(found["z"]), bits(mean.to(dtype)))


def test_the_header_tells_what_it_is_of(saved):
    paths = saved([state(0), state(1)])
    average(paths, method="weighted", options={"weights": [1, 2]})
    with safe_open(paths[0].parent / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    told = json.loads(metadata["average"])
    assert metadata["format"] == "pt"
    assert told == {"method": "weighted", "weights": [1, 2], "of": [str(path) for path in paths]}


def sharded(folder, values, cut):
    """Write a folder of Hugging Face in two shards."""
    folder.mkdir()
    keys = list(values)
    shards = {"model-1-of-2.safetensors": keys[:cut], "model-2-of-2.safetensors": keys[cut:]}
    for name, part in shards.items():
        save_file({key: values[key] for key in part}, folder / name)
    names = {key: name for name, part in shards.items() for key in part}
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "toy", "torch_dtype": "float32"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("of this one")
    return folder


def test_sharded_folders_give_a_folder_of_the_same_shards(tmp_path):
    members = [state(0), state(1)]
    paths = [sharded(tmp_path / f"m{k}", members[k], cut=2 + k) for k in range(2)]
    done = average_files(paths, tmp_path / "out", dtype="bfloat16")
    assert [path.name for path in done.paths] == sorted(path.name for path in done.paths)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    first = json.loads((paths[0] / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == first["weight_map"]
    found = {}
    for path in done.paths:
        found |= load_file(path)
    size = sum(leaf.nbytes for leaf in found.values())
    assert index["metadata"]["total_size"] == size
    mean = (members[0]["long"].double() + members[1]["long"].double()) / 2
    assert torch.equal(found["long"], mean.bfloat16())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_type": "toy", "torch_dtype": "bfloat16"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in paths[0].iterdir()} - {"README.md"}


def test_a_folder_and_a_file_may_be_averaged_into_either(saved, tmp_path):
    members = [state(0), state(1)]
    folder = sharded(tmp_path / "folder", members[0], cut=3)
    file = saved(members)[1]
    average_files([folder, file], tmp_path / "one.safetensors")
    average_files([file, folder], tmp_path / "two")
    one, two = (
        load_file(tmp_path / "one.safetensors"),
        load_file(tmp_path / "two/model.safetensors"),
    )
    assert all(torch.equal(one[key], two[key]) for key in ("z", "long"))
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["model.safetensors"]


def test_files_of_torch_save_are_read_safely(saved, tmp_path):
    members = [state(0, torch.bfloat16), state(1, torch.bfloat16)]
    paths = saved(members)
    checkpoint = {"model": members[1], "ema": members[0], "epoch": 3}
    torch.save(checkpoint, tmp_path / "1.pt")
    expected = average(paths)
    found = average([paths[0], tmp_path / "1.pt"], key="model")
    assert all(torch.equal(found[key], leaf) for key, leaf in expected.items())


def test_one_file_and_a_file_twice_are_pointed_out(saved, tmp_path):
    paths = saved([state(0), state(1)])
    one = average_files(paths[:1], tmp_path / "a.safetensors")
    assert one.notes == (f"{paths[0]} is the only member: the result has its weights",)
    (tmp_path / "link.safetensors").symlink_to(paths[0])
    twice = average_files([*paths, tmp_path / "link.safetensors"], tmp_path / "b.safetensors")
    assert "more than once" in twice.notes[0]
    assert not average_files(paths, tmp_path / "c.safetensors").notes


def test_the_command_needs_no_torch_and_little_memory(tmp_path):
    values = {f"{k}": torch.randn(4_000_000) for k in range(4)}  # 64 MB
    for k in range(4):
        save_file(values, tmp_path / f"{k}.safetensors")
    code = (
        "import resource, sys; from cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'sqlalchemy', 'pandas'} & set(sys.modules)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)"
    )
    paths = [str(tmp_path / f"{k}.safetensors") for k in range(4)]
    words = ["average", *paths, "-o", str(tmp_path / "out.safetensors"), "--method", "median"]
    small = [
        sys.executable,
        "-c",
        "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))",
    ]
    ran = subprocess.run(
        [*small, sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    path, memory = ran.stdout.splitlines()
    assert path == words[6]
    assert not ran.stderr
    assert int(memory) < 100
    assert torch.equal(load_file(path)["0"], values["0"])


def test_a_bar_is_drawn_on_a_terminal_alone(saved):
    paths = saved([state(0), state(1)])
    words = [ROOT / "cli.py", "average", *paths, "-o", paths[0].parent / "out", "--force"]
    silent = subprocess.run([sys.executable, *words], capture_output=True, check=True)
    assert not silent.stderr
    ours, theirs = os.openpty()
    subprocess.run([sys.executable, *words], stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)
    assert b"averaging" in os.read(ours, 10_000)
    os.close(ours)
