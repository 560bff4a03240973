"""Writes tests/golden/init_book.bin: the book's model in miniature after torch.manual_seed(123), and its loss.

    python3 dev/reference/init_book.py

"Build a Large Language Model (From Scratch)" creates its layers in the order below; nothing else draws random numbers.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import golden

C, HEADS, LAYERS, V, CONTEXT = 12, 2, 2, 13, 6


def layers(qkv_bias):
    """name -> layer, in the order of creation."""
    made = {"wte": nn.Embedding(V, C), "wpe": nn.Embedding(CONTEXT, C)}
    for n in range(LAYERS):
        at = f"block.{n}."
        for name in "q", "k", "v":
            made[at + name] = nn.Linear(C, C, bias=qkv_bias)
        made[at + "attproj"] = nn.Linear(C, C)
        made[at + "fc"] = nn.Linear(C, 4 * C)
        made[at + "fcproj"] = nn.Linear(4 * C, C)
    made["head"] = nn.Linear(C, V, bias=False)
    return made


def loss(m, inputs, targets):
    B, T = inputs.shape
    x = m["wte"](inputs) + m["wpe"](torch.arange(T))
    for n in range(LAYERS):
        at = f"block.{n}."
        normed = F.layer_norm(x, (C,))
        q, k, v = (m[at + name](normed).view(B, T, HEADS, C // HEADS).transpose(1, 2) for name in "qkv")
        scores = (q @ k.transpose(2, 3) / math.sqrt(C // HEADS)).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        x = x + m[at + "attproj"]((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))
        x = x + m[at + "fcproj"](F.gelu(m[at + "fc"](F.layer_norm(x, (C,))), approximate="tanh"))
    return F.cross_entropy(m["head"](F.layer_norm(x, (C,))).flatten(0, 1), targets.flatten())


inputs, targets = (torch.tensor(golden.integers(stream, V, 2, CONTEXT)).long() for stream in (1, 2))
records = {"sizes": np.array([C, HEADS, LAYERS, V, CONTEXT], dtype=np.int32), "inputs": inputs.int(), "targets": targets.int()}
for kind, qkv_bias in {"plain.": False, "bias.": True}.items():
    torch.manual_seed(123)
    m = layers(qkv_bias)
    for name in "wte", "wpe", "head":
        records[kind + name] = m[name].weight
    for n in range(LAYERS):
        at, to = f"block.{n}.", f"{kind}block.{n}."
        records[to + "qkvw"] = torch.cat([m[at + name].weight for name in "qkv"])
        if qkv_bias:
            records[to + "qkvb"] = torch.cat([m[at + name].bias for name in "qkv"])
        for name in "attproj", "fc", "fcproj":
            records[to + name + "w"], records[to + name + "b"] = m[at + name].weight, m[at + name].bias
    records[kind + "loss"] = loss(m, inputs, targets)
golden.write("init_book.bin", records)
