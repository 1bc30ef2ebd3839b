"""Measures exact answers of an exported model on fresh samples.

An answer counts if greedy decoding gives it word for word, end token included; that is
checked in one forward pass, since greedy decoding gives an answer exactly if each of its
tokens is the most likely one after those before it.

usage: python evaluate.py --model ../../models/demo [--samples 200] [--json FILE]
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import Generator

SETTINGS = [(4, 256), (8, 512), (16, 1024), (32, 2048)]


def is_exact(model, tokenizer, prompt, answer):
    """Whether the model answers the prompt with exactly this text."""
    messages = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before_ids = tokenizer(before, add_special_tokens=False).input_ids
    answer_ids = tokenizer(answer + "<|end|>", add_special_tokens=False).input_ids
    ids = torch.tensor([before_ids + answer_ids])
    with torch.no_grad():
        logits = model(ids, logits_to_keep=len(answer_ids) + 1).logits[0, :-1]
    return logits.argmax(-1).tolist() == answer_ids, len(before_ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--settings", default=",".join(f"{facts}@{length}" for facts, length in SETTINGS))
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    generator = Generator(tokenizer.backend_tokenizer, arguments.seed)

    results = []
    for setting in arguments.settings.split(","):
        facts, length = map(int, setting.split("@"))
        right, lengths = defaultdict(list), []
        for _ in range(arguments.samples):
            task, prompt, question = generator.sample(facts, length)
            exact, prompt_tokens = is_exact(model, tokenizer, prompt, question.answer)
            right[task].append(exact)
            lengths.append(prompt_tokens)
        everything = [exact for exacts in right.values() for exact in exacts]
        results.append({
            "facts": facts, "tokens": length, "mean_prompt_tokens": round(sum(lengths) / len(lengths)),
            "samples": len(everything), "exact": sum(everything) / len(everything),
            "tasks": {task: round(sum(exacts) / len(exacts), 3) for task, exacts in sorted(right.items())},
        })
    tasks = sorted({task for result in results for task in result["tasks"]})
    print("| facts | tokens | exact | " + " | ".join(tasks) + " |")
    print("|" + "---|" * (3 + len(tasks)))
    for result in results:
        cells = [f"{result['tasks'].get(task, float('nan')):.2f}" for task in tasks]
        print(f"| {result['facts']} | {result['tokens']} | {result['exact']:.1%} | " + " | ".join(cells) + " |")
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
