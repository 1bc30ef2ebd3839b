"""Starts the model as a weak retrieval machine, so that training need not discover one.

The hidden state begins as six parts: the token, (a projection of) the four tokens before
it, and one constant. Layer 0 moves earlier tokens into their parts with heads that look a
fixed distance back: their queries and keys come from the constant alone, and the rotary
phases put the peak at that distance. Layers 1 and 2 compare "this token and the three
before it" with "the four tokens before that position", in the slow rotary frequencies, and
copy the token found there to the output part. Everything is trained from there as usual.
"""

import math

import torch

HEAD = 64  # head size, and width of the part that holds the token
SHIFTS = 4  # earlier tokens that are kept
SHIFTED = 47  # width of each of their parts
FAST = slice(0, 9)  # rotary pairs that tell near offsets apart
MIDDLE = slice(5, 11)  # rotary pairs that prefer the last few dozen tokens
SLOW = slice(12, 32)  # rotary pairs that turn little over the whole context
CONSTANT = 255
EMBEDDING_SCALE = 0.05


def part(index):
    """Columns of part `index`: 0 is the token itself, 1 the token before it, and so on."""
    if index == 0:
        return slice(0, HEAD)
    start = HEAD + (index - 1) * SHIFTED
    return slice(start, start + SHIFTED)


def head(index):
    """Rows of a head in a projection."""
    return slice(index * HEAD, (index + 1) * HEAD)


def pairs_to_dims(pairs):
    """Head dimensions of a slice of rotary pairs."""
    index = torch.arange(HEAD // 2)[pairs]
    return torch.cat([index, index + HEAD // 2])


def offset_vectors(config, offset, strength, pairs):
    """Query and key (from the constant) whose score peaks `offset` tokens back, at strength^2 per pair."""
    half = HEAD // 2
    angle = offset * config.rope_theta ** (-torch.arange(half) / half)
    query, key = torch.zeros(HEAD), torch.zeros(HEAD)
    index = torch.arange(half)[pairs]
    query[index], query[index + half] = angle[pairs].cos() * strength, -angle[pairs].sin() * strength
    key[index] = strength
    return query, key


def structured_init(model, seed=0):
    """Overwrites all parameters of the model."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                scale = 0.0 if "down_proj" in name or "o_proj" in name else 0.5
                parameter.normal_(0.0, scale / math.sqrt(parameter.shape[1]))
        embedding = model.model.embed_tokens.weight
        tokens = torch.randn(embedding.shape[0], HEAD)
        embedding.zero_()
        embedding[:, part(0)] = EMBEDDING_SCALE * math.sqrt(HEAD) * tokens / tokens.norm(dim=1, keepdim=True)
        embedding[:, CONSTANT] = EMBEDDING_SCALE * math.sqrt(HEAD)
        layers = model.model.layers
        init_shift_layer(model.config, layers[0].self_attn)
        init_match_layer(model.config, layers[1].self_attn, skips=(0, 0))
        init_match_layer(model.config, layers[2].self_attn, skips=(0, 3))


def init_shift_layer(config, attention):
    """Head i copies the token i + 1 back into part i + 1."""
    # Token and constant have equal norms, so RMSNorm brings both to this.
    norm = math.sqrt(config.hidden_size / 2)
    group = config.num_attention_heads // config.num_key_value_heads
    attention.q_proj.weight.zero_()
    attention.k_proj.weight.zero_()
    attention.v_proj.weight.zero_()
    for kv_head in range(config.num_key_value_heads):
        attention.v_proj.weight[head(kv_head), part(0)] = torch.eye(HEAD)
    strength = math.sqrt(12.0 * math.sqrt(HEAD)) / norm
    for index in range(SHIFTS):
        query, key = offset_vectors(config, index + 1, strength, FAST)
        attention.q_proj.weight[head(index), CONSTANT] = query
        attention.k_proj.weight[head(index // group), CONSTANT] = key
        attention.o_proj.weight[part(index + 1), head(index)] = (
            EMBEDDING_SCALE * math.sqrt(HEAD) / norm * torch.eye(HEAD)[:SHIFTED])


def init_match_layer(config, attention, skips, match=6.0, recency=3.0):
    """Heads that find places with the same preceding tokens and copy what stands there.

    Heads of KV head 0 look anywhere, those of KV head 1 nearby. `skips` gives for the two
    query heads of KV head 0 how far back the compared tokens begin: 0 continues the text,
    3 looks up the last word of a question from the first position of its answer.
    """
    # A hidden state has SHIFTS narrower parts beside the token and the constant.
    unit = math.sqrt(config.hidden_size / (2 + SHIFTS * SHIFTED / HEAD))
    dims = pairs_to_dims(SLOW)
    group = config.num_attention_heads // config.num_key_value_heads
    gain = math.sqrt(match * math.sqrt(HEAD)) / unit * math.sqrt(HEAD / len(dims))
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        weight.mul_(0.2)
    nearby_query, nearby_key = offset_vectors(config, 0, math.sqrt(recency * math.sqrt(HEAD)) / unit, MIDDLE)
    for kv_head in range(config.num_key_value_heads):
        rows = head(kv_head).start + dims
        projections = [gain * torch.linalg.qr(torch.randn(HEAD, HEAD))[0][: len(dims), :SHIFTED]
                       for _ in range(SHIFTS)]
        for back, projection in enumerate(projections):
            attention.k_proj.weight[rows, part(back + 1)] += projection
        attention.v_proj.weight[head(kv_head), part(0)] += torch.eye(HEAD)
        if kv_head == 1:
            attention.k_proj.weight[head(kv_head), CONSTANT] += nearby_key
        for query_head in range(kv_head * group, (kv_head + 1) * group):
            rows = head(query_head).start + dims
            skip = skips[query_head] if kv_head == 0 else 0
            for back, projection in enumerate(projections):
                if skip == 0:
                    source = part(back)
                    attention.q_proj.weight[rows, source.start:source.start + SHIFTED] += projection
                elif back + 1 >= skip:
                    attention.q_proj.weight[rows, part(back + 1)] += projection
            if kv_head == 1:
                attention.q_proj.weight[head(query_head), CONSTANT] += nearby_query
            attention.o_proj.weight[part(0), head(query_head)] += EMBEDDING_SCALE * torch.eye(HEAD)
