#!/usr/bin/env python3
"""ESA in PyTorch, straight from its definition: quality of a model by task, length and attention.

    python3 bench/needle_esa.py --model models/needle --lengths 32768,131072,262144 \
        --attention low_rank,exact,streaming,dense --documents 100 --output quality.json

A document holds one pass key and eight facts of each other task (tools/needle_tasks.py, `mixed`);
it is prefilled once, in chunks, and each question is asked on its own behind it. An answer counts
when it is right to the letter, up to and with its newline. Answers are scored in one pass with the
right answer fed, every answer token a selection block of one as in decode: greedy decoding gives
the right answer exactly when the most likely token is right at every place, because up to the first
mistake both see the same tokens. `--answers` writes a line for every question as it is answered;
there a wrong answer is decoded greedily, so that it is what a user would read.

Python packages: torch, tokenizers, safetensors, numpy; Triton for the scores on a GPU.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import needle_tasks  # noqa: E402

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:

    # Sizes are not specialised on: each would be compiled again for its divisors.
    @triton.jit(do_not_specialize=["rows_n", "keys_n", "keys_per_split"])
    def _row_max_kernel(
        q,
        c,
        lo,
        out,
        rows_n,
        keys_n,
        keys_per_split,
        first,
        D: tl.constexpr,
        BQ: tl.constexpr,
        BK: tl.constexpr,
    ):
        """out[split, row] = max over the split's keys m, first <= m < lo[row], of q[row] . c[m]."""
        rows = tl.program_id(0) * BQ + tl.arange(0, BQ)
        d = tl.arange(0, D)
        ok = rows < rows_n
        queries = tl.load(q + rows[:, None] * D + d[None, :], mask=ok[:, None], other=0.0)
        limit = tl.load(lo + rows, mask=ok, other=0) - first
        start = tl.program_id(1) * keys_per_split
        end = tl.minimum(start + keys_per_split, keys_n)
        best = tl.full((BQ,), float("-inf"), tl.float32)
        for k in range(start, end, BK):
            keys = k + tl.arange(0, BK)
            tile = tl.load(
                c + (keys[:, None] + first).to(tl.int64) * D + d[None, :],
                mask=(keys < end)[:, None],
                other=0.0,
            )
            s = tl.dot(queries, tl.trans(tile), input_precision="tf32x3")
            s = tl.where((keys[None, :] < limit[:, None]) & (keys < end)[None, :], s, float("-inf"))
            best = tl.maximum(best, tl.max(s, 1))
        tl.store(out + tl.program_id(1) * rows_n + rows, best, mask=ok)

    @triton.jit(do_not_specialize=["keys_n", "length"])
    def _block_score_kernel(
        q,
        c,
        lo,
        row_max,
        out,
        keys_n,
        length,
        first,
        D: tl.constexpr,
        BQ: tl.constexpr,
        BK: tl.constexpr,
    ):
        """out[block, key] = max over the block's rows of (q . c - row_max); -inf from lo on."""
        block = tl.program_id(0)
        keys = tl.program_id(1) * BK + tl.arange(0, BK)
        d = tl.arange(0, D)
        limit = tl.load(lo + block * length) - first
        best = tl.full((BK,), float("-inf"), tl.float32)
        if tl.program_id(1) * BK < limit:
            tile = tl.load(
                c + (keys[:, None] + first).to(tl.int64) * D + d[None, :],
                mask=(keys < keys_n)[:, None],
                other=0.0,
            )
            for r in range(0, length, BQ):
                inside = r + tl.arange(0, BQ)
                rows = block * length + inside
                ok = inside < length
                queries = tl.load(q + rows[:, None] * D + d[None, :], mask=ok[:, None], other=0.0)
                top = tl.load(row_max + rows, mask=ok, other=0.0)
                s = tl.dot(queries, tl.trans(tile), input_precision="tf32x3") - top[:, None]
                s = tl.where(ok[:, None], s, float("-inf"))
                best = tl.maximum(best, tl.max(s, 0))
            best = tl.where(keys < limit, best, float("-inf"))
        tl.store(out + block.to(tl.int64) * keys_n + keys, best, mask=keys < keys_n)


def block_scores(q, c, lo, first, length, keys_n):
    """F of each block. q [B*length, d]; c [N, d]; lo [B] int32: M = [first, lo). -> [B, keys_n = max lo - first]"""
    blocks = len(lo)
    row_lo = lo.repeat_interleave(length).contiguous()
    if triton is not None and (q.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        q = q.contiguous()
        d, rows = q.shape[1], len(q)
        bq, bk = 64 if length >= 64 else 16, 128 if d <= 64 else 32
        splits = max(1, min(64, 1024 // triton.cdiv(rows, bq), triton.cdiv(keys_n, 1024)))
        per_split = triton.cdiv(triton.cdiv(keys_n, splits), bk) * bk
        splits = triton.cdiv(keys_n, per_split)
        partial = torch.empty(splits, rows, device=q.device)
        _row_max_kernel[(triton.cdiv(rows, bq), splits)](
            q, c, row_lo, partial, rows, keys_n, per_split, first, D=d, BQ=bq, BK=bk
        )
        top = partial.amax(0)
        out = torch.empty(blocks, keys_n, device=q.device)
        _block_score_kernel[(blocks, triton.cdiv(keys_n, bk))](
            q, c, row_lo, top, out, keys_n, length, first, D=d, BQ=bq, BK=bk
        )
        return out
    return block_scores_plain(q, c, lo, first, length)


def block_scores_plain(q, c, lo, first, length, keys_n=None):
    """block_scores without Triton, a block at a time."""
    keys_n = int(lo.max()) - first
    out = torch.full((len(lo), keys_n), -math.inf, device=q.device)
    for b, limit in enumerate(lo.tolist()):
        f = q[b * length : (b + 1) * length] @ c[first:limit].T
        out[b, : limit - first] = (f - f.amax(1, keepdim=True)).amax(0)
    return out


def select(scores, top_k):
    """The top_k of each row in the order (score descending, position ascending), by position.

    -> positions [B, k] and whether each is real (a row may have fewer than k above -inf).
    """
    k = min(top_k, scores.shape[1])
    threshold = scores.topk(k, dim=1).values[:, -1:]
    above = scores > threshold
    level = scores == threshold
    chosen = above | (
        level & (level.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True))
    )
    at = chosen.nonzero()[:, 1].view(len(scores), k)
    return at, scores.gather(1, at) > -math.inf


class Esa:
    """A Llama-architecture model with its cache; one sequence."""

    def __init__(
        self, directory, attention, device, capacity, esa, compressor=None, scores=block_scores
    ):
        from safetensors.torch import load_file

        with open(os.path.join(directory, "config.json")) as f:
            self.config = c = json.load(f)
        weights = {
            n: t.to(device, torch.float32)
            for n, t in load_file(os.path.join(directory, "model.safetensors")).items()
        }
        self.w, self.device, self.attention, self.esa = weights, device, attention, esa
        self.block_scores = scores
        self.layers, self.heads = c["num_hidden_layers"], c["num_attention_heads"]
        self.groups, self.dim = c["num_key_value_heads"], c["head_dim"]
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        inverse = theta ** (
            -torch.arange(0, self.dim, 2, dtype=torch.float64, device=device) / self.dim
        )
        angles = torch.arange(capacity, dtype=torch.float64, device=device)[:, None] * inverse
        self.cos, self.sin = angles.cos().float(), angles.sin().float()  # [capacity, D / 2]
        shape = (self.layers, capacity, self.groups, self.dim)
        self.k, self.kr, self.v = (torch.zeros(shape, device=device) for _ in range(3))
        self.a = self.b = self.c = None
        if attention == "low_rank":
            t = load_file(compressor or os.path.join(directory, "compressor.safetensors"))
            self.a = [t[f"layers.{i}.query"].to(device) for i in range(self.layers)]
            self.b = [t[f"layers.{i}.key"].to(device) for i in range(self.layers)]
            self.c = torch.zeros(self.layers, capacity, self.a[0].shape[1], device=device)

    def norm(self, x, name):
        return (
            x
            * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
            * self.w[name]
        )

    def rotate(self, x, start, stop):
        """x [T, heads, D] to the positions from start to stop; one position serves all."""
        cos, sin = self.cos[start:stop, None], self.sin[start:stop, None]
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def attend(self, i, q, start, blocks):
        """q [T, H, D] before RoPE, of the positions from start on; blocks: (p0, p1) that cover them."""
        total = q.shape[0]
        positions = torch.arange(start, start + total, device=self.device)
        qr = self.rotate(q, start, start + total)
        repeat = self.heads // self.groups
        if self.attention == "dense":
            end = start + total
            k, v = (
                x[i, :end].repeat_interleave(repeat, 1).transpose(0, 1)[None]
                for x in (self.kr, self.v)
            )
            if q.is_cuda:
                out = torch.ops.aten._scaled_dot_product_flash_attention(
                    qr.transpose(0, 1)[None].bfloat16(),
                    k.bfloat16(),
                    v.bfloat16(),
                    0.0,
                    True,
                    False,
                    scale=self.dim**-0.5,
                )[0].float()
            else:
                mask = torch.arange(end)[None] <= positions[:, None]
                out = F.scaled_dot_product_attention(qr.transpose(0, 1)[None], k, v, attn_mask=mask)
            return out[0].transpose(0, 1).reshape(total, -1)
        e = self.esa
        qf = self.rotate(q, e["far_position"], e["far_position"] + 1)
        out = torch.empty_like(q)
        by_length = {}
        for p0, p1 in blocks:
            if max(0, p0 - e["local_tokens"]) <= e["initial_tokens"]:
                k, v = (
                    x[i, :p1].repeat_interleave(repeat, 1).transpose(0, 1)
                    for x in (self.kr, self.v)
                )
                mask = (
                    torch.arange(p1, device=self.device)[None]
                    <= positions[p0 - start : p1 - start, None]
                )
                y = F.scaled_dot_product_attention(
                    qr[p0 - start : p1 - start].transpose(0, 1)[None],
                    k[None],
                    v[None],
                    attn_mask=mask,
                )
                out[p0 - start : p1 - start] = y[0].transpose(0, 1)
            else:
                by_length.setdefault(p1 - p0, []).append(p0)
        for length, starts in by_length.items():
            p0 = torch.tensor(starts, device=self.device)
            out_at = (p0[:, None] - start + torch.arange(length, device=self.device)).reshape(-1)
            out[out_at] = self.attend_blocks(
                i, q[out_at], qr[out_at], qf[out_at], p0, starts, length
            )
        return out.reshape(total, -1)

    def attend_blocks(self, i, q, qr, qf, p0, starts, length):
        e, blocks = self.esa, len(p0)
        initial, local = e["initial_tokens"], e["local_tokens"]
        lo = p0 - local
        far = torch.arange(initial, device=self.device).expand(blocks, -1)
        real = torch.ones_like(far, dtype=torch.bool)
        if self.attention != "streaming":
            summed = q.view(-1, self.groups, self.heads // self.groups, self.dim).sum(2).flatten(1)
            keys = self.k[i].flatten(1)
            if self.attention == "low_rank":
                summed, keys = summed @ self.a[i], self.c[i]
            scores = self.block_scores(
                summed, keys, lo.int(), initial, length, max(starts) - local - initial
            )
            p = e["proximity"]
            if p:
                inside = (
                    torch.arange(initial, initial + scores.shape[1], device=self.device)
                    < lo[:, None]
                )
                scores = F.max_pool1d(scores[:, None], 2 * p + 1, 1, p)[:, 0]
                scores = scores.masked_fill(~inside, -math.inf)
            at, ok = select(scores, e["top_k"])
            far, real = torch.cat((far, at + initial), 1), torch.cat((real, ok), 1)
        near = lo[:, None] + torch.arange(local + length, device=self.device)
        repeat = self.heads // self.groups

        def grouped(x):  # [B * L, H, D] -> [B, G, repeat * L, D]
            x = x.view(blocks, length, self.groups, repeat, self.dim)
            return x.permute(0, 2, 3, 1, 4).reshape(blocks, self.groups, repeat * length, self.dim)

        def keys_of(x, at):  # -> [B, G, keys, D]
            return x[i][at].transpose(1, 2)

        scale = self.dim**-0.5
        far_scores = grouped(qf) @ keys_of(self.k, far).mT * scale
        far_scores = far_scores.masked_fill(~real[:, None, None], -math.inf)
        near_scores = grouped(qr) @ keys_of(self.kr, near).mT * scale
        positions = p0[:, None] + torch.arange(length, device=self.device)
        causal = (near[:, None] <= positions[:, :, None])[:, None].repeat(1, 1, repeat, 1)
        near_scores = near_scores.masked_fill(~causal, -math.inf)
        weights = torch.cat((far_scores, near_scores), -1).softmax(-1)
        y = weights @ torch.cat((keys_of(self.v, far), keys_of(self.v, near)), 2)
        y = y.view(blocks, self.groups, repeat, length, self.dim).permute(0, 3, 1, 2, 4)
        return y.reshape(blocks * length, self.heads, self.dim)

    @torch.no_grad()
    def forward(self, tokens, start, blocks, logits_from=None):
        """Appends tokens at position start (what was behind is forgotten)."""
        tokens = torch.as_tensor(np.asarray(tokens, np.int64), device=self.device)
        total = len(tokens)
        x = self.w["model.embed_tokens.weight"][tokens]
        for i in range(self.layers):
            name = f"model.layers.{i}."
            h = self.norm(x, name + "input_layernorm.weight")
            q, k, v = (
                F.linear(h, self.w[f"{name}self_attn.{n}_proj.weight"]).view(total, -1, self.dim)
                for n in "qkv"
            )
            self.k[i, start : start + total] = k
            self.kr[i, start : start + total] = self.rotate(k, start, start + total)
            self.v[i, start : start + total] = v
            if self.c is not None:
                self.c[i, start : start + total] = k.flatten(1) @ self.b[i]
            x = x + F.linear(
                self.attend(i, q, start, blocks), self.w[name + "self_attn.o_proj.weight"]
            )
            h = self.norm(x, name + "post_attention_layernorm.weight")
            h = F.silu(F.linear(h, self.w[name + "mlp.gate_proj.weight"])) * F.linear(
                h, self.w[name + "mlp.up_proj.weight"]
            )
            x = x + F.linear(h, self.w[name + "mlp.down_proj.weight"])
        if logits_from is not None:
            head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
            return F.linear(self.norm(x[logits_from:], "model.norm.weight"), head)

    def prefill(self, tokens, chunk=8192):
        """The whole blocks of a document; the rest is forwarded with each question. -> length done"""
        s = self.esa["selection_block"]
        done = len(tokens) // s * s
        for at in range(0, done, chunk):
            end = min(done, at + chunk)
            self.forward(tokens[at:end], at, [(p, p + s) for p in range(at, end, s)])
        return done

    def answer(self, tokens, done, expected):
        """The most likely tokens at the places of the expected ones, these being fed.

        -> tokens, and at each place the lead of the most likely one's logit over the next
        """
        s, n = self.esa["selection_block"], len(tokens)
        blocks = [(p, min(n, p + s)) for p in range(done, n, s)]
        blocks += [(p, p + 1) for p in range(n, n + len(expected) - 1)]
        rest = list(tokens[done:]) + list(expected[:-1])
        top = self.forward(rest, done, blocks, logits_from=n - 1 - done).topk(2, dim=-1)
        return top.indices[:, 0].tolist(), (top.values[:, 0] - top.values[:, 1]).tolist()

    def greedy(self, tokens, done, last, limit=32):
        """Decodes up to and with the first token for which last(token), or `limit` tokens."""
        s, n, out = self.esa["selection_block"], len(tokens), []
        rest, start, blocks = (
            list(tokens[done:]),
            done,
            [(p, min(n, p + s)) for p in range(done, n, s)],
        )
        while True:
            out.append(
                int(self.forward(rest, start, blocks, logits_from=len(rest) - 1).argmax(-1)[0])
            )
            if len(out) == limit or last(out[-1]):
                return out
            rest, start = out[-1:], n + len(out) - 1
            blocks = [(start, start + 1)]


_state = {}


def _start_worker(tokenizer, haystack):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    _state["tokenizer"] = needle_tasks.load_tokenizer(tokenizer)
    _state["haystack"] = needle_tasks.TextHaystack(haystack) if haystack else None
    if haystack:
        _state["haystack"].paragraphs = _state["haystack"].paragraphs[:-4000]  # those calibrate


def _build(job):
    length, number, per_task, penguin = job
    t = _state["tokenizer"]
    facts = dict(needle_tasks.MIXED)
    if penguin:
        facts["penguin"] = needle_tasks.FACTS["penguin"]
    d = needle_tasks.build_document(
        t, facts, length, f"quality/{length}/{number}", _state["haystack"]
    )
    questions, asked = [], {}
    for task, question, answer in d.questions:
        asked[task] = asked.get(task, 0) + 1
        if asked[task] <= per_task:
            ids = [
                t.encode(x, add_special_tokens=False).ids
                for x in (needle_tasks.question_text(question), needle_tasks.answer_text(answer))
            ]
            questions.append((task, *ids, question, answer))
    return np.array(t.encode(d.text).ids, np.uint16), questions


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/needle")
    parser.add_argument("--compressor", help="default: the model's")
    parser.add_argument("--lengths", default="32768,131072,262144")
    parser.add_argument("--attention", default="low_rank,exact,streaming,dense")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first document")
    parser.add_argument(
        "--questions", type=int, default=2, help="of each task a document (one pass key)"
    )
    parser.add_argument("--penguin", action="store_true", help="ask for the penguin's numbers too")
    parser.add_argument("--haystack", help="text file, a paragraph a line; default: generated")
    parser.add_argument("--set", action="append", default=[], help="ESA setting, as top_k=512")
    parser.add_argument(
        "--scores",
        choices=("tf32x3", "float32"),
        default="tf32x3",
        help="how a GPU multiplies for the selection scores: three TF32 products in a Triton kernel, "
        "or float32 (faster for exact scores)",
    )
    parser.add_argument("--seconds", type=float, default=0, help="stop each cell after so long")
    parser.add_argument("--chunk", type=int, default=8192)
    parser.add_argument("--output", help="JSON, at the end")
    parser.add_argument("--answers", help="JSON lines, one a question, written as they are made")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Scores decide by their order: keep all of float32's bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    esa = dict(
        initial_tokens=32,
        local_tokens=512,
        top_k=256,
        selection_block=256,
        proximity=1,
        far_position=512,
    )
    for s in args.set:
        key, value = s.split("=")
        if key not in esa:
            raise SystemExit(f"unknown setting {key}")
        esa[key] = int(value)
    results = []
    answers = open(args.answers, "w", encoding="utf-8") if args.answers else None
    tokenizer = needle_tasks.load_tokenizer(args.model) if answers else None

    def ends_line(token):
        return "\n" in tokenizer.decode([token])

    workers = max(1, (os.cpu_count() or 2) - 2)
    with multiprocessing.get_context("spawn").Pool(
        workers, _start_worker, (args.model, args.haystack)
    ) as pool:
        for length in map(int, args.lengths.split(",")):
            jobs = [
                (length, args.first + i, args.questions, args.penguin)
                for i in range(args.documents)
            ]
            documents = pool.imap(_build, jobs)
            kept = []
            for attention in args.attention.split(","):
                model = Esa(
                    args.model,
                    attention,
                    device,
                    length + 64,
                    esa,
                    args.compressor,
                    block_scores_plain if args.scores == "float32" else block_scores,
                )
                cells, started, count, first = {}, time.time(), 0, None
                for i in range(args.documents):
                    if i == len(kept):
                        kept.append(next(documents))
                    tokens, questions = kept[i]
                    done = model.prefill(tokens, args.chunk)
                    for task, question, expected, question_text, answer_text in questions:
                        prompt = np.concatenate((tokens, np.array(question, np.uint16)))
                        got, leads = model.answer(prompt, done, expected)
                        cell = cells.setdefault(task, [0, 0, 0, 0])
                        cell[0] += got == expected
                        cell[1] += 1
                        cell[2] += sum(g == w for g, w in zip(got, expected))
                        cell[3] += len(expected)
                        if answers:
                            given = got
                            if got != expected:
                                given = model.greedy(prompt, done, ends_line)
                            line = dict(
                                attention=attention,
                                tokens=length,
                                document=f"quality/{length}/{args.first + i}",
                                prompt_sha256=hashlib.sha256(prompt.astype("<u2")).hexdigest(),
                                task=task,
                                question=question_text,
                                expected=answer_text,
                                given=tokenizer.decode(given),
                                given_ids=given,
                                right=got == expected,
                                least_lead=min(leads),
                            )
                            answers.write(json.dumps(line) + "\n")
                            answers.flush()
                    count += 1
                    if args.seconds and time.time() - started > args.seconds:
                        break
                seconds = time.time() - started
                for task, (right, n, tokens_right, tokens_n) in sorted(cells.items()):
                    low, high = needle_tasks.wilson(right, n)
                    row = dict(
                        attention=attention,
                        tokens=length,
                        task=task,
                        right=right,
                        questions=n,
                        share=right / n,
                        low=low,
                        high=high,
                        answer_tokens_right=tokens_right / tokens_n,
                        haystack=os.path.basename(args.haystack or "generated"),
                        documents=count,
                    )
                    results.append(row)
                    print(
                        f"{attention:9} {length:7} {row['haystack']:13} {task:8} {right:4}/{n:<4} {right / n:6.1%} "
                        f"({low:.1%} to {high:.1%}) tokens {row['answer_tokens_right']:.1%}",
                        flush=True,
                    )
                print(f"  {count} documents in {seconds:.1f} s", flush=True)
                del model
    if args.output:
        with open(args.output, "w") as f:
            json.dump(
                dict(
                    model=args.model,
                    esa=esa,
                    scores=args.scores,
                    device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
                    results=results,
                ),
                f,
                indent=1,
            )
            f.write("\n")


if __name__ == "__main__":
    main()
