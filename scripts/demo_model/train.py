"""Trains the demo model on generated conversations, on a CPU.

usage: python train.py --tokenizer tokenizer.json --out RUN [--threads 2]

Stages come from curriculum.json. RUN/checkpoint.pt is written every few minutes and
resumed from if it exists.
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset

from data import VALUE, Generator
from model import Config, Llama, rope_tables
from muon import Muon
from structured_init import structured_init


class Batches(IterableDataset):
    """Endless batches of one stage: a length by chance, and as many rows as the token count allows."""

    def __init__(self, tokenizer_path, stage, seed):
        self.tokenizer_path, self.stage, self.seed = tokenizer_path, stage, seed

    def __iter__(self):
        generator = Generator(Tokenizer.from_file(self.tokenizer_path), self.seed)
        rng = random.Random(self.seed)
        lengths, shares = zip(*((int(length), share) for length, share in self.stage["lengths"].items()))
        while True:
            length = rng.choices(lengths, shares)[0]
            rows = max(1, self.stage["tokens_per_step"] // length)
            yield tuple(torch.from_numpy(array) for array in generator.batch(rows, length))


def selected_loss(model, hidden, targets, weights, context_share, generator):
    """Weighted cross entropy on answers and a random share of the context; and the share of right answers."""
    chosen = (weights >= 1) | (torch.rand(weights.shape, generator=generator) < context_share)
    targets, weights = targets[chosen], weights[chosen]
    logits = model.logits(hidden[chosen]).float()
    weights = torch.where(weights < 1, weights / context_share, weights)
    loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    return loss, chosen, logits.detach().argmax(-1) == targets


def answer_accuracy(chosen, right, weights):
    """Accuracy on the first token of each value, and on whole answers that hold a value."""
    matrix = torch.ones_like(chosen)
    matrix[chosen] = right
    first = torch.zeros_like(chosen)
    value = weights == VALUE
    first[:, 1:] = value[:, 1:] & ~value[:, :-1]
    answer = weights >= 1
    ends = answer.clone()
    ends[:, :-1] &= ~answer[:, 1:]
    wrong = torch.cumsum((answer & ~matrix).int(), dim=1)
    exact = total = 0
    values = torch.cumsum(value.int(), dim=1)
    for row_wrong, row_values, row_ends in zip(wrong, values, ends):
        wrong_before = values_before = 0
        for end in row_ends.nonzero().flatten().tolist():
            if end == row_ends.shape[0] - 1:  # may be cut off
                break
            if row_values[end] > values_before:
                exact += int(row_wrong[end] == wrong_before)
                total += 1
            wrong_before, values_before = int(row_wrong[end]), int(row_values[end])
    return matrix[first].float().mean().item(), exact / max(total, 1)


def learning_rate_factor(step, total, warmup, final):
    """Linear warm-up, then a cosine down to `final`."""
    if step < warmup:
        return (step + 1) / warmup
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))


def optimizers(model, muon_lr, adam_lr):
    """Muon for the matrices in the layers, AdamW for embedding and norms."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    return [Muon(matrices, muon_lr), torch.optim.AdamW(others, adam_lr, betas=(0.9, 0.98), weight_decay=0.0)]


def save(path, model, optimizers_, step, tokens):
    """Writes a checkpoint; a half-written one never takes its place."""
    partial = path.with_suffix(".partial")
    torch.save({"config": vars(model.config), "model": model.state_dict(), "step": step, "tokens": tokens,
                "optimizers": [o.state_dict() for o in optimizers_]}, partial)
    os.replace(partial, path)


def stage_at(curriculum, step):
    """Index of the stage a step belongs to, and the step at which that stage ends."""
    end = 0
    for index, stage in enumerate(curriculum["stages"]):
        end += stage["steps"]
        if step < end:
            return index, end
    return None, end


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curriculum", type=Path, default=Path(__file__).with_name("curriculum.json"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    curriculum = json.loads(arguments.curriculum.read_text())
    total = sum(stage["steps"] for stage in curriculum["stages"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = arguments.out / "checkpoint.pt"

    model = Llama(Config())
    structured_init(model)
    optimizers_ = optimizers(model, curriculum["muon_lr"], curriculum["adam_lr"])
    step = tokens = 0
    if checkpoint_path.exists():
        checkpoint = torch.load(checkpoint_path)
        model.load_state_dict(checkpoint["model"])
        for optimizer, state in zip(optimizers_, checkpoint["optimizers"]):
            optimizer.load_state_dict(state)
        step, tokens = checkpoint["step"], checkpoint["tokens"]
    for optimizer in optimizers_:
        for group in optimizer.param_groups:
            group["base_lr"] = curriculum["muon_lr"] if isinstance(optimizer, Muon) else curriculum["adam_lr"]
    decoder = torch.compile(model.model, dynamic=False)
    cos, sin = rope_tables(model.config, model.config.max_position_embeddings)
    chooser = torch.Generator().manual_seed(step)

    started, last_save, recent = time.time(), time.time(), []
    while step < total:
        index, stage_end = stage_at(curriculum, step)
        stage = curriculum["stages"][index]
        loader = iter(DataLoader(Batches(arguments.tokenizer, stage, seed=step), batch_size=None, num_workers=1))
        while step < stage_end:
            factor = learning_rate_factor(step, total, curriculum["warmup"], curriculum["final_lr"])
            for optimizer in optimizers_:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor
            ids, targets, weights = next(loader)
            length = ids.shape[1]
            with torch.autocast("cpu", torch.bfloat16, enabled=stage.get("bfloat16", True)):
                hidden = decoder(ids, cos[:length], sin[:length])
                loss, chosen, right = selected_loss(model, hidden, targets, weights, 0.25, chooser)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers_:
                optimizer.step()
            model.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + ids.numel()
            recent.append((ids.numel(), loss.item(), *answer_accuracy(chosen, right, weights)))
            if step % 20 == 0:
                count, *means = (sum(column) for column in zip(*recent))
                loss_, first, exact = (value / len(recent) for value in means)
                print(f"step {step} tokens {tokens / 1e6:.2f}M length {length} loss {loss_:.3f} first {first:.3f} "
                      f"exact {exact:.3f} {count / (time.time() - started):.0f} tok/s", flush=True)
                started, recent = time.time(), []
            if time.time() - last_save > 120:
                save(checkpoint_path, model, optimizers_, step, tokens)
                last_save = time.time()
        del loader
    save(checkpoint_path, model, optimizers_, step, tokens)


if __name__ == "__main__":
    main()
