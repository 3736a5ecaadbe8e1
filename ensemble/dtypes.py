"""Numbers as safetensors holds them, without PyTorch: every float format to and from NumPy.

float64 and float32 are NumPy's own.  float16 is looked up in all its 65,536 values: NumPy's
conversions take 10 to 100 ns for one that is subnormal.  bfloat16 is the upper half of a float32.
The 8-bit floats are looked up: 256 values to read, and to write the 65,536 patterns of a bfloat16
that a float32 was rounded to *odd* into, so that the second rounding, to nearest with ties to even,
gives what one rounding of the float32 would (Boldo & Melquiond 2008, Emulation of a FMA and
correctly rounded sums: proved algorithms using rounding to odd, IEEE Transactions on Computers 57).
"""

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

NAMES = {  # of safetensors -> of PyTorch
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
SMALL = {  # 8-bit floats: bits of the mantissa, bias of the exponent, codes that are no number
    "F8_E4M3": (3, 7, (0x7F, 0xFF)),
    "F8_E5M2": (2, 15, (*range(0x7C, 0x80), *range(0xFC, 0x100))),
    "F8_E4M3FNUZ": (3, 8, (0x80,)),
    "F8_E5M2FNUZ": (2, 16, (0x80,)),
}
NATIVE = {"F64": np.float64, "F32": np.float32}
FLOATS = (*NATIVE, "F16", "BF16", *SMALL)  # what is averaged, beside C64: pairs of float32
LARGEST = {"F64": 1.7976931348623157e308, "F32": 3.4028234663852886e38}
LARGEST |= {"F16": 65504.0, "BF16": 3.3895313892515355e38}


def decode(raw: Array, dtype: str) -> Array:
    """Read bytes as numbers: those of float64 as they are, everything else as float32.

    >>> decode(np.array([0x80, 0x3F], np.uint8), "BF16")
    array([1.], dtype=float32)
    """
    if dtype in NATIVE:
        return raw.view(NATIVE[dtype])
    if dtype == "BF16":
        wide = np.left_shift(raw.view(np.uint16), np.uint32(16), dtype=np.uint32)
        numbers: Array = wide.view(np.float32)
        return numbers
    codes = raw.view(np.uint16) if dtype == "F16" else raw
    found: Array = values(dtype).take(codes, mode="wrap")  # the quickest way; none is out of range
    return found


def encode(numbers: Array, dtype: str) -> Array:
    """Write finite numbers that do not exceed :func:`largest`; each becomes the nearest one.

    As PyTorch does, formats of 16 and 8 bits are written by way of float32.

    >>> encode(np.array([1.0, 1 + 1 / 16]), "F8_E4M3")  # the second one is a tie
    array([56, 56], dtype=uint8)
    """
    if dtype in NATIVE:
        return numbers.astype(NATIVE[dtype])
    bits = numbers.astype(np.float32).view(np.uint32)
    if dtype == "F16":
        return _half(bits)
    if dtype == "BF16":
        bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)
        return (bits >> 16).astype(np.uint16)
    codes: Array = _codes(dtype)[(bits >> 16) | ((bits & 0xFFFF) != 0)]
    return codes


def largest(dtype: str) -> float:
    """Return the largest finite number of a format.

    >>> largest("F16"), largest("F8_E4M3")
    (65504.0, 448.0)
    """
    return LARGEST[dtype] if dtype in LARGEST else float(_finite(dtype)[-1])


def _half(bits: Array) -> Array:
    """Round float32 to float16."""
    sign = ((bits >> 16) & 0x8000).astype(np.uint16)
    bits = bits & 0x7FFFFFFF
    normal = (bits + (((bits >> 13) & 1) + np.uint32(0xFFF)) - np.uint32(112 << 23)) >> 13
    # Beside 0.5 a float32 resolves 2^-24, as a subnormal float16 does: the sum is rounded rightly.
    small = (bits.view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(126 << 23)
    return (sign | np.where(bits < (113 << 23), small, normal)).astype(np.uint16)


@lru_cache
def values(dtype: str) -> Array:
    """Return all values of float16 or of an 8-bit float, as float32.

    Infinities of the latter are NaN here.

    >>> values("F8_E5M2")[[0x01, 0x3C, 0x7B, 0x7C]].tolist()
    [1.52587890625e-05, 1.0, 57344.0, nan]
    """
    if dtype == "F16":
        with np.errstate(invalid="ignore"):  # some kinds of NaN
            return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    bits, bias, odd = SMALL[dtype]
    code = np.arange(256)
    exponent, mantissa = (code & 0x7F) >> bits, (code & ((1 << bits) - 1)) / (1 << bits)
    size = np.where(exponent, mantissa + 1, mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias)
    table: Array = np.where(code & 0x80, -size, size).astype(np.float32)
    table[list(odd)] = np.nan
    return table


def _finite(dtype: str) -> Array:
    """Return the values that are not negative, from zero upwards."""
    table = values(dtype)[:0x80]
    return table[np.isfinite(table)].astype(np.float64)


@lru_cache
def _codes(dtype: str) -> Array:
    """Return, for every pattern of a bfloat16, the code of the nearest 8-bit float."""
    patterns = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    with np.errstate(invalid="ignore"):
        numbers = decode(patterns, "BF16").astype(np.float64)
    finite = _finite(dtype)
    middles = (finite[1:] + finite[:-1]) / 2
    size = np.nan_to_num(np.abs(numbers))
    code = np.searchsorted(middles, size)
    tie = (code < len(middles)) & (size == middles[np.minimum(code, len(middles) - 1)])
    code += tie & (code % 2 == 1)
    minus = np.signbit(numbers) & ((code > 0) | (0x80 not in SMALL[dtype][2]))
    return np.where(minus, code | 0x80, code).astype(np.uint8)
