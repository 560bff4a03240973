"""Writes tests/golden/<op>.bin: each operation's inputs, outputs and gradients by PyTorch's autograd in float64.

    python3 dev/reference/ops.py
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

import golden

streams = iter(range(1, 1000))


def leaf(*shape, scale=1.0, shift=0.0):
    return torch.tensor(golden.uniform(next(streams), *shape) * scale + shift, requires_grad=True)


def int_tensor(limit, *shape):
    return torch.tensor(golden.integers(next(streams), limit, *shape))


def sizes(*values):
    return np.array(values, dtype=np.int32)


def embedding():
    B, T, C, V, context = 2, 5, 7, 11, 6
    wte, wpe, dout, inp = leaf(V, C), leaf(context, C), leaf(B, T, C), int_tensor(V, B, T)
    out = F.embedding(inp, wte) + wpe[:T]
    out.backward(dout)
    golden.write("embedding.bin", dict(sizes=sizes(B, T, C, V, context), wte=wte, wpe=wpe, inp=inp, out=out, dout=dout,
                                       dwte=wte.grad, dwpe=wpe.grad))


def layernorm():
    N, C = 5, 33
    inp, weight, bias, dout = leaf(N, C, scale=3, shift=1), leaf(C), leaf(C), leaf(N, C)
    out = F.layer_norm(inp, (C,), weight, bias, eps=1e-5)
    out.backward(dout)
    golden.write("layernorm.bin", dict(sizes=sizes(N, C), inp=inp, weight=weight, bias=bias, out=out, dout=dout,
                                       dinp=inp.grad, dweight=weight.grad, dbias=bias.grad))


def rmsnorm():
    N, C = 5, 33
    inp, weight, dout = leaf(N, C, scale=3, shift=1), leaf(C), leaf(N, C)
    out = F.rms_norm(inp, (C,), weight, eps=1e-5)
    out.backward(dout)
    golden.write("rmsnorm.bin", dict(sizes=sizes(N, C), inp=inp, weight=weight, out=out, dout=dout, dinp=inp.grad,
                                     dweight=weight.grad))


def matmul():
    N, C, OC = 7, 13, 11
    inp, weight, bias, dout = leaf(N, C), leaf(OC, C), leaf(OC), leaf(N, OC)
    out = F.linear(inp, weight, bias)
    out.backward(dout)
    golden.write("matmul.bin", dict(sizes=sizes(N, C, OC), inp=inp, weight=weight, bias=bias, out=out, dout=dout,
                                    dinp=inp.grad, dweight=weight.grad, dbias=bias.grad))


def attention():
    B, T, C, NH = 2, 9, 15, 3
    inp, dout = leaf(B, T, 3 * C, scale=3), leaf(B, T, C)
    q, k, v = (x.view(B, T, NH, C // NH).transpose(1, 2) for x in inp.split(C, dim=2))
    scores = q @ k.transpose(2, 3) / math.sqrt(C // NH)
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)
    out.backward(dout)
    golden.write("attention.bin", dict(sizes=sizes(B, T, C, NH), inp=inp, out=out, lse=scores.logsumexp(-1), dout=dout,
                                       dinp=inp.grad))


def gelu():
    N = 101
    inp, dout = leaf(N, scale=6), leaf(N)
    out = F.gelu(inp, approximate="tanh")
    out.backward(dout)
    golden.write("gelu.bin", dict(inp=inp, out=out, dout=dout, dinp=inp.grad))


def classifier():
    N, V, Vp = 9, 37, 128
    logits, targets = leaf(N, V, scale=8), int_tensor(V, N)
    targets[4] = -1
    weights = torch.tensor((golden.uniform(next(streams), N) * 0.5 + 0.25).astype(np.float32))
    losses = F.cross_entropy(logits, targets.long(), ignore_index=-1, reduction="none")
    (losses * weights.double()).sum().backward()
    golden.write("classifier.bin", dict(sizes=sizes(N, V, Vp), logits=logits, targets=targets, weights=weights,
                                        losses=losses, dlogits=logits.grad))


def adamw():
    N, steps = 33, 5
    # The kernel takes its constants as floats; so does this optimizer.
    lr, beta1, beta2, eps, weight_decay = (float(np.float32(x)) for x in (1e-2, 0.9, 0.95, 1e-8, 0.1))
    param = leaf(N)
    start, grads = param.detach().clone(), golden.uniform(next(streams), steps, N)
    optimizer = torch.optim.AdamW([param], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    after = []
    for t in range(steps):
        param.grad = torch.tensor(grads[t])
        optimizer.step()
        after.append(param.detach().clone())
    state = optimizer.state[param]
    golden.write("adamw.bin", dict(sizes=sizes(N, steps), params=start, grads=grads, after=torch.stack(after),
                                   m=state["exp_avg"], v=state["exp_avg_sq"]))


def global_norm():
    grads = [leaf(5), leaf(4099, scale=1 / 4), leaf(1, scale=32)]  # powers of two: exact in float32
    for x in grads:
        x.grad = x.detach().clone()
    norm = torch.nn.utils.clip_grad_norm_(grads, 1.0)
    golden.write("global_norm.bin", dict(grads=torch.cat([x.detach() for x in grads]).float(), norm=norm.reshape(1)))


if __name__ == "__main__":
    for op in (embedding, layernorm, matmul, attention, gelu, classifier, adamw, global_norm, rmsnorm):
        op()
