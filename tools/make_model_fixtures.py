#!/usr/bin/env python3
"""Makes the small random Llama models of tests/runtime/testdata/models and their logits.

Each model directory is as `save_pretrained` of Hugging Face transformers writes it, and beside it:
  prompts.json         {"prompts": [[token id, ...], ...]}
  logits.safetensors   `prompts.<i>`: float32 [len(prompt i), vocab], computed by transformers in
                       float32 from the saved files

Needs torch, transformers >= 5 and safetensors. The files depend on the versions of these only:
    python tools/make_model_fixtures.py [--output DIR]
"""

import argparse
import json
import pathlib

import safetensors.torch
import torch
import transformers

PROMPT_LENGTHS = (1, 7, 150)

# name -> (LlamaConfig arguments, dtype, save_pretrained arguments, write config.json the old way)
MODELS = {
    "llama_f32_tied": (
        dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
             rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
             bos_token_id=1, eos_token_id=2, max_position_embeddings=512),
        torch.float32, {}, True),
    "llama_bf16_sharded": (
        dict(vocab_size=300, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-5,
             rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
             bos_token_id=0, eos_token_id=[2, 299], max_position_embeddings=2048),
        torch.bfloat16, {"max_shard_size": "200KB"}, False),
    "llama_f16": (
        dict(vocab_size=259, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
             num_attention_heads=3, num_key_value_heads=1, head_dim=16,
             rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
             bos_token_id=None, eos_token_id=None, max_position_embeddings=256),
        torch.float16, {}, False),
}


def randomize(model, generator):
    """Weights that make attention sharp and every norm weight matter."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)


def write_old_config(directory):
    """Rewrites config.json as transformers 4 wrote it."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    config.pop("head_dim")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def logits_of(directory, prompts, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager")
    with torch.no_grad():
        return [model(torch.tensor([prompt])).logits[0].contiguous() for prompt in prompts]


def make_model(directory, seed, arguments, dtype, save_arguments, old_config):
    generator = torch.Generator().manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**arguments))
    randomize(model, generator)
    model.to(dtype).save_pretrained(directory, **save_arguments)
    if old_config:
        write_old_config(directory)

    prompts = [torch.randint(arguments["vocab_size"], (length,), generator=generator).tolist()
               for length in PROMPT_LENGTHS]
    (directory / "prompts.json").write_text(json.dumps({"prompts": prompts}) + "\n")
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
