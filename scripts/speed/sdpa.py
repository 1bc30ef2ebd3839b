"""Attention of one token of each sequence by PyTorch's scaled_dot_product_attention, f16: the shapes of `cargo bench -p
sparkv-device --bench attention`, and JSON of the same form on stdout.

usage: python sdpa.py [--device cuda:0] [--rounds 7] [--head-dim 64,128] [--batch 1,16] [--tokens 32768,131072] [--smoke]

Needs requirements.txt beside it, and a GPU of NVIDIA's; `--device cpu --smoke` only shows that it runs. Every kernel that PyTorch
has for a shape is measured, with the query heads of a KV head as heads (`enable_gqa`) and as so many queries of it, which is the
same. Keys and values that are gone over again and again are more than a GPU's cache holds.
Ends with 3 where PyTorch or the GPU is missing.
"""

import argparse
import json
import statistics
import sys
import time

KV_HEADS, GROUP = 8, 4
UNCACHED_BYTES = 1 << 29
SAMPLE_SECONDS = 0.03


def arguments():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--head-dim", type=numbers)
    parser.add_argument("--batch", type=numbers)
    parser.add_argument("--tokens", type=numbers)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    usual = {"rounds": 7, "head_dim": [64, 128], "batch": [1, 16], "tokens": [32_768, 131_072]}
    tiny = {"rounds": 2, "head_dim": [64], "batch": [1, 2], "tokens": [64]}
    for name, value in (tiny if args.smoke else usual).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def missing(what):
    print(what, file=sys.stderr)
    sys.exit(3)


class Clock:
    """Seconds that work takes: by events of the GPU around calls that follow one another."""

    def __init__(self, torch, device):
        self.cuda = torch.cuda if device.type == "cuda" else None
        self.name = "events of the GPU around calls that follow one another" if self.cuda else "the clock"

    def seconds(self, times, work):
        if self.cuda is None:
            start = time.perf_counter()
            for number in range(times):
                work(number)
            return (time.perf_counter() - start) / times
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.cuda.synchronize()
        start.record()
        for number in range(times):
            work(number)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    def times(self, smoke, work):
        """How often to do it, for a measurement to take about SAMPLE_SECONDS."""
        work(0)
        seconds = max(self.seconds(1, work), 1e-7)
        return 1 if smoke else min(max(round(SAMPLE_SECONDS / seconds), 1), 2000)


class Kernel:
    """One that PyTorch has, and the seconds that it takes."""

    def __init__(self, name, chosen, work):
        self.name, self.chosen, self.work = name, chosen, work
        self.times, self.seconds = 1, []


def kernels(torch, sets, query, scale):
    """Kernels of PyTorch's, as far as they know the shape."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = torch.nn.functional.scaled_dot_product_attention
    batch, head_dim = query.shape[0], query.shape[-1]
    grouped = query.view(batch, KV_HEADS, GROUP, head_dim)

    def as_heads(number):
        keys, values = sets[number % len(sets)]
        return attend(query, keys, values, scale=scale, enable_gqa=True)

    def as_queries(number):
        keys, values = sets[number % len(sets)]
        return attend(grouped, keys, values, scale=scale)

    found, expected = [], None
    for name in ["MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION"]:
        for how, work in [("heads", as_heads), ("queries", as_queries)]:
            backend = getattr(SDPBackend, name)
            try:
                with sdpa_kernel(backend):
                    out = work(0).reshape(-1).float()
            except RuntimeError:
                # It does not know the shape, or has not enough memory.
                continue
            # The first is the plainest.
            expected = out if expected is None else expected
            if not torch.allclose(out, expected, atol=1e-2):
                sys.exit(f"{name} with groups as {how} does not give what the plainest kernel does")
            called = f"{name.removesuffix('_ATTENTION').lower()}, groups as {how}"
            found.append(Kernel(called, lambda backend=backend: sdpa_kernel(backend), work))
    return found


def measure(torch, clock, device, args, shape):
    """A result for each kernel."""
    head_dim, batch, tokens = shape
    bytes_read = 2 * batch * KV_HEADS * tokens * head_dim * 2
    count = 1 if args.smoke else -(-UNCACHED_BYTES // bytes_read)
    make = lambda heads, rows: torch.randn(batch, heads, rows, head_dim, device=device, dtype=torch.float16)
    sets = [(make(KV_HEADS, tokens), make(KV_HEADS, tokens)) for _ in range(count)]
    found = kernels(torch, sets, make(KV_HEADS * GROUP, 1), head_dim**-0.5)
    for number in range(1 + args.rounds):
        for kernel in found:
            with kernel.chosen():
                if number == 0:
                    kernel.times = clock.times(args.smoke, kernel.work)
                else:
                    kernel.seconds.append(clock.seconds(kernel.times, kernel.work))
    for kernel in found:
        seconds = kernel.seconds
        median = statistics.median(seconds)
        yield {
            "head_dim": head_dim,
            "batch": batch,
            "tokens": tokens,
            "rows": "f16",
            "kernel": kernel.name,
            "bytes": bytes_read,
            "seconds": {"median": median, "fastest": min(seconds), "slowest": max(seconds)},
            "bytes_per_second": bytes_read / median,
        }


def main():
    args = arguments()
    try:
        import torch
    except ImportError as error:
        missing(f"PyTorch is missing ({error}): pip install -r scripts/speed/requirements.txt")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        missing(f"PyTorch {torch.__version__} finds no GPU of NVIDIA's that it can use")
    clock = Clock(torch, device)
    results, left_out = [], []
    with torch.inference_mode():
        for head_dim in args.head_dim:
            for batch in args.batch:
                for tokens in args.tokens:
                    what = f"head_dim {head_dim}, batch {batch}, {tokens} tokens"
                    print("measuring", what, file=sys.stderr)
                    try:
                        results += measure(torch, clock, device, args, (head_dim, batch, tokens))
                    except torch.OutOfMemoryError as error:
                        torch.cuda.empty_cache()
                        left_out.append(f"{what}: {str(error).splitlines()[0]}")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    report = {"bench": "sdpa", "gpu": gpu, "clock": clock.name, "rounds": args.rounds, "torch": torch.__version__}
    print(json.dumps(report | {"results": results, "left_out": left_out}, indent=2))


if __name__ == "__main__":
    main()
