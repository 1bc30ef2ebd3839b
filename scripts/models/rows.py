"""Rows of one KV head of SmolLM2-135M-Instruct (Q4_1), and what each format makes of them, by numpy and transformers.
python rows.py FOLDER GGUF TEXT > rows.safetensors

Keys (after their rotation by position) and values of TOKENS tokens of TEXT, and the last WINDOW queries of the head's group, all
rounded to f16; and the rows between SINKS and the window as they are decoded. The formats are those of docs/cache-layout.md, written
anew here: nothing of the Rust code is used.
"""
import heapq, sys
import numpy as np, torch
from safetensors.numpy import save
from transformers import AutoModelForCausalLM, AutoTokenizer

SINKS, WINDOW, TOKENS, LAYER, HEAD = 4, 32, 4 + 96 + 32, 12, 1
folder, name, text = sys.argv[1:4]
tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager")
config = model.config
D, GROUP = config.head_dim, config.num_attention_heads // config.num_key_value_heads

import transformers.models.llama.modeling_llama as llama
seen, rotate = [], llama.apply_rotary_pos_emb
def noted(q, k, *args, **kwargs):
    seen.append(rotate(q, k, *args, **kwargs))
    return seen[-1]
llama.apply_rotary_pos_emb = noted
ids = tok(open(text).read(), add_special_tokens=False, return_tensors="pt").input_ids[:, :TOKENS]
with torch.no_grad():
    cache = model(ids, use_cache=True).past_key_values
f16 = lambda x: np.asarray(x, np.float16).astype(np.float32)
queries = f16(seen[LAYER][0][0, HEAD * GROUP:(HEAD + 1) * GROUP, -WINDOW:].numpy())  # (group, window, D)
keys, values = f16(cache.layers[LAYER].keys[0, HEAD].numpy()), f16(cache.layers[LAYER].values[0, HEAD].numpy())
q = queries.reshape(-1, D)

def hadamard(n):
    h = np.ones((1, 1), np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n).astype(np.float32)
R = hadamard(D)
STEP = {2: .9957, 3: .586, 4: .3352, 5: .1881, 6: .1041}
ERROR = {0: 1.0, 2: .1188, 4: .01154, 6: .00104}

def codes(z, bits):
    half = 1 << (bits - 1)
    return (np.clip(np.floor(z / STEP[bits]), -half, half - 1) + .5) * STEP[bits]
def encode(u, bits, weight=1.0):
    """Rows of unit variance: bits a channel, one f16 scale a row by least squares under the channels' weights."""
    bits = np.asarray(bits)
    scale = np.sqrt((u[:, bits > 0] ** 2).mean(-1, keepdims=True)) + 1e-9
    def at(scale):
        out = np.zeros_like(u)
        for b in set(bits[bits > 0].tolist()):
            out[:, bits == b] = codes(u[:, bits == b] / scale, b)
        return out
    for _ in range(2):
        got = at(scale)
        scale = np.abs((weight * u * got).sum(-1, keepdims=True) / np.maximum((weight * got * got).sum(-1, keepdims=True), 1e-12)) + 1e-9
    return f16(scale) * at(scale)
def rotated(bits):
    return lambda x: encode((x - x.mean(0)) @ R, [bits] * D) @ R + x.mean(0)
def allot(costs, total, widths=(0, 2, 4, 6), group=8):
    order = np.argsort(-costs, kind="stable")
    sets, left = [order[i:i + group] for i in range(0, len(costs), group)], total
    level = [0] * len(sets)
    def best(i):
        cost, at = costs[sets[i]].sum(), widths[level[i]]
        steps = [(cost * (ERROR[at] - ERROR[o]) / ((o - at) * group), o) for o in widths if o > at and (o - at) * group <= left]
        return max(steps) if steps else None
    heap = [(-step[0], i, step[1]) for i in range(len(sets)) if (step := best(i))]
    heapq.heapify(heap)
    while heap:
        _, i, to = heapq.heappop(heap)
        price = (to - widths[level[i]]) * group
        if price <= left:
            left -= price
            level[i] = widths.index(to)
        if (step := best(i)):
            heapq.heappush(heap, (-step[0], i, step[1]))
    bits = np.zeros(len(costs), int)
    for i, channels in enumerate(sets):
        bits[channels] = widths[level[i]]
    return bits
def by_queries(bits):
    def decode(x):
        energy = (q * q).mean(0) + 1e-9
        centred = x - x.mean(0)
        deviation = centred.std(0) + 1e-9
        costs = energy * deviation ** 2
        return encode(centred / deviation, allot(costs, int(bits * D)), costs) * deviation + x.mean(0)
    return decode
def int8(x):
    scale = f16(np.abs(x).max(-1, keepdims=True) / 127) + 1e-12
    return np.clip(np.round(x / scale), -127, 127) * scale
def spark(ratio, keys):
    """SparK's rule; of keys, in the domain of their query energy, without the mean."""
    kept = D - int(ratio * D)
    def decode(x):
        n = np.sqrt(np.sqrt((q ** 2).mean(0)) + 1e-9) if keys else np.ones(D, np.float32)
        mean = x.mean(0) if keys else 0
        y = (x - mean) * n
        keep = np.zeros(y.shape, bool)
        np.put_along_axis(keep, np.argsort(-np.abs(y), -1)[:, :kept], True, -1)
        rest = np.where(keep, 0, y)
        fill = np.sqrt((rest ** 2).sum(-1, keepdims=True) / (D - kept)) if keys else np.abs(rest).sum(-1, keepdims=True) / (D - kept)
        scale = np.abs(y).max(-1, keepdims=True) / 127
        return np.where(keep, np.round(y / scale) * scale, np.sign(y) * fill) / n + mean
    return decode

out = {"keys": keys, "values": values, "queries": queries}
for setting, of_keys, of_values in [
    ("int8", int8, int8),
    ("int4-uniform", rotated(4), rotated(4)),
    ("int3-uniform", rotated(3), rotated(3)),
    ("int4", by_queries(4), None),
    ("int3", by_queries(3), None),
    ("spark-75", spark(.75, True), spark(.75, False)),
]:
    # Means and deviations are those of all rows behind the sinks.
    for side, rows, decode in [("keys", keys, of_keys), ("values", values, of_values)]:
        if decode:
            out[f"{setting}.{side}"] = decode(rows[SINKS:])[:TOKENS - SINKS - WINDOW].astype(np.float32)
sys.stdout.buffer.write(save({name: np.ascontiguousarray(tensor) for name, tensor in out.items()}))
