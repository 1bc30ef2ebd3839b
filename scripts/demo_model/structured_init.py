"""Starts the model as a weak retrieval machine, so that training need not discover one.

The hidden state begins as five parts: the token, the three tokens before it, and
one constant. Layer 0 moves earlier tokens into their parts with heads that look a
fixed distance back: their queries and keys come from the constant alone, and the
rotary phases put the peak at that distance. Later layers compare "this token and
the two before it" with "the three tokens before that position", in the slow rotary
frequencies, and copy the token found there to the output part. Everything is
trained from there as usual.
"""

import math

import torch

PART = 64  # width of a part; also the head size
FAST = slice(0, 9)  # rotary pairs that tell near offsets apart
MIDDLE = slice(5, 11)  # rotary pairs that prefer the last few dozen tokens
SLOW = slice(12, 32)  # rotary pairs that turn little over the whole context
CONSTANT = 255
EMBEDDING_SCALE = 0.05


def part(index):
    """Columns of part `index`: 0 is the token itself, 1 the token before it, and so on."""
    return slice(index * PART, min((index + 1) * PART, CONSTANT))


def phases(config):
    """Rotary angle per position of each pair."""
    half = config.head_dim // 2
    return config.rope_theta ** (-torch.arange(half) / half)


def pairs_to_dims(pairs, half=PART // 2):
    """Head dimensions of a slice of rotary pairs."""
    index = torch.arange(half)[pairs]
    return torch.cat([index, index + half])


def offset_vectors(config, offset, strength, pairs):
    """Query and key (from the constant) whose score peaks `offset` tokens back."""
    half = config.head_dim // 2
    angle = phases(config) * offset
    query, key = torch.zeros(config.head_dim), torch.zeros(config.head_dim)
    index = torch.arange(half)[pairs]
    query[index], query[index + half] = angle[pairs].cos() * strength, -angle[pairs].sin() * strength
    key[index] = strength
    return query, key


def normalized_constant(parts):
    """The constant channel after RMSNorm, when it and `parts` parts have equal norms."""
    return math.sqrt(4 * PART / (parts + 1))


def structured_init(model, seed=0):
    """Overwrites all parameters of the model."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                scale = 0.0 if "down_proj" in name or "o_proj" in name else 0.5
                parameter.normal_(0.0, scale / math.sqrt(parameter.shape[1]))
        embedding = model.model.embed_tokens.weight
        embedding.zero_()
        embedding[:, part(0)].normal_(0.0, 1.0)
        embedding[:, part(0)] *= math.sqrt(PART) / embedding[:, part(0)].norm(dim=1, keepdim=True)
        embedding[:, CONSTANT] = math.sqrt(PART)
        embedding *= EMBEDDING_SCALE
        layers = model.model.layers
        init_shift_layer(model.config, layers[0].self_attn)
        for layer in layers[1:3]:
            init_match_layer(model.config, layer.self_attn)


def head(index):
    """Rows of a head in a projection."""
    return slice(index * PART, (index + 1) * PART)


def init_shift_layer(config, attention):
    """Heads 0, 1 and 2 copy the tokens 1, 2 and 3 back into parts 1, 2 and 3."""
    constant = normalized_constant(1)
    group = config.num_attention_heads // config.num_key_value_heads
    attention.k_proj.weight.zero_()
    attention.v_proj.weight.zero_()
    token = torch.eye(PART)
    for kv_head in range(config.num_key_value_heads):
        attention.v_proj.weight[head(kv_head), part(0)] = token
    strength = math.sqrt(12.0 * math.sqrt(config.head_dim)) / constant
    for index in range(3):
        query, key = offset_vectors(config, index + 1, strength, FAST)
        attention.q_proj.weight[head(index)] = 0.0
        attention.q_proj.weight[head(index), CONSTANT] = query
        attention.k_proj.weight[head(index // group), CONSTANT] = key
        target = part(index + 1)
        width = target.stop - target.start
        gain = EMBEDDING_SCALE / constant * math.sqrt(PART)
        attention.o_proj.weight[target, head(index)] = gain * token[:width]


def init_match_layer(config, attention, match=4.0, recency=3.0):
    """Heads that find earlier places with the same preceding tokens; group 0 anywhere, group 1 nearby."""
    dims = pairs_to_dims(SLOW)
    constant = normalized_constant(4)
    group = config.num_attention_heads // config.num_key_value_heads
    gain = math.sqrt(match * math.sqrt(config.head_dim)) / constant * math.sqrt(PART / len(dims))
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        weight.mul_(0.2)
    nearby_query, nearby_key = offset_vectors(
        config, 0, math.sqrt(recency * math.sqrt(config.head_dim)) / constant, MIDDLE)
    for kv_head in range(config.num_key_value_heads):
        rows = head(kv_head).start + dims
        shared = [torch.linalg.qr(torch.randn(PART, PART))[0][: len(dims)] * gain for _ in range(3)]
        for back, projection in enumerate(shared):
            source = part(back + 1)
            attention.k_proj.weight[rows, source] += projection[:, : source.stop - source.start]
        attention.v_proj.weight[head(kv_head), part(0)] += torch.eye(PART)
        if kv_head == 1:
            attention.k_proj.weight[head(kv_head), CONSTANT] += nearby_key
        for query_head in range(kv_head * group, (kv_head + 1) * group):
            rows = head(query_head).start + dims
            for back, projection in enumerate(shared):
                attention.q_proj.weight[rows, part(back)] += projection
            if kv_head == 1:
                attention.q_proj.weight[head(query_head), CONSTANT] += nearby_query
            attention.o_proj.weight[part(0), head(query_head)] += EMBEDDING_SCALE * torch.eye(PART)
