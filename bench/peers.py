#!/usr/bin/env python3
"""What PyTorch and Hugging Face transformers take on the GPU for what longspan's kernels do.

Everything is measured in this run, on this GPU, at the shape of Llama 3 8B in bfloat16: dense
attention of a decoded token (scaled_dot_product_attention with its flash and cuDNN kernels),
torch.topk, and the ESA decode step and prefill chunk (arXiv 2502.14477) written in PyTorch. Then
`longspan bench kernels` runs, and its times stand beside. With --transformers a Llama 3 8B of
random weights decodes behind a StaticCache, and `longspan bench decode` beside it.

    bench/peers.py --longspan build/cuda/launcher/longspan --context 262144

Times are medians between CUDA events, of inputs that rotate through more memory than the L2 cache
holds. They are replays of CUDA graphs, so that Python is not what is measured; what cannot be
recorded as a graph says `eager`. PyTorch's ESA is given an advantage: its keys are taken as rotated
already, longspan rotates them as it reads them.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SCORE_DIM = 128
INITIAL, LOCAL, TOP_K = 128, 4096, 2048
BLOCK, CHUNK = 512, 4096
PROXIMITY = 1
GROUP = HEADS // KV_HEADS
ROTATED_BYTES = 4 << 30  # of all inputs of one measurement
REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def fail(message):
    sys.exit(f"peers.py: {message}")


def import_torch():
    try:
        import torch
    except ImportError as error:
        fail(f"PyTorch is needed: pip install torch ({error})")
    if not torch.cuda.is_available():
        fail("PyTorch sees no NVIDIA GPU: see nvidia-smi, and whether "
             f"torch {torch.__version__} is a build with CUDA")
    return torch


class Timer:
    """Medians over `repeat` runs of all variants of one operation."""

    def __init__(self, torch, repeat):
        self.torch = torch
        self.repeat = repeat

    def measure(self, run, variants):
        """Seconds of one run(variant), and how they were measured."""
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for _ in range(2):
                for variant in range(variants):
                    run(variant)
        stream.synchronize()
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                for variant in range(variants):
                    run(variant)
            return self.median(graph.replay) / variants, "graph"
        except RuntimeError as error:
            print(f"  not as a graph: {first_line(error)}", file=sys.stderr)
            self.torch.cuda.synchronize()

        def eagerly():
            for variant in range(variants):
                run(variant)

        return self.median(eagerly) / variants, "eager"

    def median(self, launch):
        seconds = []
        for i in range(self.repeat + 2):
            begin = self.torch.cuda.Event(enable_timing=True)
            end = self.torch.cuda.Event(enable_timing=True)
            begin.record()
            launch()
            end.record()
            end.synchronize()
            if i >= 2:
                seconds.append(begin.elapsed_time(end) * 1e-3)
        return statistics.median(seconds)


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def variants_of(bytes_each, most=8):
    return max(2, min(most, ROTATED_BYTES // max(1, bytes_each)))


def normal(torch, *shape, dtype=None):
    return torch.randn(*shape, dtype=dtype or torch.bfloat16, device="cuda")


class Results:
    """Rows of (operation, peer, seconds, how), and what of longspan each is to be held against."""

    def __init__(self):
        self.rows = []

    def add(self, operation, peer, timing, against):
        seconds, how = timing
        self.rows.append({"operation": operation, "peer": peer, "seconds": seconds, "how": how,
                          "against": against})
        print(f"{operation:44} {peer:34} {format_time(seconds):>12}  {how}", file=sys.stderr)

    def refuse(self, operation, peer, error):
        print(f"{operation:44} {peer:34} {'not possible':>12}: {first_line(error)}",
              file=sys.stderr)


def attempt(torch, results, operation, peer, against, measure):
    """One row; what a version of PyTorch or this GPU cannot do is no reason to give up the rest."""
    try:
        results.add(operation, peer, measure(), against)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        results.refuse(operation, peer, error)
    finally:
        torch.cuda.empty_cache()


def bench_dense_decode(torch, timer, results, context):
    """One token's dense attention. A group's heads may stand as queries of one KV head, which is
    the same where nothing is masked, and what a careful user would write."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
    layouts = {"grouped queries": (KV_HEADS, GROUP, False), "enable_gqa": (HEADS, 1, True)}
    variants = variants_of(2 * context * KV_HEADS * HEAD_DIM * 2)
    keys = [normal(torch, 1, KV_HEADS, context, HEAD_DIM) for _ in range(variants)]
    values = [normal(torch, 1, KV_HEADS, context, HEAD_DIM) for _ in range(variants)]
    for backend_name, backend in backends.items():
        for layout_name, (heads, length, gqa) in layouts.items():
            query = normal(torch, 1, heads, length, HEAD_DIM)

            def run(variant):
                with sdpa_kernel(backend):
                    return scaled_dot_product_attention(query, keys[variant], values[variant],
                                                        enable_gqa=gqa)

            attempt(torch, results, f"dense attention of a token, {context}",
                    f"torch SDPA {backend_name}, {layout_name}", ("decode attention", 1, context),
                    lambda: timer.measure(run, variants))


def bench_topk(torch, timer, results):
    for rows, count in ((1, 262144), (1, 1048576), (16, 262144)):
        variants = variants_of(4 * rows * count, most=64)
        scores = [normal(torch, rows, count, dtype=torch.float32) for _ in range(variants)]
        attempt(torch, results, f"top-{TOP_K} of {rows} x {count}", "torch.topk",
                ("top-k", rows, count),
                lambda: timer.measure(lambda v: torch.topk(scores[v], TOP_K, sorted=False),
                                      variants))


class EsaLayer:
    """Keys, values and score keys of one layer, and ESA over them in PyTorch."""

    def __init__(self, torch, context):
        self.torch = torch
        self.context = context
        self.keys = normal(torch, context, KV_HEADS, HEAD_DIM)
        self.values = normal(torch, context, KV_HEADS, HEAD_DIM)
        self.score_keys = normal(torch, context, SCORE_DIM)
        self.initial = torch.arange(INITIAL, device="cuda")

    def select(self, scores, first):
        """The TOP_K positions of scores that begin at position `first`."""
        spread = self.torch.nn.functional.max_pool1d(scores[None], 2 * PROXIMITY + 1, stride=1,
                                                     padding=PROXIMITY)[0]
        return self.torch.topk(spread, TOP_K, sorted=False).indices + first

    def gather(self, selected, near_begin, near_end):
        """Keys and values [1, kv_heads, n, head_dim]: initial, selected and near ones."""
        rows = self.torch.cat([
            self.initial, selected,
            self.torch.arange(near_begin, near_end, device="cuda")])
        keys = self.keys.index_select(0, rows)
        values = self.values.index_select(0, rows)
        return keys.transpose(0, 1)[None], values.transpose(0, 1)[None]

    def decode(self, query, score_query):
        """query [kv_heads, group, head_dim], score_query [score_dim] of the newest token."""
        near = self.context - 1 - LOCAL
        scores = self.torch.mv(self.score_keys[INITIAL:near], score_query)
        selected = self.select(scores, INITIAL)
        keys, values = self.gather(selected, near, self.context)
        return self.torch.nn.functional.scaled_dot_product_attention(query[None], keys, values)

    def scores_of_block(self, score_queries, end, keys_at_once=32768):
        """max over queries of (f - the query's own maximum), in two passes over parts of the keys,
        since all products at once would be a quarter of a gigabyte a block."""
        torch = self.torch
        middle = self.score_keys[INITIAL:end]
        parts = middle.split(keys_at_once)
        maxima = torch.stack([(score_queries @ part.T).amax(1) for part in parts]).amax(0)
        return torch.cat([(score_queries @ part.T - maxima[:, None]).amax(0) for part in parts])

    def prefill(self, queries, score_queries, mask):
        """The last chunk: queries [chunk, kv_heads, group, head_dim], score_queries
        [chunk, score_dim]; mask [group * block, keys] of a block, causal within it."""
        outputs = []
        for begin in range(0, CHUNK, BLOCK):
            position = self.context - CHUNK + begin
            near = position - LOCAL
            scores = self.scores_of_block(score_queries[begin:begin + BLOCK], near)
            keys, values = self.gather(self.select(scores, INITIAL), near, position + BLOCK)
            # Group by group, so that heads of a group are queries of their KV head.
            block = queries[begin:begin + BLOCK].permute(1, 2, 0, 3).reshape(
                1, KV_HEADS, GROUP * BLOCK, HEAD_DIM)
            outputs.append(self.torch.nn.functional.scaled_dot_product_attention(
                block, keys, values, attn_mask=mask))
        return outputs


def block_mask(torch):
    """What a block's queries may see: all but what of the block comes behind them."""
    own = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device="cuda").tril()
    before = torch.ones(BLOCK, INITIAL + TOP_K + LOCAL, dtype=torch.bool, device="cuda")
    return torch.cat([before, own], dim=1).repeat(GROUP, 1)


def bench_esa(torch, timer, results, context):
    if context < INITIAL + LOCAL + TOP_K + 2 * CHUNK:
        results.refuse(f"ESA, {context}", "torch", ValueError("the context is too short"))
        return
    layer_bytes = context * 2 * (2 * KV_HEADS * HEAD_DIM + SCORE_DIM)
    layers = [EsaLayer(torch, context) for _ in range(variants_of(layer_bytes, most=4))]
    query, score_query = normal(torch, KV_HEADS, GROUP, HEAD_DIM), normal(torch, SCORE_DIM)
    attempt(torch, results, f"ESA attention of a token, {context}", "torch",
            ("decode attention", 1, context),
            lambda: timer.measure(lambda v: layers[v].decode(query, score_query), len(layers)))
    queries = normal(torch, CHUNK, KV_HEADS, GROUP, HEAD_DIM)
    score_queries = normal(torch, CHUNK, SCORE_DIM)
    mask = block_mask(torch)
    attempt(torch, results, f"ESA attention of a chunk of {CHUNK}, {context}", "torch",
            ("prefill attention", 1, context),
            lambda: timer.measure(lambda v: layers[v].prefill(queries, score_queries, mask),
                                  len(layers)))


def make_transformers_model(torch, context, steps):
    """Llama 3 8B of random weights, and a StaticCache with noise for `context` tokens."""
    try:
        from transformers import AutoModelForCausalLM, LlamaConfig, StaticCache
    except ImportError as error:
        fail(f"--transformers needs transformers: pip install transformers ({error})")
    with open(os.path.join(REPOSITORY, "configs/shapes/llama3-8b/config.json")) as file:
        shape = json.load(file)
    shape = {key: value for key, value in shape.items()
             if key not in ("architectures", "model_type", "torch_dtype")}
    config = LlamaConfig(**{**shape, "max_position_embeddings": context + steps})
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16,
                                                 attn_implementation="sdpa").eval()
    cache = StaticCache(config=config, max_cache_len=context + steps)
    return model, cache


def bench_transformers(torch, timer, results, context):
    steps = timer.repeat + 16
    operation = f"decode of the whole model, {context}"

    def measure():
        model, cache = make_transformers_model(torch, context, steps)
        ids = torch.ones(1, 1, dtype=torch.long, device="cuda")
        position = torch.zeros(1, 1, dtype=torch.long, device="cuda")

        def step(_):
            more = {}
            if not hasattr(cache.layers[0], "cumulative_length"):  # older versions
                more["cache_position"] = position[0]
            return model(input_ids=ids, position_ids=position, past_key_values=cache,
                         use_cache=True, logits_to_keep=1, **more).logits

        with torch.inference_mode():
            step(0)  # makes the cache's memory
            for layer in cache.layers:
                layer.keys.normal_()
                layer.values.normal_()
                if hasattr(layer, "cumulative_length"):
                    layer.cumulative_length.fill_(context)
            position.fill_(context)
            return timer.measure(step, 1)

    attempt(torch, results, operation, "transformers Llama, StaticCache", ("decode", 1, context),
            measure)


def run_longspan(binary, arguments):
    command = [binary, "bench", *arguments, "--format", "json"]
    print("running", " ".join(command), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(command)}: exit code {done.returncode}")
    return json.loads(done.stdout)


def longspan_times(args):
    """Seconds of longspan by (name, batch, context), and what it says of the device."""
    contexts = ",".join(str(context) for context in args.context)
    reports = [run_longspan(args.longspan, ["kernels", "--context", contexts])]
    if args.transformers:
        reports.append(run_longspan(args.longspan, [
            "decode", "--context", contexts,
            "--model", os.path.join(REPOSITORY, "configs/shapes/llama3-8b"),
            "--set", "load_format=dummy", "--set", "device=cuda"]))
    times = {}
    for report in reports:
        for row in report["rows"]:
            times[row["name"], row["batch"], row["context"]] = row["median_us"] * 1e-6
    return times, f"{reports[0]['version']} on {reports[0]['device']}, {reports[0]['software']}"


def format_time(seconds):
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds:.3f} s"


def print_table(rows, times):
    print(f"{'operation':44} {'peer':34} {'time':>12} {'':6} {'longspan':>12} {'ratio':>8}")
    for row in rows:
        own = times.get(row["against"], math.nan)
        beside = ("", "") if math.isnan(own) else (format_time(own), f"{row['seconds'] / own:.2f}x")
        print(f"{row['operation']:44} {row['peer']:34} {format_time(row['seconds']):>12} "
              f"{row['how']:6} {beside[0]:>12} {beside[1]:>8}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longspan", default=os.path.join(REPOSITORY,
                                                           "build/cuda/launcher/longspan"),
                        help="a longspan built with the preset cuda; `none` for the peers alone "
                        "(default: %(default)s)")
    parser.add_argument("--context", type=positive_list, default=[262144],
                        help="tokens, several separated by commas (default: 262144)")
    parser.add_argument("--repeat", type=positive, default=21,
                        help="runs that a median is over (default: %(default)s)")
    parser.add_argument("--transformers", action="store_true",
                        help="Llama 3 8B of Hugging Face too: some 16 GB of weights and 32 GiB of "
                        "cache")
    return parser.parse_args()


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def positive_list(text):
    return [positive(part) for part in text.split(",")]


def main():
    args = parse_arguments()
    # What is missing must not be found out at the end.
    with_longspan = args.longspan != "none"
    if with_longspan and shutil.which(args.longspan) is None:
        fail(f"--longspan {args.longspan}: no such program; build the preset cuda, or give `none`")
    torch = import_torch()
    torch.manual_seed(1)
    timer, results = Timer(torch, args.repeat), Results()
    with torch.inference_mode():
        bench_topk(torch, timer, results)
        for context in args.context:
            bench_dense_decode(torch, timer, results, context)
            bench_esa(torch, timer, results, context)
            torch.cuda.empty_cache()
    if args.transformers:
        for context in args.context:
            bench_transformers(torch, timer, results, context)
    torch.cuda.empty_cache()  # for longspan
    times, about = longspan_times(args) if with_longspan else ({}, "no longspan")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, "
          f"{torch.cuda.get_device_name()}; {about}")
    print_table(results.rows, times)


if __name__ == "__main__":
    main()
