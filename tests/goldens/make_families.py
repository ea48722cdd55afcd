"""Makes families.json: what Hugging Face transformers computes for a tiny model of each family.

The models are transformers' own, made from its own configuration classes; their weights are drawn
by NumPy from the name of each array, so that the test makes the same ones and no weight is kept
here. Run it in an environment of its own, from the top of the checkout:

    python3.11 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 transformers==5.24.0
    /tmp/reference/bin/python tests/goldens/make_families.py
"""

import json
import os
from pathlib import Path

import torch
import transformers
from family_models import COLUMNS, LENGTHS, tensor, tokens

os.environ["HF_HUB_OFFLINE"] = "1"

OUTPUT = Path(__file__).with_name("families.json")

SIZES = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 256,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "beta_fast": 8.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 500.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0], "partial_rotary_factor": 0.5,
}  # fmt: skip
GLOBAL = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 100.0}

MODELS = {
    "llama": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama_linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    "llama_yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_hidden_layers": 6, "tie_word_embeddings": True,
            "rope_parameters": {"full_attention": GLOBAL, "sliding_attention": LOCAL},
        },
    ),
    "olmo2": ("Olmo2", {}),
    "olmo3": (
        "Olmo3",
        {
            "sliding_window": 8,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "smollm3": ("SmolLM3", {"tie_word_embeddings": True}),
    "phi3": (
        "Phi3",
        {
            "sliding_window": 8,
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5,
            },
        },
    ),
    "phi3_long": ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
    "gpt2": ("GPT2", {}),
}  # fmt: skip
GPT2 = {
    "vocab_size": 259, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128,
    "bos_token_id": 257, "eos_token_id": 258,
}  # fmt: skip


def golden(kind: str, options: dict) -> dict:
    """The configuration, the logits at every position, and a gradient."""
    sizes = GPT2 if kind == "GPT2" else SIZES
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(tensor(name, tuple(parameter.shape))))
    ids = torch.from_numpy(tokens())
    logits = model(ids).logits
    log_probs = torch.log_softmax(logits[:, :-1].double(), dim=-1)
    chosen = torch.gather(log_probs, 2, ids[:, 1:, None])[..., 0]
    real = torch.arange(1, ids.shape[1])[None] < torch.tensor(LENGTHS)[:, None]
    loss = -(chosen * real).sum() / real.sum()
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        along = tensor(name + " along", tuple(parameter.shape))
        gradients[name] = [
            list(parameter.shape),
            parameter.grad.norm().item(),
            (parameter.grad.numpy() * along).sum().item(),
        ]
    values = logits.detach()
    return {
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "loss": loss.item(),
        "columns": [[round(v, 5) for v in row] for row in _real(values[..., list(COLUMNS)])],
        "log_sum_exp": [round(v, 5) for v in _real(values.double().logsumexp(-1))],
        "gradients": {
            name: [shape, *(float(f"{v:.6g}") for v in numbers)]
            for name, (shape, *numbers) in gradients.items()
        },
    }


def _real(values: torch.Tensor) -> list:
    """What stands at the positions of the prompts, one behind the other."""
    return [v.tolist() for row, length in zip(values, LENGTHS) for v in row[:length]]


def main() -> None:
    """Writes the goldens."""
    torch.set_num_threads(1)
    goldens = {
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
        "models": {name: golden(kind, options) for name, (kind, options) in MODELS.items()},
    }
    OUTPUT.write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
