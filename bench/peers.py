#!/usr/bin/env python3
"""What PyTorch and Hugging Face transformers take on the GPU for what longspan's kernels do.

Everything is measured in this run, on this GPU, at the shape of Llama 3 8B in bfloat16: dense
attention of a decoded token and of a prompt's last chunk (scaled_dot_product_attention with its
flash and cuDNN kernels), torch.topk, and the ESA decode step and prefill chunk (arXiv 2502.14477)
written in PyTorch. Then `longspan bench kernels` runs, and its times stand beside. With
--transformers a Llama 3 8B of random weights decodes with dense attention, behind the StaticCache
that the library offers for graphs, and behind one without mask or copies, whose attention is
flash; `longspan bench decode` stands beside it.

    bench/peers.py --longspan build/cuda/launcher/longspan --context 262144
    bench/peers.py --transformers 32768,262144 --format json > peers.json

Times are medians between CUDA events, of inputs that rotate through more memory than the L2 cache
holds. They are replays of CUDA graphs, so that Python is not what is measured; what cannot be
recorded as a graph says `eager`. PyTorch's ESA is given an advantage: its keys are taken as rotated
already, longspan rotates them as it reads them.
"""

import argparse
import functools
import gc
import inspect
import json
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
DEVICE = "cuda"
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


def import_transformers():
    try:
        import transformers
    except ImportError as error:
        fail(f"--transformers needs transformers: pip install transformers ({error})")
    return transformers


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
    return torch.randn(*shape, dtype=dtype or torch.bfloat16, device=DEVICE)


class Results:
    """Rows of (operation, peer, seconds, how), and what of longspan each is to be held against."""

    def __init__(self):
        self.rows = []
        self.refused = []

    def add(self, operation, peer, timing, against):
        seconds, how = timing
        self.rows.append({"operation": operation, "peer": peer, "seconds": seconds, "how": how,
                          "against": against})
        print(f"{operation:44} {peer:34} {format_time(seconds):>12}  {how}", file=sys.stderr)

    def refuse(self, operation, peer, error):
        self.refused.append({"operation": operation, "peer": peer, "error": first_line(error)})
        print(f"{operation:44} {peer:34} {'not possible':>12}: {first_line(error)}",
              file=sys.stderr)


def attempt(torch, results, operation, peer, against, measure):
    """One row; what a version of PyTorch or this GPU cannot do is no reason to give up the rest."""
    try:
        results.add(operation, peer, measure(), against)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        results.refuse(operation, peer, error)
    finally:
        give_memory_back(torch)


def give_memory_back(torch):
    gc.collect()
    torch.cuda.empty_cache()


def bench_dense(torch, timer, results, context):
    """Dense attention of one token, and of a chunk. A group's heads may stand as queries of one KV
    head, which is the same where nothing is masked, and what a careful user would write. The chunk
    is not masked either: the products of its own tokens that this is too many are 1% at 256k."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
    cases = [("a token", "grouped queries", KV_HEADS, GROUP, "decode attention"),
             ("a token", "enable_gqa", HEADS, 1, "decode attention"),
             (f"a chunk of {CHUNK}", "grouped queries", KV_HEADS, GROUP * CHUNK,
              "prefill attention")]
    variants = variants_of(2 * context * KV_HEADS * HEAD_DIM * 2)
    keys = [normal(torch, 1, KV_HEADS, context, HEAD_DIM) for _ in range(variants)]
    values = [normal(torch, 1, KV_HEADS, context, HEAD_DIM) for _ in range(variants)]
    for backend_name, backend in backends.items():
        for what, layout, heads, length, against in cases:
            query = normal(torch, 1, heads, length, HEAD_DIM)

            def run(variant):
                with sdpa_kernel(backend):
                    return scaled_dot_product_attention(query, keys[variant], values[variant],
                                                        enable_gqa=heads != KV_HEADS)

            attempt(torch, results, f"dense attention of {what}, {context}",
                    f"torch SDPA {backend_name}, {layout}", (against, 1, context),
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
        self.initial = torch.arange(INITIAL, device=DEVICE)

    def select(self, scores, first):
        """The TOP_K positions of scores that begin at position `first`."""
        spread = self.torch.nn.functional.max_pool1d(scores[None], 2 * PROXIMITY + 1, stride=1,
                                                     padding=PROXIMITY)[0]
        return self.torch.topk(spread, TOP_K, sorted=False).indices + first

    def gather(self, selected, near_begin, near_end):
        """Keys and values [1, kv_heads, n, head_dim]: initial, selected and near ones."""
        rows = self.torch.cat([
            self.initial, selected,
            self.torch.arange(near_begin, near_end, device=DEVICE)])
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
    own = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=DEVICE).tril()
    before = torch.ones(BLOCK, INITIAL + TOP_K + LOCAL, dtype=torch.bool, device=DEVICE)
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


def make_transformers_model(torch, transformers, max_positions):
    with open(os.path.join(REPOSITORY, "configs/shapes/llama3-8b/config.json")) as file:
        shape = json.load(file)
    shape = {key: value for key, value in shape.items()
             if key not in ("architectures", "model_type", "torch_dtype")}
    config = transformers.LlamaConfig(**{**shape, "max_position_embeddings": max_positions})
    with torch.device(DEVICE):
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


class TransformersStep:
    """One decoded token, again and again at one position."""

    def __init__(self, torch, model, cache):
        self.model = model
        self.ids = torch.ones(1, 1, dtype=torch.long, device=DEVICE)
        self.position = torch.zeros(1, 1, dtype=torch.long, device=DEVICE)
        names = inspect.signature(model.forward).parameters
        # Versions differ in what they call the cache, and in who knows where its end is.
        self.more = {"cache" if "cache" in names else "past_key_values": cache}
        if "cache_position" in names:
            self.more["cache_position"] = self.position[0]

    def __call__(self, _=0):
        return self.model(input_ids=self.ids, position_ids=self.position, use_cache=True,
                          logits_to_keep=1, **self.more).logits


def static_cache_step(torch, transformers, model, context, steps):
    """Behind a StaticCache with noise for `context` tokens. It has a mask over all of its length,
    which is a multiple of 64: an odd one would have to be padded in every layer."""
    length = (context + steps + 63) // 64 * 64
    cache = transformers.StaticCache(config=model.config, max_cache_len=length)
    step = TransformersStep(torch, model, cache)
    step()  # makes the cache's memory
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length.fill_(context)
    step.position.fill_(context)
    return step


def overwrite_last(layer, keys, values, *_, **__):
    layer.keys[:, :, -1:].copy_(keys)
    layer.values[:, :, -1:].copy_(values)
    return layer.keys, layer.values


def fixed_cache_step(torch, transformers, model, context, _):
    """Behind noise for `context` tokens, the last of which every step writes anew. There is nothing
    to mask, and nothing grows, so that attention is flash and no key is copied."""
    config = model.config
    cache = transformers.DynamicCache(config=config)
    shape = (1, config.num_key_value_heads, context, config.head_dim)
    for layer in cache.layers:
        layer.update(normal(torch, *shape), normal(torch, *shape))
        layer.update = functools.partial(overwrite_last, layer)
    step = TransformersStep(torch, model, cache)
    step.position.fill_(context - 1)
    return step


def bench_transformers(torch, transformers, timer, results, contexts):
    steps = timer.repeat + 16  # that a StaticCache has room for
    model = make_transformers_model(torch, transformers, max(contexts) + steps)
    caches = {"StaticCache": static_cache_step, "cache without mask": fixed_cache_step}
    for context in contexts:
        for name, make_step in caches.items():

            def measure():
                with torch.inference_mode():
                    step = make_step(torch, transformers, model, context, steps)
                    return timer.measure(step, 1)

            attempt(torch, results, f"dense decode of the whole model, {context}",
                    f"transformers, {name}", ("decode", 1, context), measure)


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
            "decode", "--context", ",".join(str(context) for context in args.transformers),
            "--model", os.path.join(REPOSITORY, "configs/shapes/llama3-8b"),
            "--set", "load_format=dummy", "--set", "device=cuda", "--set", "max_num_seqs=1"]))
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


def print_table(rows):
    print(f"{'operation':44} {'peer':34} {'time':>12} {'':6} {'longspan':>12} {'ratio':>8}")
    for row in rows:
        own = row["longspan_seconds"]
        beside = ("", "") if own is None else (format_time(own), f"{row['seconds'] / own:.2f}x")
        print(f"{row['operation']:44} {row['peer']:34} {format_time(row['seconds']):>12} "
              f"{row['how']:6} {beside[0]:>12} {beside[1]:>8}".rstrip())


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
    parser.add_argument("--transformers", type=positive_list, nargs="?", metavar="CONTEXTS",
                        const=[32768, 131072, 262144],
                        help="Llama 3 8B of Hugging Face too, behind so many tokens (default: "
                        "32768,131072,262144): 16 GB of weights, and 34 GB of cache at 262144")
    parser.add_argument("--format", choices=("table", "json"), default="table",
                        help="of the results, which go to standard output (default: %(default)s)")
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
    transformers = import_transformers() if args.transformers else None
    torch.manual_seed(1)
    timer, results = Timer(torch, args.repeat), Results()
    with torch.inference_mode():
        bench_topk(torch, timer, results)
        for context in args.context:
            bench_dense(torch, timer, results, context)
            bench_esa(torch, timer, results, context)
            give_memory_back(torch)
    if args.transformers:
        try:
            bench_transformers(torch, transformers, timer, results, args.transformers)
        except RuntimeError as error:  # no room for the weights
            results.refuse("dense decode of the whole model", "transformers", error)
    give_memory_back(torch)  # for longspan
    times, about = longspan_times(args) if with_longspan else ({}, None)
    for row in results.rows:
        row["longspan_seconds"] = times.get(row["against"])
    report = {"torch": torch.__version__, "cuda": torch.version.cuda,
              "transformers": transformers.__version__ if transformers else None,
              "device": torch.cuda.get_device_name(), "longspan": about, "rows": results.rows,
              "refused": results.refused}
    if args.format == "json":
        json.dump(report, sys.stdout, indent=2)
        print()
        return
    versions = f"torch {report['torch']}, CUDA {report['cuda']}"
    if transformers:
        versions += f", transformers {report['transformers']}"
    print(f"{versions}, {report['device']}; {about or 'no longspan'}")
    print_table(results.rows)


if __name__ == "__main__":
    main()
