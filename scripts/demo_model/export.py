"""Writes a checkpoint as a Hugging Face model folder, weights in float16.

usage: python export.py --checkpoint RUN/checkpoint.pt --tokenizer tokenizer.json --out ../../models/demo
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_json(path, value):
    """Writes indented JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    checkpoint = torch.load(arguments.checkpoint)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    bos, end = tokenizer.token_to_id("<|bos|>"), tokenizer.token_to_id("<|end|>")
    config = dict(checkpoint["config"])
    config["vocab_size"] = tokenizer.get_vocab_size()
    weights = {name: tensor.half() for name, tensor in checkpoint["model"].items()}
    # The trained embedding may have spare rows that no token uses.
    embedding = "model.embed_tokens.weight"
    weights[embedding] = weights[embedding][: config["vocab_size"]].clone()

    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, arguments.out / "model.safetensors", metadata={"format": "pt"})
    rope_theta = config.pop("rope_theta")
    write_json(arguments.out / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **config,
        "rope_theta": rope_theta,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "float16",
        "bos_token_id": bos,
        "eos_token_id": end,
    })
    # It finds what was said, so that the likeliest token is the right one.
    generation = {"bos_token_id": bos, "do_sample": False, "eos_token_id": end}
    write_json(arguments.out / "generation_config.json", generation)
    write_json(arguments.out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    })
    shutil.copy(arguments.tokenizer, arguments.out / "tokenizer.json")
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: step {checkpoint['step']}, {checkpoint['tokens'] / 1e6:.1f}M tokens, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
