"""Writes tests/golden/transformers_logits.bin: the results of Hugging Face transformers for models of the four sizes of
GPT-2, scaled down: all of their layers and heads, but heads of 2 channels.

  transformers_logits.py                writes the golden file
  transformers_logits.py check A B ...  opens model directories, whole, sharded, in any type, and compares all logits
                                        with those of the first

The weights are not in the file: both sides compute them from golden.uniform, tensor k of the table from stream k. Needs
torch, transformers and numpy; the tests themselves do not.
"""

import sys

import numpy as np
import torch
import transformers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

import golden
from gpt2 import make_params

SIZES = {"gpt2": (12, 12), "gpt2-medium": (24, 16), "gpt2-large": (36, 20), "gpt2-xl": (48, 25)}
CONTEXT, V, B, T, SCALE, CLASSES = 16, 61, 2, 13, 0.15, 3
INPUT_STREAM, HEAD_STREAM = 1000, 1100
FIELDS = dict(ln1w="ln_1.weight", ln1b="ln_1.bias", qkvw="attn.c_attn.weight", qkvb="attn.c_attn.bias",
              attprojw="attn.c_proj.weight", attprojb="attn.c_proj.bias", ln2w="ln_2.weight", ln2b="ln_2.bias",
              fcw="mlp.c_fc.weight", fcb="mlp.c_fc.bias", fcprojw="mlp.c_proj.weight", fcprojb="mlp.c_proj.bias",
              wte="wte.weight", wpe="wpe.weight", lnfw="ln_f.weight", lnfb="ln_f.bias")


def logits(model, params, inputs):
    """The model in float64 with these weights: name in llm/models/tensor_table.h -> tensor; "head": the untied one."""
    model = model.double().eval()
    state = model.state_dict()
    for name, value in params.items():
        part = name.split(".")
        if name == "head":
            to = "score.weight" if "score.weight" in state else "lm_head.weight"
        else:
            to = "transformer." + (f"h.{part[1]}." if len(part) == 3 else "") + FIELDS[part[-1]]
        transposed = len(part) == 3 and value.ndim == 2
        state[to].copy_(value.detach().T if transposed else value.detach())
    with torch.no_grad():
        return model(inputs.long()).logits


def write():
    inputs = torch.tensor(golden.integers(INPUT_STREAM, V - 1, B, T))  # without padding tokens
    records = dict(config=np.array([CONTEXT, V, B, T, CLASSES], dtype=np.int32), scale=np.array([SCALE]), inputs=inputs)
    for name, (L, NH) in SIZES.items():
        C = 2 * NH
        shape = dict(vocab_size=V, n_positions=CONTEXT, n_embd=C, n_layer=L, n_head=NH, bos_token_id=None,
                     eos_token_id=None)
        params = make_params(CONTEXT, V, L, C, SCALE)
        records[name] = np.array([L, NH, C], dtype=np.int32)
        records[name + ":tied"] = logits(GPT2LMHeadModel(GPT2Config(**shape)), params, inputs)
        # Untied heads: one with as many rows as the vocabulary, and a classifier's head on each sequence's last position.
        head = lambda rows: torch.tensor(golden.uniform(HEAD_STREAM, rows, C) * SCALE).float().double()
        records[name + ":untied"] = logits(GPT2LMHeadModel(GPT2Config(**shape, tie_word_embeddings=False)),
                                           params | {"head": head(V)}, inputs)
        classifier = GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=CLASSES, pad_token_id=V - 1))
        records[name + ":classifier"] = logits(classifier, params | {"head": head(CLASSES)}, inputs)
        for kind in ("tied", "untied", "classifier"):
            print(f"{name} {kind}: rms {records[f'{name}:{kind}'].square().mean().sqrt():.3f}")
    golden.write("transformers_logits.bin", records)


def check(directories):
    reference = None
    for directory in directories:
        model, info = GPT2LMHeadModel.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info[key], f"{directory}: {key}: {info[key]}"
        inputs = torch.arange(64)[None] * 7919 % model.config.vocab_size
        with torch.no_grad():
            found = model.eval()(inputs).logits
        reference = found if reference is None else reference
        print(f"{directory}: {found.numel()} logits, rms {found.square().mean().sqrt():.3f}, largest difference "
              f"{(found - reference).abs().max():.1e}")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    check(sys.argv[2:]) if sys.argv[1:2] == ["check"] else write()
