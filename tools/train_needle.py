#!/usr/bin/env python3
"""Trains models/needle: corpus, tokenizer, model, compressor. Anyone can rerun it.

    python3 tools/train_needle.py corpus   --work /tmp/needle   # gather the texts (apt-get download)
    python3 tools/train_needle.py prepare  --work /tmp/needle   # tokenizer and token file
    python3 tools/train_needle.py train    --work /tmp/needle --output models/needle   # one GPU

Python packages: torch, tokenizers, safetensors, numpy. The corpus is documentation that Debian 12
packages and whose licences allow any use with attribution; the packages are in CORPUS below and in
the model card. The SQLite documentation (public domain) is held out for tests.

Half of each batch is plain causal attention. The other half sees what ESA shows a model: query
blocks of 256, the preceding 512 tokens at their true distances, everything before them unrotated
and at one distance, drawn anew for each sequence: so what is far away must be found by content, and
the content match cannot lean on one rotation. Both halves share one forward pass.
"""

import argparse
import glob
import gzip
import hashlib
import html.parser
import json
import math
import os
import queue
import random
import re
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import needle_tasks  # noqa: E402

# Debian package: licence of the texts (see /usr/share/doc/PACKAGE/copyright).
CORPUS = {
    "apache2-doc": "Apache-2.0",
    "cinder-doc": "Apache-2.0",
    "clang-14-doc": "Apache-2.0 with LLVM exception",
    "cmake-doc": "BSD-3-Clause",
    "ironic-doc": "Apache-2.0",
    "keystone-doc": "Apache-2.0",
    "llvm-14-doc": "Apache-2.0 with LLVM exception",
    "neutron-doc": "Apache-2.0",
    "nova-doc": "Apache-2.0",
    "postgresql-doc-15": "PostgreSQL",
    "python-dask-doc": "BSD-3-Clause",
    "python-django-doc": "BSD-3-Clause",
    "python-flask-doc": "BSD-3-Clause",
    "python-pandas-doc": "BSD-3-Clause",
    "python-pytest-doc": "MIT",
    "python-sqlalchemy-doc": "MIT",
    "python-werkzeug-doc": "BSD-3-Clause",
    "python3.11-doc": "PSF-2.0",
    "sphinx-doc": "BSD-2-Clause",
    "swift-doc": "Apache-2.0",
    "twisted-doc": "MIT",
}
HELD_OUT = {"sqlite3-doc": "public domain"}
FROM_HTML = ("apache2-doc", "postgresql-doc-15", "python-django-doc", "sqlite3-doc")

VOCABULARY = 4096
CONTEXT = 2048
SHAPE = dict(
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=768,
    vocab_size=VOCABULARY,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
)
ESA = dict(
    initial_tokens=32,
    local_tokens=512,
    top_k=256,
    compressed_dim=32,
    proximity=1,
    selection_block=256,
    far_position=512,
)

# ---- corpus -------------------------------------------------------------------------------------


class _Paragraphs(html.parser.HTMLParser):
    """The texts of paragraphs, list items and definitions of an HTML page."""

    BLOCKS = ("p", "li", "dd", "dt", "h1", "h2", "h3", "h4", "td", "blockquote")

    def __init__(self):
        super().__init__()
        self.out, self.text, self.skip = [], [], 0

    def flush(self):
        text = " ".join("".join(self.text).split())
        self.text = []
        if text:
            self.out.append(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "style", "nav", "pre", "title"):
            self.skip += 1
        elif tag in self.BLOCKS:
            self.flush()

    def handle_endtag(self, tag):
        if tag in ("script", "style", "nav", "pre", "title"):
            self.skip = max(0, self.skip - 1)
        elif tag in self.BLOCKS:
            self.flush()

    def handle_data(self, data):
        if not self.skip:
            self.text.append(data)


def _plain_paragraphs(text):
    return [" ".join(p.split()) for p in re.split(r"\n\s*\n", text)]


def _lines(paragraphs):
    """Lines of at most about 600 characters; what is hardly prose is dropped."""
    for p in paragraphs:
        letters = sum(c.isalpha() or c == " " for c in p)
        if len(p) < 40 or letters < 0.7 * len(p) or not p.isprintable():
            continue
        while len(p) > 600:
            cut = p.rfind(". ", 200, 600) + 1 or p.rfind(" ", 200, 600)
            if cut <= 0:
                cut = 600
            yield p[:cut].strip()
            p = p[cut:].strip()
        if p:
            yield p


def package_lines(directory, package):
    """The distinct lines of one unpacked documentation package, in the order of its files."""
    seen = set()
    for path in sorted(glob.glob(f"{directory}/**/*", recursive=True)):
        name = path[:-3] if path.endswith(".gz") else path
        if (
            os.path.islink(path)
            or not os.path.isfile(path)
            or "copyright" in path
            or "changelog" in path.lower()
        ):
            continue
        is_html = name.endswith(".html") and not re.search(
            r"/(da|de|es|fr|ja|ko|pt-br|ru|tr|zh-cn)/", name
        )
        if package in FROM_HTML:
            if not is_html or "/genindex" in name or "/_modules/" in name:
                continue
        elif not (
            name.endswith((".rst", ".rst.txt", ".md", ".md.txt"))
            or "_sources" in name
            and name.endswith(".txt")
        ):
            continue
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8", errors="ignore") as f:
            text = f.read()
        if is_html:
            parser = _Paragraphs()
            parser.feed(text)
            parser.flush()
            paragraphs = parser.out
        else:
            paragraphs = _plain_paragraphs(text)
        for line in _lines(paragraphs):
            if line not in seen:
                seen.add(line)
                yield line


def gather_corpus(args):
    """Downloads and unpacks the documentation packages; writes corpus.txt and held_out.txt."""
    debs, unpacked = os.path.join(args.work, "debs"), os.path.join(args.work, "x")
    os.makedirs(debs, exist_ok=True)
    for target, packages in (("corpus.txt", CORPUS), ("held_out.txt", HELD_OUT)):
        with open(os.path.join(args.work, target), "w", encoding="utf-8") as out:
            for package in packages:
                directory = os.path.join(unpacked, package)
                if not os.path.isdir(directory):
                    if not glob.glob(f"{debs}/{package}_*.deb"):
                        subprocess.run(["apt-get", "download", package], cwd=debs, check=True)
                    subprocess.run(
                        ["dpkg", "-x", sorted(glob.glob(f"{debs}/{package}_*.deb"))[-1], directory],
                        check=True,
                    )
                size = 0
                for line in package_lines(directory, package):
                    out.write(line + "\n")
                    size += len(line) + 1
                print(f"{package:24} {size / 1e6:6.2f} MB  {packages[package]}", flush=True)


# ---- tokenizer and token file -------------------------------------------------------------------

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def sample_questions(r, documents):
    """Text of the tasks, for the tokenizer's training."""
    for _ in range(documents):
        lines = []
        for task in needle_tasks.TASKS:
            for f in needle_tasks.make_facts(task, needle_tasks.FACTS[task], r):
                lines += f.needles + [
                    needle_tasks.question_text(f.questions[0]) + f"Answer: {f.answer}"
                ]
        yield "\n".join(lines) + "\n"


def train_tokenizer(work, output):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    r = random.Random("tokenizer")

    def texts():
        with open(os.path.join(work, "corpus.txt"), encoding="utf-8") as f:
            yield from f
        for _ in range(60000):
            yield needle_tasks.builtin_line(r) + "\n"
        yield from sample_questions(r, 2000)

    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A",
        pair="<s> $A <s> $B",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>"))],
    )
    os.makedirs(output, exist_ok=True)
    tokenizer.save(os.path.join(output, "tokenizer.json"))
    return tokenizer


def prepare(args):
    """Trains the tokenizer; writes corpus.npz (tokens, line starts): all that training reads."""
    tokenizer = train_tokenizer(args.work, args.output)
    with open(os.path.join(args.work, "corpus.txt"), encoding="utf-8") as f:
        lines = f.readlines()
    tokens, starts, at = [], [], 0
    for i in range(0, len(lines), 10000):
        for e in tokenizer.encode_batch(lines[i : i + 10000], add_special_tokens=False):
            starts.append(at)
            at += len(e.ids)
            tokens.append(np.array(e.ids, np.uint16))
    np.savez_compressed(
        os.path.join(args.work, "corpus.npz"),
        tokens=np.concatenate(tokens),
        starts=np.array(starts, np.int64),
    )
    print(f"{at} tokens in {len(lines)} lines; {sum(map(len, lines)) / at:.2f} characters a token")
    calibration = calibration_text(tokenizer, args.work)
    with open(os.path.join(args.output, "calibration.txt"), "w", encoding="utf-8") as f:
        f.write(calibration)


def calibration_text(tokenizer, work, tokens=49152):
    """Task text to calibrate the compressor with: 24 documents, their questions answered at the end."""
    held_out = needle_tasks.TextHaystack(os.path.join(work, "held_out.txt"))
    held_out.paragraphs = held_out.paragraphs[-4000:]  # tests use the rest
    out = []
    for i in range(tokens // CONTEXT):
        d = needle_tasks.build_document(
            tokenizer,
            {"passkey": 1, "magic": 4, "island": 4, "kv": 4},
            CONTEXT - 422,
            f"calibration/{i}",
            held_out if i % 2 else None,
        )
        out.append(
            d.text
            + "".join(
                needle_tasks.question_text(q) + needle_tasks.answer_text(a)
                for _, q, a in d.questions
            )
        )
    return "".join(out)


FLASH_LOWER_RIGHT = (
    True  # flash attention aligned at the lower right; cleared where it does not run
)

# ---- model --------------------------------------------------------------------------------------


def build_model():
    """The Llama architecture in plain PyTorch; parameter names as in Hugging Face's."""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    s = SHAPE
    heads, kv_heads, dim = s["num_attention_heads"], s["num_key_value_heads"], s["head_dim"]
    block, local = ESA["selection_block"], ESA["local_tokens"]

    def lower_right_attention(q, k, v):
        """Causal attention, the last query aligned with the last key. [B, H, T, D]."""
        if q.is_cuda and FLASH_LOWER_RIGHT:
            return torch.ops.aten._scaled_dot_product_flash_attention(
                q, k, v, 0.0, True, False, scale=dim**-0.5
            )[0]
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(
            k.shape[2] - q.shape[2]
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=dim**-0.5)

    def rotate(x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def far_attention(q, k, v, qr, kr, qf):
        """ESA's view with everything selected. q, k unrotated; qr, kr rotated; qf rotated to far.

        One softmax over near and far keys: near keys meet the first half of a doubled head
        dimension, far keys the second.
        """
        length = q.shape[2]
        first = min(length, local + block)  # up to here every token is near
        out = [
            F.scaled_dot_product_attention(
                qr[:, :, :first], kr[:, :, :first], v[:, :, :first], is_causal=True, scale=dim**-0.5
            )
        ]
        zero = torch.zeros_like(k)
        q2 = torch.cat((qr, qf), dim=-1)
        near = torch.cat((kr, zero), dim=-1)
        far = torch.cat((zero, k), dim=-1)
        v2 = torch.cat((v, zero), dim=-1)
        for p0 in range(first, length, block):
            lo, p1 = p0 - local, p0 + block
            keys = torch.cat((far[:, :, :lo], near[:, :, lo:p1]), dim=2)
            out.append(lower_right_attention(q2[:, :, p0:p1], keys, v2[:, :, :p1])[..., :dim])
        return torch.cat(out, dim=2)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            h = s["hidden_size"]
            self.q_proj = nn.Linear(h, heads * dim, bias=False)
            self.k_proj = nn.Linear(h, kv_heads * dim, bias=False)
            self.v_proj = nn.Linear(h, kv_heads * dim, bias=False)
            self.o_proj = nn.Linear(heads * dim, h, bias=False)

        def forward(self, x, cos, sin, far_cos, far_sin, split):
            b, t, _ = x.shape
            q = self.q_proj(x).view(b, t, heads, dim).transpose(1, 2)
            k = self.k_proj(x).view(b, t, kv_heads, dim).transpose(1, 2)
            v = self.v_proj(x).view(b, t, kv_heads, dim).transpose(1, 2)
            k, v = (y.repeat_interleave(heads // kv_heads, dim=1) for y in (k, v))
            qr, kr = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
            parts = []
            if split > 0:
                parts.append(
                    F.scaled_dot_product_attention(
                        qr[:split], kr[:split], v[:split], is_causal=True, scale=dim**-0.5
                    )
                )
            if split < b:
                qf = rotate(q[split:], far_cos, far_sin).to(v.dtype)
                parts.append(
                    far_attention(q[split:], k[split:], v[split:], qr[split:], kr[split:], qf)
                )
            y = torch.cat(parts, dim=0) if len(parts) > 1 else parts[0]
            return self.o_proj(y.transpose(1, 2).reshape(b, t, heads * dim))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            h, f = s["hidden_size"], s["intermediate_size"]
            self.gate_proj = nn.Linear(h, f, bias=False)
            self.up_proj = nn.Linear(h, f, bias=False)
            self.down_proj = nn.Linear(f, h, bias=False)

        def forward(self, x):
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(s["hidden_size"]))

        def forward(self, x):
            y = x.float()
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + s["rms_norm_eps"])
            return (y * self.weight).to(x.dtype)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.mlp = Attention(), MLP()
            self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()

        def forward(self, x, *rope):
            x = x + self.self_attn(self.input_layernorm(x), *rope)
            return x + self.mlp(self.post_attention_layernorm(x))

    class Needle(nn.Module):
        """forward: weighted loss, and how many of the weight-1 tokens each half gets right."""

        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(s["vocab_size"], s["hidden_size"])
            self.layers = nn.ModuleList(Layer() for _ in range(s["num_hidden_layers"]))
            self.norm = Norm()
            inverse = s["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            self.register_buffer("inverse", inverse.float(), persistent=False)
            angles = torch.arange(CONTEXT, dtype=torch.float64)[:, None] * inverse
            self.register_buffer("cos", angles.cos().float(), persistent=False)
            self.register_buffer("sin", angles.sin().float(), persistent=False)
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    std = 0.02
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        std /= math.sqrt(2 * s["num_hidden_layers"])
                    nn.init.normal_(p, std=std)

        def hidden(self, tokens, far_positions, split):
            t = tokens.shape[1]
            angle = far_positions[:, None, None, None].float() * self.inverse
            rope = (self.cos[:t], self.sin[:t], angle.cos(), angle.sin(), split)
            x = self.embed_tokens(tokens)
            if torch.is_autocast_enabled(x.device.type):
                x = x.to(torch.bfloat16)
            for layer in self.layers:
                x = layer(x, *rope)
            return self.norm(x)

        def forward(self, tokens, labels, weights, far_positions, split):
            logits = F.linear(self.hidden(tokens, far_positions, split), self.embed_tokens.weight)
            logits = logits.view(-1, logits.shape[-1]).float()
            labels, w = labels.reshape(-1), weights.reshape(-1)
            loss = F.cross_entropy(logits, labels, reduction="none")
            with torch.no_grad():
                right = ((logits.argmax(-1) == labels) & (w == 1)).view(len(tokens), -1).sum(1)
                counts = torch.stack(
                    (
                        right[:split].sum(),
                        (weights[:split] == 1).sum(),
                        right[split:].sum(),
                        (weights[split:] == 1).sum(),
                    )
                )
            return (loss * w).sum() / w.sum(), counts

    return Needle()


# ---- training -----------------------------------------------------------------------------------


def _worker(out, work, tokenizer_path, seed, batch):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = np.load(os.path.join(work, "corpus.npz"))
    sequences = needle_tasks.TrainingSequences(
        needle_tasks.load_tokenizer(tokenizer_path), data["tokens"], data["starts"], seed
    )
    while True:
        out.put(make_batch(sequences, batch))


def make_batch(sequences, batch):
    """One fifth plain text, the rest retrieval: tokens [batch, CONTEXT + 1], weights."""
    tokens = np.empty((batch, CONTEXT + 1), np.uint16)
    weights = np.empty((batch, CONTEXT + 1), np.float16)
    for i in range(batch):
        make = sequences.plain if sequences.r.random() < 0.2 else sequences.retrieval
        tokens[i], weights[i] = make(CONTEXT + 1)
    return tokens, weights


def check_far_attention(device):
    """The far half's attention against a plain one, with gradients: fails rather than train wrong."""
    import torch

    torch.manual_seed(0)
    model = build_model().to(device)
    cuda = device == "cuda"
    t, dim = 1280, SHAPE["head_dim"]
    layer = model.layers[0].self_attn
    torch.nn.init.normal_(layer.q_proj.weight, std=0.08)
    torch.nn.init.normal_(layer.k_proj.weight, std=0.08)
    x = torch.randn(2, t, SHAPE["hidden_size"], device=device)
    far = torch.tensor([512, 77], device=device)
    angle = far[:, None, None, None].float() * model.inverse
    global FLASH_LOWER_RIGHT
    with torch.autocast(device, torch.bfloat16, enabled=cuda):
        try:
            got = layer(x, model.cos[:t], model.sin[:t], angle.cos(), angle.sin(), 0)
            got.float().sum().backward()
        except (RuntimeError, AttributeError, TypeError) as e:
            print(f"no flash attention aligned at the lower right: {e}", flush=True)
            FLASH_LOWER_RIGHT = False
            got = layer(x, model.cos[:t], model.sin[:t], angle.cos(), angle.sin(), 0)
    heads, groups = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
    q = layer.q_proj(x).view(2, t, heads, dim).transpose(1, 2)
    k = (
        layer.k_proj(x)
        .view(2, t, groups, dim)
        .transpose(1, 2)
        .repeat_interleave(heads // groups, 1)
    )
    v = (
        layer.v_proj(x)
        .view(2, t, groups, dim)
        .transpose(1, 2)
        .repeat_interleave(heads // groups, 1)
    )

    def rotate(y, cos, sin):
        a, b = y.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    near = rotate(q, model.cos[:t], model.sin[:t]) @ rotate(k, model.cos[:t], model.sin[:t]).mT
    away = rotate(q, angle.cos(), angle.sin()) @ k.mT
    i = torch.arange(t, device=device)
    p0 = i // ESA["selection_block"] * ESA["selection_block"]
    is_far = i[None] < (p0 - ESA["local_tokens"])[:, None]
    scores = torch.where(is_far, away, near).masked_fill(i[None] > i[:, None], -math.inf)
    want = layer.o_proj(((scores * dim**-0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, t, -1))
    error = ((got.float() - want).norm() / want.norm()).item()
    print(f"far attention against the plain one: relative error {error:.2e}", flush=True)
    if not error < (5e-2 if cuda else 1e-5):
        raise SystemExit("the attention of the far half is wrong on this machine")


def train(args):
    import multiprocessing
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device == "cuda"
    started = time.time()
    context = multiprocessing.get_context("spawn")
    batches = context.Queue(maxsize=args.workers * 3)
    workers = [
        context.Process(
            target=_worker,
            daemon=True,
            args=(
                batches,
                args.work,
                os.path.join(args.output, "tokenizer.json"),
                f"{args.seed}/{i}",
                args.batch,
            ),
        )
        for i in range(args.workers)
    ]
    for w in workers:
        w.start()
    torch.set_float32_matmul_precision("high")
    check_far_attention(device)
    torch.manual_seed(args.seed)
    model = build_model().to(device)
    if args.resume:
        load_weights(model, args.resume)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
        fused=cuda,
    )
    if args.compile:
        torch._dynamo.config.suppress_errors = True
    step_model = torch.compile(model) if args.compile else model
    split = args.batch // 2
    far_r = np.random.default_rng(args.seed)
    steps, clock, log_at, counts = args.steps, None, 0, torch.zeros(4, device=device)
    waited, step = 0.0, 0
    while step < steps:
        t0 = time.time()
        while True:
            try:
                tokens, weights = batches.get(timeout=5)
                break
            except queue.Empty:
                if not any(w.is_alive() for w in workers):
                    raise SystemExit("the data workers died")
        waited += time.time() - t0
        tokens = (
            torch.from_numpy(tokens.astype(np.int64)).pin_memory()
            if cuda
            else torch.from_numpy(tokens.astype(np.int64))
        )
        tokens = tokens.to(device, non_blocking=True)
        weights = torch.from_numpy(weights).to(device, non_blocking=True).float()
        # The answer weight 1 stays exact in float16; the others need not be.
        far = np.where(
            far_r.random(args.batch - split) < 0.3,
            ESA["far_position"],
            far_r.integers(0, 1024, args.batch - split),
        )
        far = torch.from_numpy(far).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=cuda):
            loss, c = step_model(
                tokens[:, :-1].contiguous(),
                tokens[:, 1:].contiguous(),
                weights[:, 1:].contiguous(),
                far,
                split,
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = args.lr * min(1, (step + 1) / args.warmup)
        if step > args.warmup:
            done = (step - args.warmup) / max(1, steps - args.warmup)
            rate *= 0.5 * (1 + math.cos(math.pi * done)) * 0.98 + 0.02
        for g in optimizer.param_groups:
            g["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        counts += c
        step += 1
        if step == 20 or (step == 1 and args.steps < 20):
            if cuda:
                torch.cuda.synchronize()
            clock = (step, time.time())
            print(f"step {step}: {time.time() - started:.1f} s since the start", flush=True)
        if step == 150 and args.seconds:  # fit the schedule into the time that is given
            torch.cuda.synchronize() if cuda else None
            pace = (time.time() - clock[1]) / (step - clock[0])
            steps = min(steps, step + int((args.seconds - (time.time() - started)) / pace))
            print(f"{pace * 1e3:.1f} ms a step: {steps} steps", flush=True)
        if step % args.log == 0 or step == steps:
            c, counts = counts.tolist(), torch.zeros(4, device=device)
            print(
                f"step {step} loss {loss.item():.4f} answer tokens right: causal "
                f"{c[0] / max(1, c[1]):.4f} far {c[2] / max(1, c[3]):.4f} lr {rate:.2e} "
                f"{time.time() - started:.0f} s, waited for data {waited:.1f} s",
                flush=True,
            )
    for w in workers:
        w.terminate()
    seconds = time.time() - started
    save(model, args.output, args.output)
    with open(os.path.join(args.output, "training.json"), "w") as f:
        json.dump(
            dict(
                steps=steps,
                batch=args.batch,
                context=CONTEXT,
                seconds=round(seconds),
                device=torch.cuda.get_device_name() if cuda else "cpu",
                answer_tokens_right=dict(causal=c[0] / max(1, c[1]), far=c[2] / max(1, c[3])),
                loss=loss.item(),
                torch=torch.__version__,
                seed=args.seed,
            ),
            f,
            indent=1,
        )
        f.write("\n")
    fit_compressor(args)


def save(model, output, tokenizer_directory):
    """The Hugging Face files."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        "model." + n: p.detach().to(torch.bfloat16).cpu().contiguous()
        for n, p in model.named_parameters()
    }
    save_file(tensors, os.path.join(output, "model.safetensors"), metadata={"format": "pt"})
    write_configs(output)


def write_configs(output):
    def write(name, value):
        with open(os.path.join(output, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")

    write(
        "config.json",
        dict(
            architectures=["LlamaForCausalLM"],
            model_type="llama",
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_position_embeddings=CONTEXT,
            mlp_bias=False,
            pretraining_tp=1,
            rope_scaling=None,
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
            use_cache=True,
            **SHAPE,
        ),
    )
    write("generation_config.json", dict(bos_token_id=0, eos_token_id=1, do_sample=False))
    write(
        "tokenizer_config.json",
        dict(
            add_bos_token=True,
            bos_token="<s>",
            eos_token="</s>",
            clean_up_tokenization_spaces=False,
            model_max_length=CONTEXT,
            tokenizer_class="PreTrainedTokenizerFast",
        ),
    )
    with open(os.path.join(output, "longspan.yaml"), "w") as f:
        f.write("# ESA settings this model was measured with; the run's config wins.\nesa:\n")
        for key in (
            "initial_tokens",
            "local_tokens",
            "top_k",
            "compressed_dim",
            "proximity",
            "selection_block",
            "far_position",
        ):
            f.write(f"  {key}: {ESA[key]}\n")


def load_weights(model, directory):
    from safetensors.torch import load_file

    tensors = load_file(os.path.join(directory, "model.safetensors"))
    model.load_state_dict({n[len("model.") :]: t.float() for n, t in tensors.items()}, strict=True)


def fit_compressor(args):
    """The closed form, from calibration.txt: compressor.safetensors (`longspan calibrate` does the same)."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    directory = args.output
    model = build_model().to(device)
    load_weights(model, directory)
    tokenizer = needle_tasks.load_tokenizer(directory)
    with open(os.path.join(directory, "calibration.txt"), encoding="utf-8") as f:
        ids = tokenizer.encode(f.read(), add_special_tokens=False).ids
    heads, groups, dim = (
        SHAPE["num_attention_heads"],
        SHAPE["num_key_value_heads"],
        SHAPE["head_dim"],
    )
    n = len(model.layers)
    qq = torch.zeros(n, groups * dim, groups * dim, dtype=torch.float64, device=device)
    kk, mean, count = (
        torch.zeros_like(qq),
        torch.zeros(n, groups * dim, dtype=torch.float64, device=device),
        0,
    )
    grabbed = {}
    for i, layer in enumerate(model.layers):
        layer.self_attn.q_proj.register_forward_hook(
            lambda m, a, o, i=i: grabbed.__setitem__(("q", i), o)
        )
        layer.self_attn.k_proj.register_forward_hook(
            lambda m, a, o, i=i: grabbed.__setitem__(("k", i), o)
        )
    with torch.no_grad():
        for at in range(0, len(ids), CONTEXT - 1):
            window = torch.tensor([[0] + ids[at : at + CONTEXT - 1]], device=device)
            model.hidden(window, torch.zeros(1, device=device), 1)
            for i in range(n):
                q = (
                    grabbed["q", i][0]
                    .double()
                    .view(-1, groups, heads // groups, dim)
                    .sum(2)
                    .flatten(1)
                )
                k = grabbed["k", i][0].double()
                qq[i] += q.T @ q
                kk[i] += k.T @ k
                mean[i] += k.sum(0)
            count += window.shape[1]
    out = {}
    for i in range(n):
        cq = (qq[i] / count).cpu()
        m = (mean[i] / count).cpu()
        ck = (kk[i] / count).cpu() - torch.outer(m, m)
        roots = []
        for c in (cq, ck):
            values, vectors = torch.linalg.eigh(c)
            values = values.clamp(min=1e-9 * values.max()).sqrt()
            roots.append(((vectors * values) @ vectors.T, (vectors / values) @ vectors.T))
        u, sv, vt = torch.linalg.svd(roots[0][0] @ roots[1][0])
        d = ESA["compressed_dim"]
        scale = sv[:d].sqrt()
        out[f"layers.{i}.query"] = (roots[0][1] @ u[:, :d] * scale).float().contiguous()
        out[f"layers.{i}.key"] = (roots[1][1] @ vt[:d].T * scale).float().contiguous()
        print(
            f"layer {i}: {(sv[:d] ** 2).sum() / (sv ** 2).sum():.4f} of the centred score's variance",
            flush=True,
        )
    with open(os.path.join(directory, "model.safetensors"), "rb") as f:
        fingerprint = "sha256:" + hashlib.sha256(f.read()).hexdigest()
    save_file(
        out,
        os.path.join(directory, "compressor.safetensors"),
        metadata=dict(
            fingerprint=fingerprint,
            method="low_rank",
            compressed_dim=str(ESA["compressed_dim"]),
            calibration="calibration.txt",
        ),
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (
        ("corpus", gather_corpus),
        ("prepare", prepare),
        ("train", train),
        ("compressor", fit_compressor),
    ):
        p = commands.add_parser(name, help=run.__doc__)
        p.add_argument("--work", default="/tmp/needle", help="folder for the corpus")
        p.add_argument("--output", default="models/needle")
        p.set_defaults(run=run)
        if name == "train":
            p.add_argument("--steps", type=int, default=4400)
            p.add_argument("--seconds", type=float, default=0, help="shorten the schedule to fit")
            p.add_argument("--batch", type=int, default=64)
            p.add_argument("--lr", type=float, default=3e-3)
            p.add_argument("--warmup", type=int, default=200)
            p.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
            p.add_argument("--seed", type=int, default=1)
            p.add_argument("--log", type=int, default=100)
            p.add_argument("--resume", help="start from the weights of a model directory")
            p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
