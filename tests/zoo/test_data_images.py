"""Images: every source gives the same, and every bad input its one line."""

import gzip
import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pixels import KINDS, digits, idx, write

from zoo.data import apply, load, pictures, read_rows
from zoo.data.sources import layout
from zoo.errors import DataError
from zoo.sections import DataConfig

PIXELS, LABELS = digits()
FEW, FEW_LABELS = digits(60)
COLOURS = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), np.uint8)


def refusal(**options):
    """Return the one line that says why the images cannot be used."""
    with pytest.raises(DataError) as caught:
        load(DataConfig(**options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def parts(data):
    return data.train, data.val, data.test


# Good sources


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_images_split_and_values_of_the_built_in_set(kind, tmp_path):
    data = load(DataConfig(**write(tmp_path, kind, PIXELS, LABELS)))
    built_in = load(DataConfig(ref="digits"))
    assert (data.shape, data.classes) == (built_in.shape, built_in.classes)
    for ours, theirs in zip(parts(data), parts(built_in), strict=True):
        assert ours.x.dtype == torch.uint8
        assert ours.x.stride() == (64, 64, 8, 1)
        prepared = data.prepare(ours.x)
        assert prepared.dtype == torch.float32
        if kind != "folder":  # whose order is another
            assert torch.equal(ours.y, theirs.y)
            torch.testing.assert_close(prepared, theirs.x, rtol=1e-5, atol=1e-6)
    everything = torch.cat([part.x for part in parts(data)]).flatten(1)
    raw = torch.from_numpy(PIXELS).flatten(1)
    assert torch.equal(everything.sort(0).values, raw.sort(0).values)
    assert json.loads(json.dumps(data.preprocessing)) == data.preprocessing


def test_the_fingerprint_is_of_the_content_not_of_the_file(tmp_path):
    same = [load(DataConfig(**write(tmp_path, k, FEW, FEW_LABELS))) for k in ("npz", "idx.gz")]
    assert len({data.fingerprint for data in same}) == 1
    assert len({data.split_hash for data in same}) == 1
    other = FEW.copy()
    other[3, 2, 1] += 1
    changed = load(DataConfig(**write(tmp_path, "npz", other, FEW_LABELS)))
    swapped = load(DataConfig(**write(tmp_path, "npy", FEW, FEW_LABELS[::-1])))
    assert len({same[0].fingerprint, changed.fingerprint, swapped.fingerprint}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_new_images_are_read_raw_and_prepared_as_those_trained_on(kind, tmp_path):
    config = DataConfig(**write(tmp_path, kind, FEW, FEW_LABELS))
    data = load(config)
    raw = read_rows(json.loads(json.dumps(data.preprocessing)), Path(config.ref))
    assert (raw.shape, raw.dtype) == ((60, 1, 8, 8), np.uint8)
    if kind != "folder":
        assert np.array_equal(raw[:, 0], FEW)
    held = torch.cat([data.prepare(part.x) for part in parts(data)])
    assert torch.equal(apply(data.preprocessing, raw).unique(dim=0), held.unique(dim=0))
    in_floats = apply(data.preprocessing, raw.astype(np.float64))
    torch.testing.assert_close(in_floats, apply(data.preprocessing, raw), rtol=1e-5, atol=1e-6)


def test_new_images_need_no_labels(tmp_path):
    fitted = load(DataConfig(**write(tmp_path, "paths", FEW, FEW_LABELS))).preprocessing
    np.savez(tmp_path / "new.npz", images=FEW[:5])
    np.save(tmp_path / "new.npy", FEW[0:1])
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.fromarray(FEW[0]).save(flat / "b.png")
    Image.fromarray(FEW[1]).save(flat / "a.png")
    (tmp_path / "new.csv").write_text("file\nflat/b.png\nflat/a.png\n")
    assert np.array_equal(read_rows(fitted, tmp_path / "new.npz")[:, 0], FEW[:5])
    assert np.array_equal(read_rows(fitted, tmp_path / "new.npy")[:, 0], FEW[:1])
    assert np.array_equal(read_rows(fitted, flat)[:, 0], FEW[[1, 0]])
    assert np.array_equal(read_rows(fitted, tmp_path / "new.csv")[:, 0], FEW[:2])
    other = load(DataConfig(**write(tmp_path, "npz", FEW, FEW_LABELS))).preprocessing
    assert np.array_equal(read_rows(other, tmp_path / "new.csv")[:, 0], FEW[:2])
    (tmp_path / "new.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="one column of their paths, however no column holds paths"):
        read_rows(other, tmp_path / "new.csv")
    (tmp_path / "new.csv").write_text("fil\nflat/b.png\n")
    with pytest.raises(DataError, match=r"'file' is missing; did you mean 'fil'\?"):
        read_rows(fitted, tmp_path / "new.csv")
    Image.fromarray(FEW[1][:4]).save(flat / "low.png")
    with pytest.raises(DataError, match=r"low\.png is 8 x 4; resize them to 8 x 8, as those that"):
        read_rows(other, flat)
    table = load(DataConfig(ref="iris")).preprocessing
    with pytest.raises(DataError, match=r"new\.npz: must be a table, as was learnt from, however"):
        read_rows(table, tmp_path / "new.npz")


def test_a_column_of_paths_that_is_not_named_is_pointed_out(tmp_path):
    config = write(tmp_path, "paths", FEW, FEW_LABELS)
    assert 'data.image = "file" learns from the images' in refusal(**config | {"image": None})
    assert "data.image must be a column of" in refusal(**config | {"image": "fil"})


def test_mnist_is_held_as_bytes_and_prepared_as_it_was_in_double_precision():
    data = load(DataConfig(ref="mnist5k"))
    train = data.train.x.double() / 255
    expected = (train - train.mean()) / train.std(correction=0)
    torch.testing.assert_close(data.prepare(data.train.x).double(), expected, rtol=1e-5, atol=1e-6)
    assert data.train.x.dtype == torch.uint8


def test_channels_come_first_and_a_note_says_where_they_were_last(tmp_path):
    np.savez(tmp_path / "last.npz", x=COLOURS, y=FEW_LABELS)
    np.savez(tmp_path / "first.npz", x=COLOURS.transpose(0, 3, 1, 2), y=FEW_LABELS[:, None])
    last, first = (load(DataConfig(ref=str(tmp_path / f"{n}.npz"))) for n in ("last", "first"))
    assert last.shape == (3, 6, 5)
    assert torch.equal(last.train.x, first.train.x)
    assert any("channels first" in note for note in last.notes)
    assert not any("channels first" in note for note in first.notes)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (FEW > 7, torch.uint8),
        (FEW.astype(np.int64), torch.uint8),
        (FEW.astype(">u2"), torch.uint8),
        (FEW.astype(np.int16) - 8, torch.float32),
        (FEW.astype(np.uint16) * 1000, torch.float32),
        (FEW.astype(">f4") / 16, torch.float32),
        (FEW.astype(np.float16), torch.float32),
        (np.asfortranarray(FEW), torch.uint8),
    ],
)
def test_whole_numbers_up_to_255_are_bytes_and_all_others_floats(values, dtype, tmp_path):
    data = load(DataConfig(**write(tmp_path, "npz", values, FEW_LABELS)))
    assert data.train.x.dtype == dtype
    prepared = data.prepare(data.train.x)
    assert prepared.mean().item() == pytest.approx(0, abs=1e-5)
    assert prepared.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_whole_labels_are_classes_and_others_may_be_names_or_quantities(tmp_path):
    def loaded(labels, **options):
        return load(DataConfig(**write(tmp_path, "npz", FEW, labels), **options))

    many = np.arange(60) // 3 * 1000
    assert len(loaded(many).classes) == 20
    assert loaded(many, task="regression").task == "regression"
    assert loaded(np.where(FEW_LABELS < 5, "low", "high")).classes == ("high", "low")
    assert loaded(np.where(FEW_LABELS < 5, b"low", b"high")).classes == ("high", "low")
    assert loaded(FEW_LABELS + FEW.mean((1, 2))).task == "regression"
    some = np.where(np.arange(60) < 6, np.nan, FEW_LABELS % 2)
    data = loaded(some, task="classification")
    assert sum(map(len, parts(data))) == 54
    assert "6 images without a label were left out" in data.notes


def test_copies_of_an_image_stay_on_one_side(tmp_path):
    twice = np.concatenate([FEW, FEW])
    labels = np.concatenate([FEW_LABELS, FEW_LABELS])
    data = load(DataConfig(**write(tmp_path, "npz", twice, labels)))
    seen = [{bytes(image.numpy()) for image in part.x} for part in parts(data)]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert any("60 rows repeat another row" in note for note in data.notes)


def test_pictures_of_any_size_are_resized_where_that_is_asked_for(tmp_path):
    for number in range(30):
        place = tmp_path / "p" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        sides = (20 + number, 30)
        image = Image.effect_noise(sides, 50).convert("RGB")
        image.save(place / f"{number}.{'jpg' if number % 3 else 'png'}")
    assert "of one size" in refusal(ref=str(tmp_path / "p"))
    data = load(DataConfig(ref=str(tmp_path / "p"), size=(12, 10)))
    assert data.shape == (3, 12, 10)
    assert data.preprocessing["size"] == [12, 10]
    raw = read_rows(data.preprocessing, tmp_path / "p" / "a")
    assert raw.shape == (15, 3, 12, 10)
    first = Image.open(tmp_path / "p" / "a" / "0.png").resize((10, 12), Image.Resampling.BILINEAR)
    assert np.array_equal(raw[0].transpose(1, 2, 0), np.asarray(first))


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("RGBA", 4)]
)
def test_pictures_of_every_usual_mode_become_bytes(mode, channels, tmp_path):
    for number in range(24):
        place = tmp_path / "p" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((6, 5), 99).convert(mode).save(place / f"{number}.png")
    data = load(DataConfig(ref=str(tmp_path / "p")))
    assert (data.shape, data.train.x.dtype) == ((channels, 5, 6), torch.uint8)


def test_hidden_files_and_files_outside_the_class_folders_are_left_out(tmp_path):
    config = DataConfig(**write(tmp_path, "folder", FEW, FEW_LABELS))
    plain = load(config)
    (tmp_path / "classes" / "0" / ".DS_Store").write_text("x")
    (tmp_path / "classes" / "README.md").write_text("x")
    data = load(config)
    assert data.fingerprint == plain.fingerprint
    assert "1 files outside the class folders were left out" in data.notes


# Bad input


def test_bad_arrays_are_refused(tmp_path):
    def npz(**found):
        np.savez(tmp_path / "bad.npz", **found)
        return refusal(ref=str(tmp_path / "bad.npz"))

    y = FEW_LABELS
    assert "called 'a', 'b'; rename them" in npz(a=FEW, b=y)
    assert "called nothing" in npz()
    assert "'x' is alone" in npz(x=FEW)
    assert "'x_test' is alone" in npz(x_train=FEW, y_train=y, x_test=FEW)
    assert "could both be that" in npz(x=FEW, images=FEW, y=y)
    assert "60 images and 59 labels" in npz(x=FEW, y=y[1:])
    assert "however their shape is (60, 2)" in npz(x=FEW, y=np.stack([y, y], 1))
    assert "for safety" in npz(x=FEW.astype(object), y=y)
    assert "for safety" in npz(x=FEW, y=y.astype(object))
    assert "for safety" in npz(x=FEW.astype(complex), y=y)
    assert "pixels must be numbers" in npz(x=FEW.astype(str), y=y)
    assert "cannot be told" in npz(x=FEW.reshape(60, -1), y=y)
    assert "cannot be told" in npz(x=np.zeros((60, 3, 9, 3)), y=y)
    assert "cannot be told" in npz(x=np.zeros((60, 5, 9, 7)), y=y)
    assert "must hold images" in npz(x=FEW[:, :0], y=y)
    assert "must hold images" in npz(x=FEW[:0], y=y[:0])
    assert "some of image 7" in npz(x=np.where(np.arange(60)[:, None, None] == 7, np.nan, FEW), y=y)
    assert "some of image 0" in npz(x=np.full((60, 8, 8), np.inf), y=y)
    same = np.full((60, 8, 8), 3, np.uint8)
    assert "distinct rows" in npz(x=same, y=y)
    np.savez(tmp_path / "same.npz", x=same, y=np.arange(60))
    found = refusal(ref=str(tmp_path / "same.npz"), task="regression")
    assert "every training pixel is 3" in found
    assert "two classes" in npz(x=FEW, y=y * 0)
    assert "must have one shape" in npz(x_train=FEW, y_train=y, x_test=FEW[:, 1:], y_test=y)
    assert "must be UTF-8 text" in npz(x=FEW, y=np.full(60, b"\xff"))
    assert "data.target is for tables" in refusal(ref=str(tmp_path / "bad.npz"), target="y")
    assert "data.size is for files" in refusal(ref=str(tmp_path / "bad.npz"), size=(8, 8))
    assert "data.size is for files" in refusal(ref="digits", size=(8, 8))
    assert "data.image is for files" in refusal(ref="iris", image="path")


def test_no_more_is_unpacked_than_was_declared_and_no_bomb_at_all(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("x", (100_000, 32, 32)), ("y", (100_000,))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                head = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, head)
                file.write(bytes(int(np.prod(shape))))
    assert "may unpack to 100 times its size" in refusal(ref=str(path))
    packed = tmp_path / "b-images-idx3-ubyte.gz"
    shape = np.array([2**20, 28, 28], ">u4").tobytes()
    packed.write_bytes(gzip.compress(b"\0\0\x08\x03" + shape + bytes(1000)))
    labels = tmp_path / "b-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(60, np.uint8)))
    assert "may unpack to 100 times its size" in refusal(ref=str(packed))


def test_a_damaged_npy_is_refused(tmp_path):
    config = write(tmp_path, "npy", FEW, FEW_LABELS)
    path = Path(config["ref"])
    content = path.read_bytes()
    for bad, says in [
        (b"", "is not an .npy file"),
        (content[:-1], "holds fewer"),
        (content + b"\0", "holds more"),
        (content.replace(b"(60, 8, 8)", b"(60,-8,-8)"), "declares the shape"),
        (content.replace(b"(60, 8, 8)", b"(9**9**9,)"), "is not an .npy file"),
        (content.replace(b"'|u1'", b"'|O '"), "for safety|is not an"),
        (b"PK\3\4" + content, "is not an .npy file"),
    ]:
        path.write_bytes(bad)
        assert any(word in refusal(**config) for word in says.split("|")), says
    path.write_bytes(content)
    assert "data.target must name the file of labels" in refusal(ref=config["ref"])
    assert "No such file" in refusal(ref=config["ref"], target=str(tmp_path / "none.npy"))
    assert "No such file" in refusal(ref=str(tmp_path / "none.npy"), target=config["target"])
    assert "No such file" in refusal(ref="none.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "must be a regular file" in refusal(ref=str(tmp_path / "folder.npz"))


def test_a_damaged_idx_is_refused(tmp_path):
    config = write(tmp_path, "idx", FEW, FEW_LABELS)
    path, good = Path(config["ref"]), idx(FEW)
    for bad, says in [
        (b"", "begins with []"),
        (good[:3], "begins with [0, 0, 8]"),
        (b"\1" + good[1:], "begins with [1, 0, 8, 3]"),
        (b"\0\0\x07" + good[3:], "begins with [0, 0, 7, 3]"),
        (good[:10], "ends within its header"),
        (good[:-1], "holds fewer"),
        (good + b"\0", "holds more"),
        (idx(FEW_LABELS.astype(np.uint8)), "cannot be told"),
    ]:
        path.write_bytes(bad)
        assert says in refusal(**config), says
    path.write_bytes(good)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(FEW_LABELS[1:].astype(np.uint8)))
    assert "60 images and 59 labels" in refusal(**config)
    labels.unlink()
    assert "there is no train-labels-idx1-ubyte beside" in refusal(**config)
    packed = tmp_path / "p-images-idx3-ubyte.gz"
    for bad in (gzip.compress(good)[:-20], b"\x1f\x8b" + bytes(30), b"plain"):
        packed.write_bytes(bad)
        assert str(packed) in refusal(ref=str(packed), target=str(path))


def test_bad_folders_are_refused(tmp_path):
    config = write(tmp_path, "folder", FEW, FEW_LABELS)
    root = Path(config["ref"])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "however it holds none" in refusal(ref=str(empty))
    (empty / "cat").mkdir()
    assert "however it holds one, 'cat'" in refusal(ref=str(empty))
    (empty / "dog").mkdir()
    assert "cat: a class folder holds images, however it is empty" in refusal(ref=str(empty))
    assert "holds the folder '0'" in refusal(ref=str(in_parts(tmp_path)))

    (root / "0" / "notes.txt").write_text("no image")
    (root / "1" / "cut.png").write_bytes((root / "1" / "00001.png").read_bytes()[:40])
    found = refusal(**config)
    assert "2 of 62 cannot be read" in found
    assert "notes.txt (it is none of PNG, JPEG" in found
    assert "cut.png (" in found
    (root / "0" / "notes.txt").unlink()
    (root / "1" / "cut.png").unlink()

    Image.new("L", (9, 8)).save(root / "2" / "wide.png")
    found = refusal(**config)
    assert "60 of 61 are 8 x 8 and" in found
    assert "wide.png is 9 x 8; resize them, or ask for data.size" in found
    Image.new("RGB", (8, 8)).save(root / "2" / "wide.png")
    assert "wide.png is RGB; convert them to one" in refusal(**config)
    (root / "2" / "wide.png").unlink()
    os.mkfifo(root / "2" / "pipe.png")
    assert "pipe.png (it is no file)" in refusal(**config)


def in_parts(tmp_path):
    """A folder whose folders are parts, not classes."""
    parent = tmp_path / "parts"
    for part in ("test", "train"):
        (parent / part / "0").mkdir(parents=True)
    return parent


def test_pictures_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    config = write(tmp_path, "folder", FEW, FEW_LABELS)
    monkeypatch.setattr(pictures, "available", lambda device: 100)
    assert "60 images of 8 x 8 take 0.0 GB, however 0.0 GB of memory are free" in refusal(**config)
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "MOST_PIXELS", 63)
    assert "larger than 63 pixels" in refusal(**config)


def test_pictures_of_16_bits_are_refused(tmp_path):
    for number in range(24):
        place = tmp_path / "p" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number * 999, np.uint16)).save(place / f"{number}.png")
    assert "Pillow's mode I;16" in refusal(ref=str(tmp_path / "p"))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("", "row 2 names none"),
        ("none.png", "row 2 names 'none.png', which is none"),
        ("../secret.png", "must stay within"),
        ("pictures/../../secret.png", "must stay within"),
        ("..\\secret.png", "must stay within"),
        ("C:\\secret.png", "must stay within"),
        ("/etc/passwd", "must stay within"),
        ("link.png", "must stay within"),
        ("pictures", "which is none"),
        ("x" * 3000, "which is none"),
    ],
)
def test_a_table_leads_to_files_in_its_own_folder_alone(cell, says, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    config = write(inner, "paths", FEW, FEW_LABELS)
    Image.fromarray(FEW[0]).save(tmp_path / "secret.png")
    (inner / "link.png").symlink_to(tmp_path / "secret.png")
    table = Path(config["ref"])
    lines = table.read_text().splitlines()
    lines[2] = f"{cell},{FEW_LABELS[1]}"
    table.write_text("\n".join(lines))
    assert says in refusal(**config)


def test_rows_of_a_table_without_a_label_are_left_out(tmp_path):
    config = write(tmp_path, "paths", FEW, FEW_LABELS)
    table = Path(config["ref"])
    lines = table.read_text().splitlines()
    lines[5] = lines[5].partition(",")[0] + ","
    table.write_text("\n".join(lines))
    data = load(DataConfig(**config))
    assert data.classes == tuple("0123456789")
    assert "1 images without a label were left out" in data.notes
    price = [f"{line},{number * 0.37}" for number, line in enumerate(lines)]
    price[0], price[7] = f"{lines[0]},price", f"{lines[7]},"
    table.write_text("\n".join(price))
    data = load(DataConfig(**config | {"target": "price"}))
    assert (data.task, sum(map(len, parts(data)))) == ("regression", 59)


def test_a_table_of_paths_needs_both_of_its_columns(tmp_path):
    config = write(tmp_path, "paths", FEW, FEW_LABELS)
    assert "data.target must name the column" in refusal(**config | {"target": None})
    assert "did you mean 'digit'?" in refusal(**config | {"target": "digits"})
    assert "did you mean 'file'?" in refusal(**config | {"image": "files"})


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6
).flatmap(lambda edits: st.tuples(st.just(edits), st.integers(-30, 30)))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["npz", "npy", "idx", "idx.gz", "paths"]), change=MUTATIONS)
def test_a_mutated_file_gives_data_or_a_refusal_and_nothing_else(kind, change):
    edits, tail = change
    with tempfile.TemporaryDirectory() as folder:
        config = write(Path(folder), kind, FEW, FEW_LABELS)
        path = Path(config["ref"])
        if kind == "npz":
            np.savez(path, x=FEW, y=FEW_LABELS)  # not packed, so that headers are hit
        content = bytearray(path.read_bytes())
        for place, value in edits:
            content[place % len(content)] = value
        if kind == "npz" and edits[0][0] % 2:  # the directory at the end, too
            content[-(edits[0][0] % 200) - 1] = edits[0][1]
        path.write_bytes(bytes(content) + bytes(tail) if tail >= 0 else bytes(content[:tail]))
        try:
            data = load(DataConfig(**config))
        except DataError as error:
            data, message = None, str(error)
    if data is None:
        assert "\n" not in message
        return
    for part in parts(data):
        assert len(part)
        assert data.prepare(part.x).isfinite().all()


def test_axes_that_cannot_be_told_are_named():
    with pytest.raises(DataError, match=r"x.npy: images must be .* these are \(2, 1, 5, 3\)"):
        layout(np.zeros((2, 1, 5, 3)), Path("x.npy"))
