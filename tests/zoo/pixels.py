"""Real images in every form that they are read from."""

import gzip
import struct

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

IDX = {"u1": 8, "i4": 12, "f4": 13}


def digits(rows=None):
    """The first of scikit-learn's digits, uint8 (N, 8, 8), and their labels (N,)."""
    bunch = load_digits()
    return bunch.images[:rows].astype(np.uint8), bunch.target[:rows]


def idx(array):
    """The bytes of an IDX file."""
    code = IDX[array.dtype.str[1:]]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(folder, kind, pixels, labels):
    """Write images as a kind of source; return its settings."""
    if kind == "npz":
        np.savez_compressed(folder / "all.npz", x=pixels, y=labels)
        return {"ref": str(folder / "all.npz")}
    if kind == "npz in parts":
        cut = len(pixels) // 3
        np.savez(
            folder / "parts.npz",
            x_train=pixels[:-cut],
            y_train=labels[:-cut],
            x_test=pixels[-cut:],
            y_test=labels[-cut:],
        )
        return {"ref": str(folder / "parts.npz")}
    if kind == "npy":
        np.save(folder / "x.npy", pixels)
        np.save(folder / "labels.npy", labels)
        return {"ref": str(folder / "x.npy"), "target": str(folder / "labels.npy")}
    if kind == "idx":
        (folder / "train-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
        return {"ref": str(folder / "train-images-idx3-ubyte")}
    if kind == "idx.gz":
        (folder / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        packed = gzip.compress(idx(labels.astype(np.int32)))
        (folder / "t10k-labels.idx1-ubyte.gz").write_bytes(packed)
        return {"ref": str(folder / "t10k-images.idx3-ubyte.gz")}
    if kind == "folder":
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            place = folder / "classes" / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:05}.png")
        return {"ref": str(folder / "classes")}
    assert kind == "paths"
    (folder / "pictures").mkdir(exist_ok=True)
    rows = []
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(image).save(folder / "pictures" / f"{number}.png")
        rows.append(f"pictures/{number}.png,{label}\n")
    (folder / "table.csv").write_text("file,digit\n" + "".join(rows))
    return {"ref": str(folder / "table.csv"), "image": "file", "target": "digit"}


KINDS = ["npz", "npz in parts", "npy", "idx", "idx.gz", "folder", "paths"]
