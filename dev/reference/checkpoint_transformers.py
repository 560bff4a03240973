"""Model directories, compared with Hugging Face transformers.

  checkpoint_transformers.py golden DIR   writes the small model of tests/golden (5 heads, 3 layers) and its logits
  checkpoint_transformers.py make DIR     writes models of unusual and full size, each with inputs and logits
  WROUGHT_MODELS=DIR build/test_huggingface   loads each, compares the logits, saves it again as MODEL/saved
  checkpoint_transformers.py check DIR    opens the saved models: no missing or unexpected key, no warning, same logits

Needs torch, transformers, safetensors and numpy; the tests themselves do not.
"""

import argparse
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

TOLERANCE = 1e-4
MODELS = {
    "odd": dict(n_layer=3, n_head=5, n_embd=40, n_positions=96, vocab_size=1003),
    "odd_heads_of_11": dict(n_layer=3, n_head=5, n_embd=55, n_positions=96, vocab_size=1003),
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257),
}


def make(directory, seed, lengths, **shape):
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None)).eval()
    with torch.no_grad():  # transformers starts biases at 0 and gains at 1; a mix-up of those must be visible
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    inputs = torch.randint(0, shape["vocab_size"], lengths)
    with torch.no_grad():
        logits = model(inputs).logits
    save_file({"inputs": inputs.to(torch.int32), "logits": logits.contiguous()}, directory / "logits.safetensors")
    print(f"{directory}: {sum(p.numel() for p in model.parameters()):,} parameters, logits {tuple(logits.shape)}")


def check(directory):
    warnings = []
    logger = transformers.utils.logging.get_logger("transformers")
    logger.handlers.clear()
    handler = transformers.logging.logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logger.addHandler(handler)
    model, info = GPT2LMHeadModel.from_pretrained(directory / "saved", output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[key], f"{directory}: {key}: {info[key]}"
    assert not warnings, f"{directory}: {warnings}"
    reference = load_file(directory / "logits.safetensors")
    with torch.no_grad():
        logits = model.eval()(reference["inputs"].long()).logits
    difference = (logits - reference["logits"]).abs().max().item()
    assert difference <= TOLERANCE, f"{directory}: logits differ by {difference}"
    print(f"{directory}/saved: opened without warning; largest difference of a logit {difference:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["golden", "make", "check"])
    parser.add_argument("directory", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.command == "golden":
        target = arguments.directory / "checkpoint_gpt2"
        make(target, 1, (2, 9), n_layer=3, n_head=5, n_embd=10, n_positions=12, vocab_size=103, initializer_range=0.2)
        (target / "generation_config.json").unlink()
    for name, shape in MODELS.items():
        if arguments.command == "make":
            make(arguments.directory / name, 2, (2, 64), **shape)
        elif arguments.command == "check":
            check(arguments.directory / name)


if __name__ == "__main__":
    main()
