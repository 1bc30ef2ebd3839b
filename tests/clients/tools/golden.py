"""How likely SmolLM2-135M-Instruct (Q4_1) thinks each answer to questions.json, by transformers in f32, with the tokens
taken as lm-evaluation-harness takes them. Needs torch, transformers and gguf: python golden.py FOLDER GGUF > golden.json"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, name = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)


def encode(text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def score(question: str, choice: str) -> list:
    """The logarithm of the probability of what follows the question, and whether greedy choice would say it."""
    context, whole = len(encode(question)), encode(f"{question} {choice}")
    with torch.no_grad():
        logprobs = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    places = range(context, len(whole))
    greedy = all(logprobs[place - 1].argmax().item() == whole[place] for place in places)
    return [round(sum(logprobs[place - 1, whole[place]].item() for place in places), 4), greedy]


questions = json.loads((Path(__file__).parent / "questions.json").read_text())
json.dump([[score(asked["question"], choice) for choice in asked["choices"]] for asked in questions], sys.stdout)
print()
