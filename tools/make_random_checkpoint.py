#!/usr/bin/env python3
"""Writes a checkpoint of random bfloat16 weights in the shape of a Llama config.json.

For measurements that depend on a model's size and not on what it knows. A block of random numbers
is repeated, so that a checkpoint of 16 GB takes no longer than its writing. Needs numpy.

    python tools/make_random_checkpoint.py --shape llama3-8b --output DIR [--layers N] [--context N]
"""

import argparse
import json
import pathlib

import numpy

# The published sizes of the models.
SHAPES = {
    "llama3-8b": dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336,
                      num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                      max_position_embeddings=8192, rope_theta=500000.0, rms_norm_eps=1e-5),
}
SHARD_BYTES = 4 << 30


def tensors_of(c):
    hidden, kv = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"]
    kv *= c["num_key_value_heads"]
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attn.q_proj.weight", (hidden, hidden)
        yield layer + "self_attn.k_proj.weight", (kv, hidden)
        yield layer + "self_attn.v_proj.weight", (kv, hidden)
        yield layer + "self_attn.o_proj.weight", (hidden, hidden)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.gate_proj.weight", (c["intermediate_size"], hidden)
        yield layer + "mlp.up_proj.weight", (c["intermediate_size"], hidden)
        yield layer + "mlp.down_proj.weight", (hidden, c["intermediate_size"])
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (c["vocab_size"], hidden)


def to_bfloat16(values):
    return (values.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)


def write_shard(path, tensors, noise):
    header, offset = {}, 0
    for name, shape in tensors:
        size = 2 * int(numpy.prod(shape))
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in tensors:
            left = int(numpy.prod(shape))
            if len(shape) == 1:
                file.write(to_bfloat16(numpy.ones(left)).tobytes())
                continue
            while left > 0:
                part = noise[:left]
                file.write(part.tobytes())
                left -= len(part)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--context", type=int, help="max_position_embeddings")
    arguments = parser.parse_args()
    config = SHAPES[arguments.shape] | dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
        tie_word_embeddings=False, torch_dtype="bfloat16")
    if arguments.layers:
        config["num_hidden_layers"] = arguments.layers
    if arguments.context:
        config["max_position_embeddings"] = arguments.context
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    noise = to_bfloat16(numpy.random.default_rng(1).normal(0, 0.02, (1 << 24) + 1))
    shards, size = [[]], 0
    for name, shape in tensors_of(config):
        size += 2 * int(numpy.prod(shape))
        if size > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 2 * int(numpy.prod(shape))
        shards[-1].append((name, shape))
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    index = {name: file for file, shard in zip(names, shards) for name, _ in shard}
    (arguments.output / "model.safetensors.index.json").write_text(
        json.dumps(dict(metadata={}, weight_map=index), indent=2) + "\n")
    for file, shard in zip(names, shards):
        write_shard(arguments.output / file, shard, noise)


if __name__ == "__main__":
    main()
