"""Writes tests/golden/gpt2_*.bin: GPT-2 in plain PyTorch, float64: logits, loss, all gradients, ten steps of AdamW.

    python3 dev/reference/gpt2.py

The weights are not in the files: both sides compute them from the same numbers (golden.uniform). If transformers is
installed, its GPT2LMHeadModel must agree with the model below before anything is written.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

import golden

STEPS = 10
DATA_STREAM, PROJECTION_STREAM = 1000, 2000  # tensor k of the table uses stream k


def make_params(context, V, L, C, scale):
    """name -> weights in [-scale, scale), in the order and layout of llm/models/tensor_table.h; layernorm's weights around 1."""
    shapes = {"wte": (V, C), "wpe": (context, C)}
    for l in range(L):
        shapes |= {f"block.{l}.{name}": shape for name, shape in dict(
            ln1w=(C,), ln1b=(C,), qkvw=(3 * C, C), qkvb=(3 * C,), attprojw=(C, C), attprojb=(C,),
            ln2w=(C,), ln2b=(C,), fcw=(4 * C, C), fcb=(4 * C,), fcprojw=(C, 4 * C), fcprojb=(C,)).items()}
    shapes |= {"lnfw": (C,), "lnfb": (C,)}
    params = {}
    for k, (name, shape) in enumerate(shapes.items()):
        values = golden.uniform(k, *shape) * scale + (1 if name.endswith(("ln1w", "ln2w", "lnfw")) else 0)
        params[name] = torch.tensor(values.astype(np.float32).astype(np.float64), requires_grad=True)
    return params


def forward(p, inputs, L, NH):
    B, T = inputs.shape
    x = F.embedding(inputs, p["wte"]) + p["wpe"][:T]
    C = x.shape[-1]
    future = torch.ones(T, T).triu(1).bool()
    for l in range(L):
        w = {name.split(".")[2]: value for name, value in p.items() if name.startswith(f"block.{l}.")}
        h = F.layer_norm(x, (C,), w["ln1w"], w["ln1b"])
        q, k, v = (y.view(B, T, NH, C // NH).transpose(1, 2) for y in F.linear(h, w["qkvw"], w["qkvb"]).split(C, 2))
        scores = (q @ k.transpose(2, 3) / math.sqrt(C // NH)).masked_fill(future, -math.inf)
        h = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)
        x = x + F.linear(h, w["attprojw"], w["attprojb"])
        h = F.layer_norm(x, (C,), w["ln2w"], w["ln2b"])
        h = F.gelu(F.linear(h, w["fcw"], w["fcb"]), approximate="tanh")
        x = x + F.linear(h, w["fcprojw"], w["fcprojb"])
    return F.layer_norm(x, (C,), p["lnfw"], p["lnfb"]) @ p["wte"].T


def weighted_loss(p, inputs, targets, weights, L, NH):
    logits = forward(p, inputs, L, NH)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), ignore_index=-1, reduction="none")
    return logits, (losses * weights.double()).sum()


def check_against_transformers(p, inputs, logits, context, V, L, NH, C):
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        print("transformers is not installed: the comparison with it was skipped")
        return
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=context, n_embd=C, n_layer=L, n_head=NH)).double().eval()
    names = dict(ln1w="ln_1.weight", ln1b="ln_1.bias", qkvw="attn.c_attn.weight", qkvb="attn.c_attn.bias",
                 attprojw="attn.c_proj.weight", attprojb="attn.c_proj.bias", ln2w="ln_2.weight", ln2b="ln_2.bias",
                 fcw="mlp.c_fc.weight", fcb="mlp.c_fc.bias", fcprojw="mlp.c_proj.weight", fcprojb="mlp.c_proj.bias")
    top = dict(wte="wte.weight", wpe="wpe.weight", lnfw="ln_f.weight", lnfb="ln_f.bias")
    state = model.state_dict()
    for name, value in p.items():
        part = name.split(".")
        to = "transformer." + (top[name] if name in top else f"h.{part[1]}.{names[part[2]]}")
        matrix = value.ndim == 2 and name not in top
        state[to].copy_(value.detach().T if matrix else value.detach())
    with torch.no_grad():
        difference = (model(inputs.long()).logits - logits).abs().max().item()
    assert difference < 1e-10, difference
    print(f"transformers' logits differ by {difference:.1e}")


def tensor_records(name, values, full):
    """The tensor's norm, its products with three fixed vectors, and either all of it (rounded) or every 97th element."""
    flat = values.detach().numpy().ravel()
    summary = [np.linalg.norm(flat)] + [golden.uniform(PROJECTION_STREAM + j, flat.size) @ flat for j in range(3)]
    yield "summary:" + name, np.array(summary)
    yield "values:" + name, flat.astype(np.float32) if full else flat[::97].copy()


def write(file, context, V, L, NH, C, B, T, scale, full):
    inputs = torch.tensor(golden.integers(DATA_STREAM, V, B, T))
    targets = torch.tensor(golden.integers(DATA_STREAM + 1, V, B, T))
    targets[0, 3] = targets[B - 1, T - 1] = -1
    weights = torch.full((B * T,), 1 / (B * T - 2), dtype=torch.float32)  # for the mean; exact on the other side
    p = make_params(context, V, L, C, scale)
    logits, loss = weighted_loss(p, inputs, targets, weights, L, NH)
    check_against_transformers(p, inputs, logits, context, V, L, NH, C)
    loss.backward()

    records = dict(config=np.array([context, V, L, NH, C, B, T, int(full)], dtype=np.int32), scale=np.array([scale]),
                   inputs=inputs, targets=targets, weights=weights)
    records |= tensor_records("logits", logits, full)
    for name, value in p.items():
        records |= tensor_records(name, value.grad, full)

    # As float constants, like those of the trainer.
    lr, beta1, beta2, eps, weight_decay = (float(np.float32(x)) for x in (1e-3, 0.9, 0.95, 1e-8, 0.1))
    groups = [dict(params=[v for v in p.values() if v.ndim == 2], weight_decay=weight_decay),
              dict(params=[v for v in p.values() if v.ndim == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps)
    curve = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        _, loss = weighted_loss(p, inputs, targets, weights, L, NH)
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    records["optimizer"] = np.array([lr, beta1, beta2, eps, weight_decay])
    records["curve"] = np.array(curve)
    print(f"{file}: loss {curve[0]:.6f} -> {curve[-1]:.6f}")
    golden.write(file, records)


if __name__ == "__main__":
    write("gpt2_c51.bin", context=19, V=61, L=3, NH=3, C=51, B=2, T=17, scale=0.25, full=True)
    write("gpt2_hs64.bin", context=80, V=1003, L=2, NH=2, C=128, B=2, T=65, scale=0.125, full=False)
