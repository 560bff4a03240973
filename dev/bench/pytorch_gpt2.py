"""GPT-2 trained by PyTorch at its best: the peer that train_gpt2cu is timed against (dev/gpu/gpu_check.sh).

    python3 dev/bench/pytorch_gpt2.py --model gpt2 --batch-size 16 --seq-len 1024 --steps 20

torch.compile, bf16 by autocast (weights and moments stay float), attention by scaled_dot_product_attention, fused
AdamW, the vocabulary padded to a multiple of 128, as in wrought. One line per step, then the median of the steps
after the first few. --weights takes a model directory that wrought or transformers wrote, --data a token shard that is
read in order: then its losses are those of

    build/train_gpt2 --model DIR --data SHARD --data-order sequential --schedule constant --warmup-steps 0 ...
"""
import argparse
import contextlib
import json
import pathlib
import statistics
import struct
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("error: this python3 has no PyTorch; install torch, or run another python3")
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 3):
    sys.exit(f"error: this python3 has PyTorch {torch.__version__}, expected 2.3 or later")

# layers, heads, channels
PRESETS = {
    "gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)
}
# a directory's names -> those below
NAMES = {"attn.c_attn": "c_attn", "attn.c_proj": "attn_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_proj"}


class Block(torch.nn.Module):
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(C), torch.nn.LayerNorm(C)
        self.c_attn, self.attn_proj = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)
        self.c_fc, self.mlp_proj = torch.nn.Linear(C, 4 * C), torch.nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (y.view(B, T, self.NH, C // self.NH).transpose(1, 2) for y in self.c_attn(self.ln_1(x)).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(torch.nn.Module):
    """As in wrought: wte is the output head too; its rows beyond the vocabulary are zero and take no part."""

    def __init__(self, V, context, L, NH, C):
        super().__init__()
        self.V = V
        self.wte = torch.nn.Embedding((V + 127) // 128 * 128, C)
        self.wpe = torch.nn.Embedding(context, C)
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
        logits = F.linear(self.ln_f(x), self.wte.weight)[..., : self.V]
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    for name, tensor in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] != "F32":
            sys.exit(f"error: {path}: {name} is {tensor['dtype']}, expected F32")
        begin, end = tensor["data_offsets"]
        values = torch.frombuffer(bytearray(data[8 + length + begin : 8 + length + end]), dtype=torch.float32)
        yield name.removeprefix("transformer."), values.view(tensor["shape"])


def load(folder):
    """The model of a Hugging Face directory; c_* weights lie transposed there (Conv1D)."""
    config = json.loads((folder / "config.json").read_text())
    model = Gpt2(config["vocab_size"], config["n_positions"], config["n_layer"], config["n_head"], config["n_embd"])
    left = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in read_safetensors(folder / "model.safetensors"):
            if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
                continue  # the tied head again; masks
            ours = name.replace("h.", "blocks.", 1) if name.startswith("h.") else name
            for theirs, to in NAMES.items():
                ours = ours.replace(theirs, to)
            p = left.pop(ours)
            p.zero_()
            conv = values.ndim == 2 and ours.startswith("blocks.")
            p[: model.V if ours == "wte.weight" else None].copy_(values.T if conv else values)
    if left:
        sys.exit(f"error: {folder}/model.safetensors has no {', '.join(left)}")
    return model


def read_shard(path):
    header = struct.unpack_from("<256i", path.read_bytes()[:1024])
    if header[0] != 20240520 or header[1] not in (1, 2):
        sys.exit(f"error: {path} is not a token shard: it starts with {header[0]}, version {header[1]}")
    number = torch.uint16 if header[1] == 1 else torch.int32
    return torch.frombuffer(bytearray(path.read_bytes()[1024:]), dtype=number).to(torch.int64)


def batches(a, V):
    """(inputs, targets), one after another: the shard's windows in order, or random tokens."""
    n = a.batch_size * a.seq_len
    if a.data:
        tokens = read_shard(a.data)
        if len(tokens) <= n:
            sys.exit(f"error: {a.data} has {len(tokens)} tokens, and a batch needs {n + 1}")
    else:
        tokens = torch.randint(V, (8 * n + 1,), generator=torch.Generator().manual_seed(1))
    while True:
        for at in range(0, len(tokens) - n, n):
            both = tokens[at : at + n + 1].to(a.device)
            yield both[:-1].view(a.batch_size, a.seq_len), both[1:].view(a.batch_size, a.seq_len)


def attention_backend(name):
    if name == "auto":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel({"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[name])


def train(a):
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("highest" if a.precision == "fp32" else "high")  # high: tf32
    L, NH, C = PRESETS[a.model]
    with torch.device("cpu" if a.weights else a.device):
        model = load(a.weights) if a.weights else Gpt2(50257, 1024, L, NH, C)
    model.to(a.device)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [dict(params=matrices, weight_decay=a.weight_decay), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-8, fused=a.device == "cuda")
    step_loss = model if a.compile == "off" else torch.compile(model, mode=a.compile)
    autocast = torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.precision == "bf16")

    on_gpu, data = a.device == "cuda", batches(a, model.V)
    losses, marks = [], []  # marks[k]: before step k
    mark = lambda: torch.cuda.Event(enable_timing=True) if on_gpu else time.perf_counter()
    for step in range(a.steps + 1):
        marks.append(mark())
        if on_gpu:
            marks[-1].record()
        if step == a.steps:
            break
        inputs, targets = next(data)
        with autocast, attention_backend(a.attention):
            loss = step_loss(inputs, targets)
        loss.backward()
        if a.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), a.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    if on_gpu:
        torch.cuda.synchronize()
    ms = [b.elapsed_time(e) if on_gpu else 1e3 * (e - b) for b, e in zip(marks, marks[1:])]
    losses = [loss.item() for loss in losses]
    for step, (loss, time_taken) in enumerate(zip(losses, ms), 1):
        print(f"step {step}/{a.steps} | loss {loss:.6f} | {time_taken:.2f} ms")
    median = statistics.median(ms[a.warmup :])
    tokens, device = a.batch_size * a.seq_len / median * 1e3, torch.cuda.get_device_name() if on_gpu else "cpu"
    print(f"median of {a.steps - a.warmup}: {median:.3f} ms per step, {tokens:.0f} tokens/s (torch {torch.__version__}, "
          f"{device}, {a.precision}, compile {a.compile}, attention {a.attention})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gpt2", choices=PRESETS)
    parser.add_argument("--weights", type=pathlib.Path, help="a model directory, instead of random weights")
    parser.add_argument("--data", type=pathlib.Path, help="token shard, read in order; default: random tokens")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5, help="first steps that do not count in the median")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "tf32", "fp32"])
    parser.add_argument("--lr", type=float, default=3e-4, help="constant")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--grad-clip", type=float, default=1.0, help="0: none")
    parser.add_argument("--compile", default="default", choices=["off", "default", "max-autotune"])
    parser.add_argument("--attention", default="auto", choices=["auto", "flash", "cudnn"], help="auto: PyTorch chooses")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    a = parser.parse_args()
    if min(a.batch_size, a.seq_len, a.steps) < 1 or not 0 <= a.warmup < a.steps:
        parser.error("--batch-size, --seq-len and --steps are at least 1, and --warmup is less than --steps")
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU here; --device cpu runs on the CPU")
    try:
        train(a)
    except torch.cuda.OutOfMemoryError as error:
        sys.exit(f"error: out of memory; a smaller --batch-size needs less ({str(error).splitlines()[0]})")


if __name__ == "__main__":
    main()
