"""Makes classifiers.json: what sequence classifiers of Hugging Face transformers say of texts.

The models are transformers' own, of the configurations in families.json, two labels each; their
weights are drawn by NumPy from the name of each array, as in make_families.py, which says how to
run such a script.
"""

import json
import os
from pathlib import Path

import torch
import transformers
from family_models import tensor, tokens

os.environ["HF_HUB_OFFLINE"] = "1"

HERE = Path(__file__).parent
# One of each family, with a window or long positions where the family has them.
NAMES = (
    "llama", "mistral", "qwen2_window", "qwen3", "gemma2", "gemma3", "olmo2", "olmo3", "smollm3",
    "phi3", "gpt2",
)  # fmt: skip


def golden(config: dict) -> list[list[float]]:
    """`[3, 2]` scores of the padded texts."""
    config = transformers.AutoConfig.for_model(
        **config | {"pad_token_id": 256, "id2label": {"0": "bad", "1": "good"}}
    )
    config._attn_implementation = "eager"
    model = transformers.AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(tensor(name, tuple(parameter.shape))))
        ids = torch.from_numpy(tokens())
        scores = model(ids, attention_mask=(ids != 256).long()).logits
    return [[round(value, 6) for value in row] for row in scores.tolist()]


def main() -> None:
    """Writes the goldens."""
    torch.set_num_threads(1)
    models = json.loads((HERE / "families.json").read_text())["models"]
    goldens = {
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
        "scores": {name: golden(models[name]["config"]) for name in NAMES},
    }
    output = HERE / "classifiers.json"
    output.write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
