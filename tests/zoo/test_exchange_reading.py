"""Weights of every usual origin are read; whatever bytes are changed, a reader ends in a line."""

import io
import json
import math
import re
import struct
from collections import OrderedDict

import corpus_pickles
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file
from torch import nn

from zoo.errors import UnsafeFileError, UsageError
from zoo.exchange import archive, opening, symbols
from zoo.exchange.reading import read_weights
from zoo.registry import layout
from zoo.registry.weights import decode, encode

QUICK = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@pytest.fixture
def saved(tmp_path):
    """Save a value as a .pt file and return its path."""

    def save_as(value, name="a.pt"):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return save_as


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def test_a_plain_state_dict_is_read_with_its_integers(saved):
    state = network().state_dict()
    weights = read_weights(saved(state))
    same(weights.state, state)
    assert weights.source["format"] == "pt"
    assert weights.source["key"] == ""
    assert len(weights.source["sha256"]) == 64


def test_a_lightning_checkpoint_gives_its_state_dict(saved):
    module = network()
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    checkpoint = {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": OrderedDict((f"model.{k}", v) for k, v in module.state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"EarlyStopping{'monitor': 'val_loss'}": {"best_score": torch.tensor(0.5)}},
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "hidden": [64, 64], "none": None},
    }
    path = saved(checkpoint, "last.ckpt")
    with pytest.raises(UsageError, match=r"sets of weights: state_dict \(9 tensors\), callb"):
        read_weights(path)
    weights = read_weights(path, key="state_dict", strip=["model."])
    same(weights.state, module.state_dict())
    assert weights.source["stripped"] == ["model."]


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "ema"])
def test_the_only_set_of_weights_is_found_in_any_wrapper(saved, wrapper):
    module = network()
    optimiser = torch.optim.SGD(module.parameters(), momentum=0.9)
    path = saved({wrapper: module.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 3})
    weights = read_weights(path)
    same(weights.state, module.state_dict())
    assert weights.source["key"] == wrapper


def test_several_sets_are_listed_and_one_is_chosen(saved):
    one, other = network().state_dict(), network().state_dict()
    path = saved({"model": one, "nested": {"ema": other}, "args": {"lr": 0.1}})
    with pytest.raises(UsageError, match=r"model \(9 tensors\), nested\.ema \(9 tensors\); choose"):
        read_weights(path)
    same(read_weights(path, key="nested.ema").state, other)
    with pytest.raises(UsageError, match="no weights at 'teacher'; there are model"):
        read_weights(path, key="teacher")


def test_prefixes_are_pointed_out_and_stripped_on_request(saved):
    state = network().state_dict()
    path = saved({f"_orig_mod.module.{key}": value for key, value in state.items()})
    assert read_weights(path).notes == (
        "all names begin with '_orig_mod.'; --strip-prefix _orig_mod. takes it off",
    )
    same(read_weights(path, strip=["_orig_mod.", "module."]).state, state)
    with pytest.raises(UsageError, match="none begins with 'net\\.'"):
        read_weights(path, strip=["net."])


def test_stripping_may_not_make_two_names_one(saved):
    path = saved({"module.w": torch.ones(1), "w": torch.zeros(1)})
    with pytest.raises(UsageError, match="'w' is there twice"):
        read_weights(path, strip=["module."])


def test_every_type_and_layout_that_safetensors_can_hold_is_read(saved):
    torch.manual_seed(0)
    whole = torch.randn(64)
    state = {name: torch.ones(3).to(getattr(torch, name)) for name in symbols.TYPES}
    state |= {
        "transposed": torch.randn(3, 4).T,
        "slice": whole[8:16],
        "strided": whole[::2],
        "expanded": torch.ones(1, 4),
        "scalar": torch.tensor(1.5),
        "none": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
        "tied": whole,
        "tied too": whole,
    }
    found = read_weights(saved(state)).state
    same(found, {name: value.detach() for name, value in state.items()})
    same(decode(encode(found, {}, "run", finite=False)), found)


def test_what_torch_saves_and_safetensors_cannot_hold_is_refused(saved):
    for value in (torch.zeros(2, dtype=torch.complex128), torch.eye(2).to_sparse()):
        with pytest.raises(UnsafeFileError, match="only tensors in dictionaries of plain values"):
            read_weights(saved({"w": value}))


def test_a_header_may_have_any_length(tmp_path):
    for length in range(256):  # one begins as a pickle does, another as an archive
        text = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
        text = text.ljust(256 + length)
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\7")
        assert read_weights(path).state["w"].item() == 7


def test_a_folder_of_shards_is_read_by_its_index(tmp_path):
    state = {f"layer.{k}": torch.full((2,), float(k)) for k in range(4)}
    names = {}
    for shard in range(2):
        part = {key: value for key, value in state.items() if int(key[-1]) % 2 == shard}
        file = f"model-{shard + 1:05d}-of-00002.safetensors"
        save_file(part, tmp_path / file, metadata={"format": "pt"})
        names |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 32}, "weight_map": names}
    (tmp_path / opening.INDEX).write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    weights = read_weights(tmp_path)
    same(weights.state, state)
    assert weights.source["format"] == "huggingface"
    assert weights.source["config"] == {"model_type": "toy"}
    assert len(weights.source["files"]) == 2


def test_a_folder_of_two_files_without_an_index_is_not_guessed_at(tmp_path):
    for name in ("a", "b"):
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UsageError, match="however it has 2; name a file"):
        read_weights(tmp_path)


def test_a_file_that_is_too_large_is_not_read(saved, monkeypatch):
    path = saved({"w": torch.ones(100)})
    monkeypatch.setattr(opening, "MOST_BYTES", 1000)
    with pytest.raises(UnsafeFileError, match="may have 1000 bytes, however it has"):
        read_weights(path)


@pytest.mark.parametrize("name", ["no.pt", "no\0.pt", "n" * 300])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be read"):
        read_weights(tmp_path / name)


def test_an_archive_of_more_records_than_16_bits_count_is_read():
    content = corpus_pickles.archive(b"", {f"data/{k}": b"four" for k in range(66_000)})
    found = archive.records(io.BytesIO(content), len(content), "a.pt")
    assert found["data/65999"] == 4


def test_a_header_that_cannot_be_read_back_is_not_written():
    with pytest.raises(UnsafeFileError, match="at most 16777216 bytes, however it has"):
        encode({"w": torch.ones(1)}, {"vocabulary": "x" * layout.MOST_HEADER}, "run a")


def plain_file():
    return save({"a.weight": torch.ones(2, 3), "b": torch.arange(4)}, metadata={"zoo": "{}"})


def archive_file():
    content = io.BytesIO()
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, content)
    return content.getvalue()


@st.composite
def mutations(draw, original):
    """Change, remove, repeat or cut some bytes."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "number", "remove", "repeat", "cut"])):
            case "change":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                value = draw(st.sampled_from([0, 1, 2**15, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
                data[place : place + 8] = struct.pack("<Q", value)
            case "remove":
                del data[place : place + draw(st.integers(1, 64))]
            case "repeat":
                data[place:place] = data[place : place + draw(st.integers(1, 64))]
            case "cut":
                del data[place:]
    return bytes(data)


def reads_or_refuses(path, data):
    path.write_bytes(data)
    try:
        state = read_weights(path).state
    except (UnsafeFileError, UsageError) as error:
        refusal = str(error)
    else:
        assert sum(value.nbytes for value in state.values()) <= 4 * len(data)
        return
    assert not re.search(r"weights_only|\n", refusal)


@QUICK
@given(data=mutations(plain_file()))
def test_a_changed_safetensors_file_is_read_or_refused(tmp_path, data):
    reads_or_refuses(tmp_path / "a.safetensors", data)


@QUICK
@given(data=mutations(archive_file()))
def test_a_changed_archive_is_read_or_refused(tmp_path, data):
    reads_or_refuses(tmp_path / "a.pt", data)


@QUICK
@given(data=st.data())
def test_a_changed_pickle_in_a_sound_archive_is_read_or_refused(tmp_path, data):
    original = io.BytesIO(archive_file())
    size = len(original.getvalue())
    pickle = archive.read(original, "data.pkl", "a.pt")
    changed = data.draw(mutations(pickle))[: len(pickle)].ljust(len(pickle), b".")
    whole = original.getvalue().replace(pickle, changed)
    assert len(whole) == size
    reads_or_refuses(tmp_path / "a.pt", whole)


@QUICK
@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        st.lists(st.integers(0, 4), max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_every_header_that_safetensors_writes_is_sound(shapes):
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    data = save(state)
    assert set(layout.read(data, "a").tensors) == state.keys()
    assert {name: math.prod(shape) for name, shape in shapes.items()} == {
        name: value.numel() for name, value in load(data).items()
    }
