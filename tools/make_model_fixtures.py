#!/usr/bin/env python3
"""Makes the small random models of tests/runtime/testdata/models and their logits.

Each model directory is as `save_pretrained` of Hugging Face transformers writes it, and beside it:
  prompts.json         {"prompts": [[token id, ...], ...], "positions": [[...], ...]}
  logits.safetensors   `prompts.<i>`: float32 [positions of prompt i, vocab], computed by
                       transformers in float32 from the saved files

Needs torch, transformers >= 5 and safetensors. The files depend on the versions of these only:
    python tools/make_model_fixtures.py [--output DIR]
"""

import argparse
import json
import pathlib

import safetensors.torch
import torch
import transformers

# Of the longer prompts only some logits are kept.
PROMPT_LENGTHS = (1, 7, 150, 1025, 3000)
MAX_POSITIONS = 48

LLAMA, MISTRAL, QWEN2, QWEN3 = (
    (getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM"))
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3"))

SMALL = dict(vocab_size=200, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
             bos_token_id=1, eos_token_id=2)


def rope(theta, **scaling):
    return dict(rope_type="default", rope_theta=theta) | scaling


# name -> ((config class, model class), config arguments, dtype, save_pretrained arguments, write
#          config.json the old way)
MODELS = {
    "llama_f32_tied": (
        LLAMA,
        dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
             rope_parameters=rope(20000.0),
             bos_token_id=1, eos_token_id=2, max_position_embeddings=512),
        torch.float32, {}, True),
    "llama_bf16_sharded": (
        LLAMA,
        dict(vocab_size=300, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-5,
             rope_parameters=rope(500000.0),
             bos_token_id=0, eos_token_id=[2, 299], max_position_embeddings=2048),
        torch.bfloat16, {"max_shard_size": "200KB"}, False),
    "llama_f16": (
        LLAMA,
        dict(vocab_size=259, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
             num_attention_heads=3, num_key_value_heads=1, head_dim=16,
             rope_parameters=rope(50000.0),
             bos_token_id=None, eos_token_id=None, max_position_embeddings=256),
        torch.float16, {}, False),
    # No grouping of heads.
    "llama2": (
        LLAMA,
        SMALL | dict(num_key_value_heads=4, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)),
        torch.float16, {}, True),
    "llama_bias_linear": (
        LLAMA,
        SMALL | dict(attention_bias=True,
                     rope_parameters=rope(10000.0, rope_type="linear", factor=4.0)),
        torch.bfloat16, {}, True),
    "llama31": (
        LLAMA,
        SMALL | dict(head_dim=32, rms_norm_eps=1e-5, eos_token_id=[2, 3, 4],
                     rope_parameters=rope(500000.0, rope_type="llama3", factor=8.0,
                                          low_freq_factor=1.0, high_freq_factor=4.0,
                                          original_max_position_embeddings=512)),
        torch.bfloat16, {}, True),
    "llama32_tied": (
        LLAMA,
        SMALL | dict(tie_word_embeddings=True,
                     rope_parameters=rope(500000.0, rope_type="llama3", factor=32.0,
                                          low_freq_factor=1.0, high_freq_factor=4.0,
                                          original_max_position_embeddings=512)),
        torch.bfloat16, {}, False),
    "mistral": (
        MISTRAL,
        SMALL | dict(head_dim=16, sliding_window=None, rope_parameters=rope(1e6)),
        torch.bfloat16, {}, True),
    "qwen2": (
        QWEN2,
        SMALL | dict(use_sliding_window=False, sliding_window=4096, rope_parameters=rope(1e6)),
        torch.bfloat16, {}, True),
    "qwen2_yarn": (
        QWEN2,
        SMALL | dict(num_key_value_heads=1, tie_word_embeddings=True,
                     rope_parameters=rope(1e6, rope_type="yarn", factor=4.0,
                                          original_max_position_embeddings=1024)),
        torch.bfloat16, {}, True),
    "qwen3": (
        QWEN3,
        SMALL | dict(head_dim=32, rope_parameters=rope(1e6)),
        torch.bfloat16, {}, False),
    "qwen3_yarn": (
        QWEN3,
        SMALL | dict(head_dim=32, attention_bias=True, tie_word_embeddings=True,
                     rope_parameters=rope(1e6, rope_type="yarn", factor=4.0, beta_fast=16.0,
                                          original_max_position_embeddings=1024)),
        torch.bfloat16, {}, True),
}


def randomize(model, generator):
    """Weights that make attention sharp and every norm weight matter."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)


def write_old_config(directory):
    """Rewrites config.json as transformers 4 wrote it."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    config["torch_dtype"] = config.pop("dtype")
    if config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:
        config.pop("head_dim")
    config.pop("layer_types", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def positions_of(length):
    """All, or the first ones, the last ones, and some between."""
    if length <= MAX_POSITIONS:
        return list(range(length))
    third = MAX_POSITIONS // 3
    step = (length - 2 * third) // third
    return (list(range(third)) + list(range(third, length - third, step))
            + list(range(length - third, length)))


def logits_of(directory, prompts, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager")
    with torch.no_grad():
        return [model(torch.tensor([prompt])).logits[0][positions_of(len(prompt))].contiguous()
                for prompt in prompts]


def make_model(directory, seed, classes, arguments, dtype, save_arguments, old_config):
    config_class, model_class = classes
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config_class(**arguments))
    randomize(model, generator)
    model.to(dtype).save_pretrained(directory, **save_arguments)
    if old_config:
        write_old_config(directory)

    lengths = [n for n in PROMPT_LENGTHS
               if n <= 150 or arguments["max_position_embeddings"] >= max(PROMPT_LENGTHS)]
    prompts = [torch.randint(arguments["vocab_size"], (length,), generator=generator).tolist()
               for length in lengths]
    (directory / "prompts.json").write_text(json.dumps(
        {"prompts": prompts, "positions": [positions_of(len(p)) for p in prompts]}) + "\n")
    logits = logits_of(directory, prompts, torch.float32)
    safetensors.torch.save_file({f"prompts.{i}": value for i, value in enumerate(logits)},
                                directory / "logits.safetensors")
    exact = logits_of(directory, prompts, torch.float64)
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(logits, exact))
    print(f"{directory.name}: largest error against float64, relative to the largest logit: "
          f"{error:.1e}")


def main():
    default = pathlib.Path(__file__).parent.parent / "tests/runtime/testdata/models"
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=default)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    for seed, (name, arguments) in enumerate(MODELS.items()):
        make_model(output / name, seed, *arguments)


if __name__ == "__main__":
    main()
