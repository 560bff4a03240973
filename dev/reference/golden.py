"""Shared by the scripts that write tests/golden: the file format, and numbers that need no random generator.

A golden file is a sequence of records, little-endian, each padded to a multiple of 8 bytes:
    char name[48] (zero-padded)    uint64 type (0: int32, 1: float32, 2: float64)    uint64 count    the values
tests/helpers/golden.h reads it.
"""
import struct
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"
TYPES = {np.dtype("int32"): 0, np.dtype("float32"): 1, np.dtype("float64"): 2}


def write(file, records):
    """records: name -> array (or torch tensor) of int32, float32 or float64."""
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / file, "wb") as out:
        for name, values in records.items():
            values = np.ascontiguousarray(values.detach().numpy() if hasattr(values, "detach") else values)
            assert len(name) < 48, name
            data = values.tobytes()
            out.write(struct.pack("<48sQQ", name.encode(), TYPES[values.dtype], values.size))
            out.write(data + bytes(-len(data) % 8))
    print(f"{file}: {(FOLDER / file).stat().st_size} bytes")


def bits(stream, count):
    """uint64: element i is SplitMix64's output for the counter stream * 2^32 + i; as in tests/helpers/golden.h."""
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + (np.uint64(stream) << np.uint64(32))
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(stream, *shape):
    """float64 in [-1, 1), multiples of 2^-23: exact in float32 as well."""
    values = (bits(stream, int(np.prod(shape))) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
    return values.reshape(shape)


def integers(stream, limit, *shape):
    """int32 in [0, limit)."""
    return (bits(stream, int(np.prod(shape))) % np.uint64(limit)).astype(np.int32).reshape(shape)
