"""Writes tests/golden/gpt2_variants.bin: GPT-2's variants in plain PyTorch, float64, at four odd shapes: an untied head,
no bias of queries, keys and values, rows of several documents, classifiers, adapters, dropout by given masks. For each:
logits, loss, all gradients of a micro-batch, and ten steps of AdamW.

    python3 dev/reference/gpt2_variants.py

The masks are those of kernels/philox.h, made here anew. The weights are not in the file, as in gpt2.py.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

import golden
from gpt2 import tensor_records

STEPS, SEED = 10, 11
BLOCK = ("qkv", "attproj", "fc", "fcproj")
TARGETS = ("q", "k", "v", "attproj", "fc", "fcproj", "head")
VARIANTS = [  # context, V, L, NH, C, B, T; then what differs from GPT-2
    dict(shape=(11, 29, 2, 3, 15, 2, 9), tied=False, qkv_bias=False, documents=[4, 2], dropout=0.2),
    dict(shape=(8, 23, 3, 2, 14, 3, 7), classes=3, causal=False, dropout=0.1),
    dict(shape=(13, 31, 2, 3, 21, 1, 13), tied=False, rank=2, alpha=3.0, lora_dropout=0.3, dropout=0.2),
    dict(shape=(6, 17, 1, 5, 35, 2, 5), tied=True, documents=[1, 3], dropout=0.3),
]


def philox_uniform(seed, sequence, count):
    """Philox4x32-10 (Salmon et al. 2011): elements 0 to count - 1 in [0, 1), multiples of 2^-24."""
    index = np.arange((count + 3) // 4, dtype=np.uint64)
    low = lambda x: x & np.uint64(0xFFFFFFFF)
    c = [low(index), index >> np.uint64(32), np.full_like(index, sequence & 0xFFFFFFFF), np.full_like(index, sequence >> 32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), low(p1), (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), low(p0)]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return (np.stack(c, 1).ravel()[:count] >> np.uint64(8)).astype(np.float64) * 2.0**-24


class Model:
    def __init__(self, variant, scale):
        self.v = v = dict(tied=True, qkv_bias=True, documents=None, classes=0, causal=True, rank=0, alpha=1.0, lora_dropout=0.0) | variant
        context, V, L, self.NH, C, self.B, self.T = v["shape"]
        self.L, self.C, self.outputs = L, C, v["classes"] or V
        shapes = {"wte": (V, C), "wpe": (context, C)}
        sizes = dict(qkv=(3 * C, C), attproj=(C, C), fc=(4 * C, C), fcproj=(C, 4 * C))
        for l in range(L):
            for norm, products in (("ln1", ("qkv", "attproj")), ("ln2", ("fc", "fcproj"))):
                shapes |= {f"block.{l}.{norm}w": (C,), f"block.{l}.{norm}b": (C,)}
                for name in products:
                    shapes[f"block.{l}.{name}w"] = sizes[name]
                    if name != "qkv" or v["qkv_bias"]:
                        shapes[f"block.{l}.{name}b"] = sizes[name][:1]
        shapes |= {"lnfw": (C,), "lnfb": (C,)}
        if v["classes"] or not v["tied"]:
            shapes["head"] = (self.outputs, C)
        if v["classes"]:
            shapes["headb"] = (self.outputs,)
        if rank := v["rank"]:
            for l in range(L):
                for name in TARGETS[:-1]:
                    out, inp = (C, C) if name in "qkv" else sizes[name]
                    shapes |= {f"block.{l}.{name}w.lora_a": (rank, inp), f"block.{l}.{name}w.lora_b": (out, rank)}
            shapes |= {"head.lora_a": (rank, C), "head.lora_b": (self.outputs, rank)}
        self.p = {}
        for k, (name, shape) in enumerate(shapes.items()):
            values = golden.uniform(k, *shape) * scale + (1 if name.endswith(("ln1w", "ln2w", "lnfw")) else 0)
            trained = not rank or "lora" in name
            self.p[name] = torch.tensor(values.astype(np.float32).astype(np.float64), requires_grad=trained)

    def mask(self, rate, site, shape):
        """Factors 0 or 1 / (1 - rate), of a site of this pass."""
        if not self.training or rate == 0:
            return torch.ones(shape, dtype=torch.float64)
        rate = float(np.float32(rate))
        uniform = philox_uniform(SEED, ((self.step + 1) << 16) + site, int(np.prod(shape))).reshape(shape)
        return torch.tensor(np.where(uniform < rate, 0, 1 / (1 - rate)))

    def linear(self, x, name, bias, layer):
        """With its adapters; name: of the parameter without "w"."""
        weight = self.p["head" if name == "head" and "head" in self.p else "wte" if name == "head" else name + "w"]
        y = F.linear(x, weight, self.p.get(bias))
        if self.v["rank"]:
            kind = name.split(".")[-1]
            parts = []
            for part in ("q", "k", "v") if kind == "qkv" else (kind,):
                key = name if kind == "head" else name[: -len(kind)] + part + "w"
                site = (1 << 14) + layer * 8 + TARGETS.index(part)
                dropped = x * self.mask(self.v["lora_dropout"], site, x.shape)
                parts.append(dropped @ self.p[key + ".lora_a"].T @ self.p[key + ".lora_b"].T)
            y = y + self.v["alpha"] / self.v["rank"] * torch.cat(parts, -1)
        return y

    def forward(self, inputs, pooling, step, training):
        self.step, self.training = step, training
        p, B, T, C, NH, rate = self.p, self.B, self.T, self.C, self.NH, self.v["dropout"]
        first = torch.zeros(B, T, dtype=torch.long)
        for b, t in enumerate(self.v["documents"] or []):  # row b has a second document from t on
            first[b, t:] = t
        positions = torch.arange(T) - first
        x = F.embedding(inputs, p["wte"]) + p["wpe"][positions]
        x = x * self.mask(rate, 0, x.shape)
        t, u = torch.arange(T)[:, None], torch.arange(T)[None, :]
        hidden = (u > t)[None] | (u[None] < first[:, :, None]) if self.v["causal"] else torch.zeros(B, T, T, dtype=torch.bool)
        for l in range(self.L):
            at = f"block.{l}."
            h = F.layer_norm(x, (C,), p[at + "ln1w"], p[at + "ln1b"])
            qkv = self.linear(h, at + "qkv", at + "qkvb", l)
            q, k, v = (y.view(B, T, NH, C // NH).transpose(1, 2) for y in qkv.split(C, 2))
            scores = (q @ k.transpose(2, 3) / math.sqrt(C // NH)).masked_fill(hidden[:, None], -math.inf)
            weights = scores.softmax(-1) * self.mask(rate, 4 * l + 1, (B, NH, T, T))
            h = self.linear((weights @ v).transpose(1, 2).reshape(B, T, C), at + "attproj", at + "attprojb", l)
            x = x + h * self.mask(rate, 4 * l + 2, x.shape)
            h = F.layer_norm(x, (C,), p[at + "ln2w"], p[at + "ln2b"])
            h = F.gelu(self.linear(h, at + "fc", at + "fcb", l), approximate="tanh")
            h = self.linear(h, at + "fcproj", at + "fcprojb", l)
            x = x + h * self.mask(rate, 4 * l + 3, x.shape)
        x = F.layer_norm(x, (C,), p["lnfw"], p["lnfb"])
        x = torch.einsum("btc,bt->bc", x, pooling) if self.v["classes"] else x.flatten(0, 1)
        return self.linear(x, "head", "headb", self.L)


def write(records, name, variant, scale):
    model = Model(variant, scale)
    B, T, rows = model.B, model.T, model.B if model.v["classes"] else model.B * model.T
    inputs = torch.tensor(golden.integers(1000, variant["shape"][1], B, T)).long()
    targets = torch.tensor(golden.integers(1001, model.outputs, rows)).long()
    if not model.v["classes"]:
        targets[2] = -1
    weights = torch.tensor(golden.uniform(1002, rows).astype(np.float32)).double()  # any weights, also negative
    pooling = torch.tensor(golden.uniform(1003, B, T).astype(np.float32)).double()

    records.update({name + "inputs": inputs.int(), name + "targets": targets.int(), name + "weights": weights.float(),
                name + "pooling": pooling.float()})

    def loss_of(step):
        losses = F.cross_entropy(model.forward(inputs, pooling, step, True), targets, ignore_index=-1, reduction="none")
        return (losses * weights).sum()

    records[name + "logits"] = model.forward(inputs, pooling, 0, False).detach()
    loss_of(0).backward()
    trained = {key: value for key, value in model.p.items() if value.requires_grad}
    for key, value in trained.items():
        for record, values in tensor_records(key, value.grad, True):
            kind, tensor = record.split(":")
            records[f"{name}{kind}:{tensor}"] = values
    vectors = lambda key: key.endswith("b") and "lora" not in key or key.endswith(("ln1w", "ln2w", "lnfw"))
    lr, beta1, beta2, eps, decay = (float(np.float32(x)) for x in (1e-3, 0.9, 0.95, 1e-8, 0.1))
    groups = [dict(params=[v for k, v in trained.items() if not vectors(k)], weight_decay=decay),
              dict(params=[v for k, v in trained.items() if vectors(k)], weight_decay=0.0)]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(beta1, beta2), eps=eps)
    curve = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    records[name + "curve"] = np.array(curve)
    print(f"{name} loss {curve[0]:.6f} -> {curve[-1]:.6f}")


if __name__ == "__main__":
    records = {}
    for k, variant in enumerate(VARIANTS):
        write(records, f"{k}:", variant, 0.25)
    golden.write("gpt2_variants.bin", records)
