"""Writes tests/golden/torch_random.bin: random numbers of PyTorch's CPU generator.

    python3 dev/reference/torch_random.py

Needs a PyTorch without MKL (as packaged by Debian): version 2 with MKL draws other numbers in multinomial. normal_ is
written twice, by its plain path and by the path that this CPU would take.
"""
import io
import os
import subprocess
import sys

import numpy as np
import torch

import golden

NORMALS = {"normal_5_4": (5, 4), "normal_16": (16,), "normal_37_15": (37, 15), "normal_4096": (4096,)}


def normals():
    """Tensors of these sizes, drawn one after another."""
    result = {}
    for name, sizes in NORMALS.items():
        torch.manual_seed(123)
        result[name] = torch.cat([torch.empty(n).normal_() for n in sizes])
    return result


if sys.argv[1:] == ["--plain"]:
    np.savez(sys.stdout.buffer, **{name: x.numpy() for name, x in normals().items()})
    sys.exit()

assert not torch.backends.mkl.is_available(), "this PyTorch has MKL: its multinomial draws other numbers"
records = {}
for name, seed in {"": 123, "_wide": 2**40 + 5}.items():
    torch.manual_seed(seed)
    records["uniform" + name] = torch.empty(50).uniform_(-1 / 768**0.5, 1 / 768**0.5)
torch.manual_seed(7)
records["uniform_shifted"] = torch.empty(50).uniform_(0.3, 5)
torch.manual_seed(123)
whole = [torch.empty((), dtype=torch.int64).random_().item() for _ in range(10)]
records["integer"] = np.array([(x >> 32, x & 0xFFFFFFFF) for x in whole], dtype=np.uint32).view(np.int32)
torch.manual_seed(123)
records["permutation"] = torch.cat([torch.randperm(18), torch.randperm(1), torch.randperm(100)]).to(torch.int32)
p = torch.softmax(torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]) / 5, dim=0)
torch.manual_seed(123)
records["p"] = p
records["multinomial"] = torch.tensor([torch.multinomial(p, num_samples=1).item() for _ in range(200)], dtype=torch.int32)

plain = subprocess.run([sys.executable, __file__, "--plain"], env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
                       stdout=subprocess.PIPE, check=True).stdout
for name, x in np.load(io.BytesIO(plain)).items():
    records[name] = x
for name, x in normals().items():
    records[name + "_vector"] = x
golden.write("torch_random.bin", records)
