"""Writes tests/golden/checkpoint_tensorflow: the model of tests/golden/checkpoint_gpt2 as OpenAI published GPT-2, by
TensorFlow's own writer.

  checkpoint_tensorflow.py tests/golden              the golden folder, its tensors in one data file
  checkpoint_tensorflow.py tests/golden DIR SHARDS   the same in several data files, into DIR

Needs tensorflow and numpy; the tests themselves do not.
"""

import json
import pathlib
import struct
import sys

import numpy as np
import tensorflow as tf

L, NH, C, V, maxT = 3, 5, 10, 103, 12


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(data[begin:end], dtype=np.float32).reshape(entry["shape"])


def openai_name(name):
    """transformer.h.0.attn.c_attn.weight -> model/h0/attn/c_attn/w"""
    parts = name.removeprefix("transformer.").split(".")
    if parts[0] == "h":
        parts[:2] = ["h" + parts[1]]
    if parts[0] in ("wte", "wpe"):
        parts.pop()
    elif parts[-1] == "bias":
        parts[-1] = "b"
    else:
        parts[-1] = "g" if parts[-2].startswith("ln_") else "w"
    return "/".join(["model", *parts])


def main():
    golden = pathlib.Path(sys.argv[1])
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else golden / "checkpoint_tensorflow"
    shards = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    target.mkdir(exist_ok=True)
    tensors = {openai_name(name): value[None] if value.ndim == 2 and name.find(".h.") > 0 else value
               for name, value in read_safetensors(golden / "checkpoint_gpt2" / "model.safetensors")}
    names = sorted(tensors)
    prefix = str(target / "model.ckpt")
    parts = []
    for k in range(shards):
        mine = names[k::shards]
        parts.append(prefix if shards == 1 else f"{prefix}.part-{k}")
        tf.raw_ops.SaveV2(prefix=parts[-1], tensor_names=mine, shape_and_slices=[""] * len(mine),
                          tensors=[tf.constant(tensors[name]) for name in mine])
    if shards > 1:
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False)
    (target / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
    hparams = {"n_vocab": V, "n_ctx": maxT, "n_embd": C, "n_head": NH, "n_layer": L}
    (target / "hparams.json").write_text(json.dumps(hparams, indent=2) + "\n")
    for path in sorted(target.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
