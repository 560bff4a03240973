"""Writes tests/golden/checkpoint_llmc_{fp32,bf16}.bin: the model of tests/golden/checkpoint_gpt2 in llm.c's format,
independently of wrought's own writer.

  checkpoint_llmc.py tests/golden
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file

FIELDS = ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
          "attn.c_proj.weight", "attn.c_proj.bias",
          "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"]
L, NH, C, V, Vp, maxT = 3, 5, 10, 103, 128, 12


def main():
    golden = pathlib.Path(sys.argv[1])
    tensors = load_file(golden / "checkpoint_gpt2" / "model.safetensors")
    get = lambda name: tensors["transformer." + name]
    order = [torch.nn.functional.pad(get("wte.weight"), (0, 0, 0, Vp - V)), get("wpe.weight")]
    for field in FIELDS:
        for layer in range(L):
            tensor = get(f"h.{layer}.{field}")
            order.append(tensor.t() if tensor.dim() == 2 else tensor)  # Conv1D's (in, out) to Linear's (out, in)
    order += [get("ln_f.weight"), get("ln_f.bias")]
    values = torch.cat([tensor.reshape(-1) for tensor in order])
    for version, name, bits in [(3, "fp32", values.numpy()), (5, "bf16", values.bfloat16().view(torch.int16).numpy())]:
        header = np.zeros(256, dtype=np.int32)
        header[:8] = [20240326, version, maxT, V, L, NH, C, Vp]
        (golden / f"checkpoint_llmc_{name}.bin").write_bytes(header.tobytes() + bits.tobytes())


if __name__ == "__main__":
    main()
