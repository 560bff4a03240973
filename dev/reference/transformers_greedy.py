"""Writes tests/golden/transformers_greedy.bin: how Hugging Face transformers continues prompts greedily, in float32, with
models of three shapes; and after each token how far the two largest logits lie apart.

    python3 dev/reference/transformers_greedy.py

The weights are not in the file: both sides compute them from golden.uniform, tensor k of the table from stream k. Needs
torch, transformers and numpy; the tests themselves do not.
"""
import numpy as np
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

import golden
from gpt2 import make_params
from transformers_logits import FIELDS, HEAD_STREAM

# context, vocabulary, layers, heads, channels, scale of the weights, tied head
SHAPES = dict(small=(256, 97, 2, 3, 33, 0.25, True), deep=(240, 211, 6, 4, 48, 0.2, False),
              wide=(256, 1000, 2, 2, 160, 0.12, True))
PROMPTS, LENGTHS, TOKENS, STREAM = 3, (1, 9, 37), 200, 2000


def main():
    records = {}
    for number, (name, (context, V, L, NH, C, scale, tied)) in enumerate(SHAPES.items()):
        config = GPT2Config(vocab_size=V, n_positions=context, n_embd=C, n_layer=L, n_head=NH, bos_token_id=None,
                            eos_token_id=None, tie_word_embeddings=tied)
        model = GPT2LMHeadModel(config).eval()
        params = make_params(context, V, L, C, scale)
        if not tied:
            params["head"] = torch.tensor(golden.uniform(HEAD_STREAM, V, C) * scale).float()
        with torch.no_grad():
            state = model.state_dict()
            for key, value in params.items():
                part = key.split(".")
                to = "lm_head.weight" if key == "head" else (
                    "transformer." + (f"h.{part[1]}." if len(part) == 3 else "") + FIELDS[part[-1]])
                state[to].copy_((value.T if len(part) == 3 and value.ndim == 2 else value).float())
        records[name] = np.array([context, V, L, NH, C, tied], dtype=np.int32)
        records[name + ":scale"] = np.array([scale])
        for p, length in enumerate(LENGTHS):
            prompt = golden.integers(STREAM + 10 * number + p, V, length)
            ids = torch.tensor(prompt).long()[None]
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False,
                                 output_logits=True, return_dict_in_generate=True, pad_token_id=0)
            two = torch.stack([l[0].topk(2).values for l in out.logits])
            text = out.sequences[0, length:].int()
            records[f"{name}:prompt{p}"], records[f"{name}:text{p}"] = prompt, text.numpy()
            records[f"{name}:gap{p}"] = (two[:, 0] - two[:, 1]).float().numpy()
            print(f"{name}, prompt of {length}: {len(text.unique())} different tokens of {len(text)}, "
                  f"smallest distance of the two largest logits {(two[:, 0] - two[:, 1]).min():.1e}")
    golden.write("transformers_greedy.bin", records)


if __name__ == "__main__":
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    main()
