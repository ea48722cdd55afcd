"""A Hugging Face folder: the whole model, adapters merged."""

from pathlib import Path

from ...settings.schema import PolicyConfig
from . import Format, Option, TunedPolicy

_LOADING = """\
- Transformers: `AutoModelForCausalLM.from_pretrained("{folder}")`, and
  `AutoTokenizer.from_pretrained("{folder}")`
- vLLM: `vllm serve {folder}`
- rsft_jax: `load_pretrained("{folder}")` of `rsft_jax.interop`, or a run that goes on from it:
  `rsft run policy=local policy.path={folder}`"""


def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
    """Writes config.json, the tokenizer and the weights in safetensors."""
    from rsft_jax.interop import save_pretrained

    own = own_dtype(tuned.config.policy)
    dtype = tuned.options.get("dtype", own)
    save_pretrained(folder, tuned.model, tuned.params, tuned.tokenizer, dtype=dtype)
    if dtype == "float32":
        return ()
    why = ", that of the model that was tuned" if dtype == own else ""
    return (f"weights rounded to {dtype}{why}; --dtype float32 keeps them as they are",)


def own_dtype(policy: PolicyConfig) -> str:
    """The dtype of the weights that a run started from."""
    from rsft_jax.interop import pretrained_dtype

    return "float32" if policy.path is None else pretrained_dtype(policy.path)


FORMAT = Format(
    summary="a folder for Transformers, vLLM and others; adapters merged",
    write=write,
    loading=_LOADING,
    library="transformers",
    options=(
        Option(
            "dtype",
            "of the weights; default: as the run found them, float32 of a GGUF file",
            choices=("float32", "bfloat16", "float16"),
        ),
    ),
)
