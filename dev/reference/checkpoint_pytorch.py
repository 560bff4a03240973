"""Writes the model directory of tests/golden/checkpoint_pytorch: a pytorch_model.bin as written by torch.save().

  checkpoint_pytorch.py DIR

Element i of the tensor k, in the order of the file, is k + i / 256; lm_head.weight shares its bytes with wte. Needs
torch and transformers; the tests themselves do not.
"""

import pathlib
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def main():
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=4, n_positions=4, vocab_size=7, bos_token_id=None,
                        eos_token_id=None, architectures=["GPT2LMHeadModel"])
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for k, tensor in enumerate(model.parameters()):
            tensor.copy_(k + torch.arange(tensor.numel()).view(tensor.shape) / 256)
    config.save_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")


main()
