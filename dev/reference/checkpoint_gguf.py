"""Compares GGUF files with llama.cpp, and writes goldens into tests/golden/checkpoint_gguf:

  q8_0.gguf    the model of the folder in Q8_0, written by llama.cpp's own package `gguf`
  mixed.gguf   the same with a head that is not tied (the rows of the token embedding, last first), its tensors in turn
               F32, F16, BF16 and Q8_0
  greedy.json  llama.cpp's ids of a text; its greedy continuations of prompts with the file that wrought writes in each
               type; and by how much each token's logit exceeded the next best. llama.cpp rounds what it multiplies by
               a matrix of F16, BF16 or Q8_0 to F16, BF16 or blocks of int8, so that near ties may end otherwise there.

  checkpoint_gguf.py tests/golden/checkpoint_gguf BUILD [--compare]

With --compare any model directory will do, and no golden is written. Needs the packages gguf, llama-cpp-python and
safetensors.
"""

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

KINDS = ["fp32", "fp16", "bf16", "q8_0"]
TYPES = [gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0")]
PROMPTS = ["Once", "One day a brave", "The cat's hat,\n\n3 of 12"]
TOKENS = 64
TEXT = ("It's 3 o'clock, isn't it?  We'll see: 1234 apples\n\n\tand\r\n  \u00e9t\u00e9 \u4f60\u597d \U0001f999 don't <|endoftext|>"
        "I'VE said...  'tis ##x_y \u0663\u0664 a\u0301\n   ")
NAMES = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm",
         "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
         "mlp.c_proj": "ffn_down"}


def tensors_of(directory):
    """name in GGUF -> array, a row per output"""
    result = {}
    for name, values in load_file(directory / "model.safetensors").items():
        parts = name.removeprefix("transformer.").split(".")
        block = f"blk.{parts[1]}." if parts[0] == "h" else ""
        module, leaf = ".".join(parts[2 if block else 0:-1]), parts[-1]
        if values.ndim == 2 and block:
            values = np.ascontiguousarray(values.T)
        result[f"{block}{NAMES[module]}.{leaf}"] = values
    return result


def write(path, directory, tensors, file_type, type_of):
    config = json.loads((directory / "config.json").read_text())
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_type("model")
    writer.add_name("golden")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokens = {id: token for token, id in tokenizer["model"]["vocab"].items()}
    ids = range(config["vocab_size"])
    kind = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(id, f"[PAD{id}]") for id in ids])
    writer.add_token_types([kind.CONTROL if id in special else kind.NORMAL if id in tokens else kind.UNUSED
                            for id in ids])
    writer.add_token_merges(tokenizer["model"]["merges"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    for name, values in tensors.items():
        kind = type_of(name, values)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def greedy(path, prompts):
    """Of each prompt: its ids, the ids that follow, and by how much each was more likely than the next best."""
    model = llama_cpp.Llama(str(path), n_ctx=0, verbose=False, type_k=llama_cpp.GGML_TYPE_F32, n_threads=1,
                            type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)
    result = []
    for prompt in prompts:
        ids = model.tokenize(prompt.encode(), add_bos=False, special=False)
        model.reset()
        model.eval(ids)
        made, margins = [], []
        for _ in range(TOKENS):
            pointer = llama_cpp.llama_get_logits_ith(model._ctx.ctx, -1)
            logits = np.ctypeslib.as_array(pointer, shape=(model.n_vocab(),))
            best = np.argsort(-logits, kind="stable")[:2]
            margins.append(float(logits[best[0]] - logits[best[1]]))
            made.append(int(best[0]))
            model.eval([made[-1]])
        result.append((ids, made, margins))
    return result, model.tokenize(TEXT.encode(), add_bos=False, special=True)


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def main():
    directory, build = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    golden = {"text": TEXT, "prompts": [{"prompt": prompt, "continued": {}} for prompt in PROMPTS]}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in KINDS:
            path, back = pathlib.Path(temporary, f"{kind}.gguf"), pathlib.Path(temporary, kind)
            run(build / "convert", "--from", directory, "--to", path, "--dtype", kind)
            run(build / "convert", "--from", path, "--to", back, "--dtype", "fp32")
            results, golden["ids"] = greedy(path, PROMPTS)
            for at, (ids, made, margins) in zip(golden["prompts"], results):
                at["ids"] = ids
                at["continued"][kind] = {"ids": made, "margins": [round(margin, 5) for margin in margins]}
                for source in (path, back):
                    ours = run(build / "generate", "--model", source, "--ids", "--greedy", "--tokens", TOKENS,
                               "--prompt", " ".join(map(str, ids))).split()
                    same = [int(a) == b for a, b in zip(ours, made)] + [False]
                    first = same.index(False)
                    print(f"{kind} {at['prompt']!r}: {first} of {TOKENS} tokens are the same, smallest margin "
                          f"{min(margins):.5f}" + (f", at the difference {margins[first]:.5f}" if first < TOKENS else ""))
            numbers = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                       for tensor in gguf.GGUFReader(path).tensors}
            equal = all(np.array_equal(numbers.pop(name), values) for name, values in tensors_of(back).items())
            print(f"{kind}: the tensors converted back are {'' if equal and not numbers else 'NOT '}those of the file")
    if "--compare" in sys.argv:
        return
    (directory / "greedy.json").write_text(json.dumps(golden) + "\n")
    tensors = tensors_of(directory)
    is_f32 = lambda name, values: values.ndim == 1 or name == "position_embd.weight"
    f32, q8_0 = TYPES[0], TYPES[3]
    write(directory / "q8_0.gguf", directory, tensors, 7, lambda name, values: f32 if is_f32(name, values) else q8_0)
    tensors["output.weight"] = np.ascontiguousarray(tensors["token_embd.weight"][::-1])
    types = itertools.cycle(TYPES)
    write(directory / "mixed.gguf", directory, tensors, 0, lambda name, values: f32 if values.ndim == 1 else next(types))


if __name__ == "__main__":
    main()
