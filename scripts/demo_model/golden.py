"""Writes greedy completions of transformers (float32) as golden.json beside the weights.

Prompts are tokenized with the tokenizer's usual beginning-of-text token. A completion
ends with the end token (finish_reason "stop", the token is the last of completion_ids)
or after a number of tokens ("length").

usage: python golden.py --model ../../models/demo
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import Generator

TOKENS = 64
# Continued for a few tokens only, since the model is unsure of what comes after the fact.
PLAIN = ["The magic number for river is 481927. The magic number for lion is 350. The magic number for river"]
PLAIN_TOKENS = 5
CHATS = ["Hello", "The magic number for river is 481927. What is the magic number for river?"]
RETRIEVAL = [("magic_number", 8, 400), ("key_value", 12, 700), ("variable_chain", 6, 300), ("story", 8, 500)]


def complete(model, tokenizer, prompt, max_tokens=TOKENS):
    """One case: the greedy completion of a prompt, and how sure the model was."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
                         pad_token_id=tokenizer.eos_token_id, output_logits=True, return_dict_in_generate=True)
    completion = out.sequences[0, ids.shape[1]:].tolist()
    logits = torch.cat(out.logits)
    best = logits.topk(8)
    margins = best.values[:, 0] - best.values[:, 1]
    stopped = completion[-1] == tokenizer.eos_token_id
    return {
        "prompt": prompt,
        "prompt_ids": ids[0].tolist(),
        "completion_ids": completion,
        "completion_text": tokenizer.decode(completion, skip_special_tokens=True),
        "finish_reason": "stop" if stopped else "length",
        "last_prompt_top8": [[i, v] for i, v in zip(best.indices[0].tolist(), best.values[0].tolist())],
        "min_top1_margin": margins.min().item(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="eager").eval()
    generator = Generator(tokenizer.backend_tokenizer, seed=7)
    chats = CHATS + [generator.sample(facts, length, [task])[1] for task, facts, length in RETRIEVAL]
    templated = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                               add_generation_prompt=True) for text in chats]
    cases = [complete(model, tokenizer, prompt, PLAIN_TOKENS) for prompt in PLAIN]
    cases += [complete(model, tokenizer, text.removeprefix(tokenizer.bos_token)) for text in templated]
    golden = {"model": "demo", "made_with": f"transformers {transformers.__version__} (float16 weights as float32, "
              "eager attention), greedy, until the end token", "cases": cases}
    (arguments.model / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for case in cases:
        print(f"{case['prompt'][-70:]!r} -> {case['completion_text']!r} margin {case['min_top1_margin']:.3f}")


if __name__ == "__main__":
    main()
