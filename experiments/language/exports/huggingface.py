"""A Hugging Face folder: the whole model, adapters merged."""

from pathlib import Path

from . import Format, TunedPolicy

_LOADING = """\
- Transformers: `AutoModelForCausalLM.from_pretrained("{folder}")`, and
  `AutoTokenizer.from_pretrained("{folder}")`
- vLLM: `vllm serve {folder}`
- rsft_jax: `load_pretrained("{folder}")` of `rsft_jax.interop`, or a run that goes on from it:
  `rsft run policy=local policy.path={folder}`"""


def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
    """Writes config.json, the tokenizer and the weights in safetensors."""
    from rsft_jax.interop import save_pretrained

    save_pretrained(folder, tuned.model, tuned.params, tuned.tokenizer)
    return ()


FORMAT = Format(
    summary="a folder for Transformers, vLLM and others; adapters merged",
    write=write,
    loading=_LOADING,
    library="transformers",
)
