"""What transformers makes of configurations that leave fields out, say null, or say the same in other words, and where its `generate`
stops. python variations.py > crates/sparkv-models/tests/golden/variations.json

Of a configuration that transformers refuses and sparkv is to take (`error`), it is what transformers makes of the same in other
words. One that sparkv is to refuse says in `refused` what its message must name."""
import json
import os
import tempfile

import transformers
from transformers import AutoConfig, GenerationConfig

transformers.logging.set_verbosity_error()

FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
BASE = {
    "vocab_size": 1600, "hidden_size": 768, "intermediate_size": 960, "num_hidden_layers": 3, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-4, "hidden_act": "silu",
    "rope_theta": 7000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "sliding_window": 96,
    "use_sliding_window": False, "max_window_layers": 3, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": True, "eos_token_id": 7,
}
# Changes that are the same for all families: the change, and what the message about it must name, if it is to be refused.
CHANGES = [
    ({"eos_token_id": [7, 9]}, None), ({"eos_token_id": []}, None), ({"eos_token_id": 0}, None),
    ({"eos_token_id": "</s>"}, "eos_token_id"), ({"eos_token_id": [[7]]}, "eos_token_id"), ({"eos_token_id": 7.5}, "eos_token_id"),
    ({"hidden_act": "swish"}, None), ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rope_theta": 7000}, None), ({"rope_scaling": {}}, None), ({"rope_scaling": {"type": "linear", "factor": 4}}, None),
    ({"rope_scaling": {"rope_type": "default"}}, None), ({"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 9000.0}}, None),
    ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 9000.0}}, None),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}}, None),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"), ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
    ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "rope_scaling"),
    ({"rope_theta": float("inf")}, "rope_theta"), ({"rms_norm_eps": float("nan")}, "rms_norm_eps"), ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ({"time_step_limit": [0.0, float("inf")], "unknown": float("nan"), "lowest": float("-inf")}, None),
    ({"num_attention_heads": 30}, "num_key_value_heads"), ({"vocab_size": "many"}, "vocab_size"),
    ({"num_hidden_layers": -1}, "num_hidden_layers"), ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    ({"use_sliding_window": True, "max_window_layers": 0}, None),
]


def shape(text):
    """What transformers reads from a config.json."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w") as file:
            file.write(text)
        c = AutoConfig.from_pretrained(folder)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    rope, eos = c.rope_parameters, c.eos_token_id
    if rope["rope_theta"] is None:
        raise ValueError("a configuration of which no model can be made")
    # Only these have windows; others take the field along.
    window = c.sliding_window if c.model_type == "mistral" or getattr(c, "use_sliding_window", False) and c.model_type != "llama" else None
    biases = {"llama": [c.to_dict().get("attention_bias")] * 2, "mistral": [False] * 2, "qwen2": [True, False],
              "qwen3": [c.to_dict().get("attention_bias")] * 2}[c.model_type]
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size,
        "layers": c.num_hidden_layers, "query_heads": c.num_attention_heads, "kv_heads": c.num_key_value_heads,
        "head_dim": head_dim, "context_length": c.max_position_embeddings, "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": rope["rope_theta"], "rope_type": rope["rope_type"], "rope_factor": rope.get("factor"),
        "rope_original": rope.get("original_max_position_embeddings"), "sliding_window": window,
        "attention_bias": biases[0], "attention_output_bias": biases[1],
        "mlp_bias": c.model_type == "llama" and c.mlp_bias, "tied": c.tie_word_embeddings,
        "eos": [] if eos is None else eos if isinstance(eos, list) else [eos],
    }


def fields(family, change):
    """The base with some fields replaced; one whose value is ... is left out."""
    found = {**BASE, **change, "architectures": [FAMILIES[family] + "ForCausalLM"], "model_type": family}
    return {name: value for name, value in found.items() if value is not ...}


def differences(family, change):
    """What transformers makes of a change, as far as it is not what it makes of the base."""
    base, found = shape(json.dumps(fields(family, {}))), shape(json.dumps(fields(family, change)))
    return {name: value for name, value in found.items() if value != base[name]}


def config_case(family, change, refused=None, means=None, mark=False):
    """`means` is what stands for `change` where transformers refuses that."""
    case = {"family": family, "change": json.dumps({name: value for name, value in change.items() if value is not ...}),
            "without": list(change), "mark": mark}
    if refused:
        return {**case, "refused": refused}
    try:
        return {**case, "transformers": differences(family, change if means is None else means)}
    except Exception as error:
        return {**case, "error": type(error).__name__}


def configs():
    for family in FAMILIES:
        yield config_case(family, {})
        for field in BASE:
            yield config_case(family, {field: ...})
            null = config_case(family, {field: None})
            if "error" in null:
                # Null means one head of keys and values for each of queries, and the default everywhere else.
                means = BASE["num_attention_heads"] if field == "num_key_value_heads" else ...
                null = {**config_case(family, {field: None}, means={field: means}), "error": null["error"]}
            yield null
        # Transformers keeps -1 as a token that never comes, and refuses a mark before the text.
        yield config_case(family, {"eos_token_id": -1}, means={"eos_token_id": None})
        yield config_case(family, {"eos_token_id": [-1, 7]}, means={"eos_token_id": [7]})
        yield config_case(family, {}, mark=True)
        yield config_case(family, {field: ... for field in BASE})
        for change, refused in CHANGES:
            yield config_case(family, change, refused)


# A model that costs nothing, but for its ends.
SMALL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 32,
         "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
# Tokens of the tokenizer that all cases of ends have: text, and whether it is special.
TOKENS = [("<unk>", True), ("<s>", True), ("</s>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<|endoftext|>", True),
          ("<|eot_id|>", True), ("<|eom_id|>", True), ("<end_of_turn>", True), ("<|end|>", False), ("<|custom|>", True),
          ("<|end_of_text|>", True)]
# Texts that end a turn wherever they are special.
KNOWN = ["</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end_of_text|>", "<|end|>"]


def stops(config, generation):
    """Where transformers' generate stops."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config, file)
        if generation is not None:
            with open(os.path.join(folder, "generation_config.json"), "w") as file:
                json.dump(generation, file)
            found = GenerationConfig.from_pretrained(folder)
        else:
            found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    eos = found.eos_token_id
    return [id for id in ([] if eos is None else eos if isinstance(eos, list) else [eos]) if id >= 0]


def ends():
    """Ends of turns from three files and the tokens that the tokenizer has. `ends` is where sparkv is to stop: at all of them."""
    ids = {text: id for id, (text, _) in enumerate(TOKENS)}
    in_config = [{"eos_token_id": None}, {"eos_token_id": 10}, {"eos_token_id": [10, 20]}, {"eos_token_id": -1}]
    in_generation = [None, {}, {"eos_token_id": None}, {"eos_token_id": 11}, {"eos_token_id": [21, 10]}, {"eos_token_id": -1}]
    in_tokenizer = [None, {}, {"eos_token": None}, {"eos_token": "<|custom|>"}, {"eos_token": {"content": "<|custom|>", "lstrip": False}},
                    {"eos_token": "not a token"}]
    kept = [["<|custom|>"], ["<|custom|>", "<|im_start|>", "<|im_end|>"], ["<|custom|>", "<|end|>"], [text for text, _ in TOKENS]]
    number = 0
    for config in in_config:
        for generation in in_generation:
            for tokenizer in in_tokenizer:
                # All pairs of the first three; the tokens take turns.
                tokens = kept[number % len(kept)]
                number += 1
                stated = lambda eos: [] if eos is None else [id for id in (eos if isinstance(eos, list) else [eos]) if id >= 0]
                named = (tokenizer or {}).get("eos_token")
                named = named["content"] if isinstance(named, dict) else named
                special = [ids[text] for text in KNOWN if text in tokens and dict(TOKENS)[text]]
                ours = {*stated(config["eos_token_id"]), *stated((generation or {}).get("eos_token_id")),
                        *([ids[named]] if named in ids else []), *special}
                yield {
                    "config": config, "generation_config": generation, "tokenizer_config": tokenizer, "tokens": tokens,
                    "transformers": stops({**SMALL, **config}, generation), "ends": sorted(ours),
                }


def lines(cases):
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"


bases = {family: {"config": fields(family, {}), "shape": shape(json.dumps(fields(family, {})))} for family in FAMILIES}
tokens = [{"id": id, "content": text, "special": special} for id, (text, special) in enumerate(TOKENS)]
print(f'{{"transformers": "{transformers.__version__}", "bases": {json.dumps(bases)},\n"configs": {lines(configs())},')
print(f'"small": {json.dumps(SMALL)},\n"tokens": {json.dumps(tokens)},\n"ends": {lines(ends())}}}')
