"""GPT-2 trained by PyTorch on the CPU: the peer that train_gpt2 is timed against (dev/bench/peers.sh).

    python3 dev/bench/pytorch_cpu_gpt2.py --model gpt2 --batch-size 4 --seq-len 64 --steps 10 --precision bf16

As most people would write it, without torch.compile, from PyTorch 1.12 on: nn.Linear, AdamW, gradients clipped to norm 1,
wte as the output head too, no dropout; bf16 by autocast (weights, gradients and moments stay float). Attention is
scaled_dot_product_attention if PyTorch has it (2.0), else two products and a masked softmax. Weights are random, and so
are the tokens without --data: neither changes the time of a step. One line per step. OMP_NUM_THREADS is respected.
"""
import argparse
import array
import os
import pathlib
import re
import struct
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("error: this python3 has no PyTorch; install torch, or run another python3")

# layers, heads, channels: as in llm/flags/train_flags.cpp
PRESETS = {
    "gpt2-nano": (4, 4, 128), "d4": (4, 4, 256), "d6": (6, 6, 384), "gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)
}
V, CONTEXT = 50257, 1024


def attention(q, k, v):
    """Causal, of (B, NH, T, HS)."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    T = q.shape[2]
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


class Block(torch.nn.Module):
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(C), torch.nn.LayerNorm(C)
        self.qkv, self.attn_proj = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)
        self.fc, self.mlp_proj = torch.nn.Linear(C, 4 * C), torch.nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(B, T, 3, self.NH, C // self.NH).permute(2, 0, 3, 1, 4)
        x = x + self.attn_proj(attention(q, k, v).transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(torch.nn.Module):
    def __init__(self, L, NH, C):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(V, C), torch.nn.Embedding(CONTEXT, C)
        self.blocks = torch.nn.ModuleList(Block(C, NH) for _ in range(L))
        self.ln_f = torch.nn.LayerNorm(C)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                torch.nn.init.normal_(p, std=0.02 / (2 * L) ** 0.5 if name.endswith("_proj.weight") else 0.02)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(p)

    def forward(self, inputs, targets):
        x = self.wte(inputs) + self.wpe.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def read_shard(path):
    try:
        data = path.read_bytes()
    except OSError as error:
        sys.exit(f"error: {path}: {error.strerror}")
    magic, version = struct.unpack_from("<2i", data) if len(data) >= 1024 else (0, 0)
    if magic != 20240520 or version not in (1, 2):
        sys.exit(f"error: {path} is not a token shard")
    tokens = array.array("H" if version == 1 else "I", data[1024:])
    return torch.tensor(tokens.tolist())


def batches(a):
    """(inputs, targets), one after another: the shard's windows in order, or random tokens."""
    n = a.batch_size * a.seq_len
    tokens = read_shard(a.data) if a.data else torch.randint(V, (8 * n + 1,))
    if len(tokens) <= n:
        sys.exit(f"error: {a.data} has {len(tokens)} tokens, and a batch needs {n + 1}")
    while True:
        for at in range(0, len(tokens) - n, n):
            both = tokens[at : at + n + 1]
            yield both[:-1].view(a.batch_size, a.seq_len), both[1:].view(a.batch_size, a.seq_len)


def blas():
    """The library that multiplies in float: Debian's PyTorch uses whichever libblas the system has."""
    torch.ones(64, 64) @ torch.ones(64, 64)
    try:
        maps = pathlib.Path("/proc/self/maps").read_text()
    except OSError:
        maps = ""
    found = sorted(set(re.findall(r"\S*/lib(?:open)?blas\S*", maps)))
    info = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found[0] if found else info.group(1) if info else "unknown"


def train(a):
    if "OMP_NUM_THREADS" not in os.environ:  # some builds start with fewer threads than cores
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    model = Gpt2(*PRESETS[a.model])
    groups = [
        dict(params=[p for p in model.parameters() if p.ndim == 2], weight_decay=0.1),
        dict(params=[p for p in model.parameters() if p.ndim == 1], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8)
    data = batches(a)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, BLAS {blas()}, "
          f"{sum(p.numel() for p in model.parameters())} parameters, {a.precision}", flush=True)
    for step in range(1, a.steps + 1):
        inputs, targets = next(data)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ms = 1e3 * (time.perf_counter() - start)
        print(f"step {step}/{a.steps} | loss {loss.item():.6f} | {ms:.2f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gpt2", choices=PRESETS)
    parser.add_argument("--data", type=pathlib.Path, help="token shard, read in order; default: random tokens")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    a = parser.parse_args()
    if min(a.batch_size, a.seq_len, a.steps) < 1 or a.seq_len > CONTEXT:
        parser.error(f"--batch-size, --seq-len and --steps are at least 1, and --seq-len is at most {CONTEXT}")
    train(a)


if __name__ == "__main__":
    main()
