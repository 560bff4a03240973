"""Writes tests/golden/sampling.bin: what transformers' processors make of logits, for the test of llm/inference/sampler.h.

  python3 dev/reference/sampling.py      # needs torch, numpy and transformers 5

Each setting's processors are those that GenerationMixin itself lists, in its order, and run in float64. transformers has no
frequency and presence penalty: they are added here as OpenAI's API reference defines them, where GenerationMixin puts a
caller's own processors, before the temperature. Which of several equally likely tokens top_p keeps depends on the sort in
transformers; here, as in wrought, those with the smallest ids.
"""
import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LogitsProcessor, LogitsProcessorList

import golden

V = 200
PROMPT = [3, 17, 17, 42, 199, 0, 5, 90, 91, 3]
GENERATED = [17, 60, 60, 60, 91, 120, 5, 60, 199, 120]

# temperature, top_k, top_p, min_p, repetition, frequency and presence penalty
SETTINGS = [
    (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0),
    (0.7, 0, 1.0, 0.0, 1.0, 0.0, 0.0),
    (3.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.0, 1, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.0, 7, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.5, 50, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.0, 1000, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.0, 0, 0.9, 0.0, 1.0, 0.0, 0.0),
    (0.6, 0, 0.35, 0.0, 1.0, 0.0, 0.0),
    (1.0, 0, 1e-9, 0.0, 1.0, 0.0, 0.0),
    (1.0, 0, 1.0, 0.05, 1.0, 0.0, 0.0),
    (2.0, 0, 1.0, 0.3, 1.0, 0.0, 0.0),
    (1.0, 0, 1.0, 1.0, 1.0, 0.0, 0.0),
    (1.3, 40, 0.8, 0.0, 1.0, 0.0, 0.0),
    (1.3, 40, 0.97, 0.11, 1.0, 0.0, 0.0),
    (1.0, 0, 1.0, 0.0, 1.3, 0.0, 0.0),
    (1.0, 0, 1.0, 0.0, 1.0, 0.7, 0.0),
    (1.0, 0, 1.0, 0.0, 1.0, 0.0, -1.5),
    (0.8, 30, 0.9, 0.02, 1.2, 0.4, 0.6),
    (1.0, 20, 0.95, 0.0, 0.8, -0.5, 0.25),
    (0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0),
    (0.0, 5, 0.5, 0.1, 1.8, 0.9, 2.0),
]


def make_rows():
    """float32 (4, V): scattered; steps of 0.5, many of them equal; holes of -inf; far apart."""
    noise = golden.uniform(77, 4, V)
    rows = np.stack([6 * noise[0] ** 3, np.round(6 * noise[1]) / 2, 4 * noise[2], 60 * noise[3]])
    rows[2][golden.integers(78, 10, V) < 3] = -np.inf
    return rows.astype(np.float32)


class OpenAIPenalties(LogitsProcessor):
    def __init__(self, frequency, presence):
        self.frequency, self.presence = frequency, presence

    def __call__(self, input_ids, scores):
        count = torch.bincount(torch.tensor(GENERATED), minlength=V).double()
        scores = scores - self.frequency * count - self.presence * (count > 0)
        return scores.float().double()  # penalised logits are floats in wrought


def probabilities(model, row, setting):
    temperature, top_k, top_p, min_p, repetition, frequency, presence = setting
    config = GenerationConfig(do_sample=temperature > 0, repetition_penalty=repetition)
    if temperature > 0:
        config.update(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    processors = model._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(PROMPT),
        logits_processor=LogitsProcessorList([OpenAIPenalties(frequency, presence)]))
    scores = torch.tensor(row).double()[None]
    for processor in processors:
        scores = processor(torch.tensor([PROMPT + GENERATED]), scores)
        if isinstance(processor, OpenAIPenalties):
            penalised = scores[0].numpy()
    if temperature == 0:
        return torch.nn.functional.one_hot(scores[0].argmax(), V).double().numpy(), processors
    p = torch.softmax(scores, -1)[0].numpy()
    for value in np.unique(penalised):
        equal = np.flatnonzero(penalised == value)  # the smallest ids stay
        p[equal] = np.sort(p[equal])[::-1]
    return p, processors


model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=32, n_embd=8, n_layer=1, n_head=1))
rows = make_rows()
results = []
for setting in SETTINGS:
    for row in rows:
        p, processors = probabilities(model, row, setting)
        results.append(p)
    print(setting, [type(p).__name__ for p in processors], "left:", [int((p > 0).sum()) for p in results[-len(rows):]])
golden.write("sampling.bin", {
    "rows": rows,
    "prompt": np.array(PROMPT, np.int32),
    "generated": np.array(GENERATED, np.int32),
    "settings": np.array(SETTINGS, np.float64),
    "probabilities": np.stack(results),
    "log_probabilities": torch.log_softmax(torch.tensor(rows).double(), -1),
})
