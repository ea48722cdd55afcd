"""A GGUF file: the whole model with tokenizer and chat template, for llama.cpp and its kin."""

from pathlib import Path

from . import Format, Option, TunedPolicy
from .huggingface import own_dtype

FILE = "model.gguf"
_ENCODINGS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}

_LOADING = f"""\
- llama.cpp: `llama-cli -m {{folder}}/{FILE}`
- llama-cpp-python: `Llama("{{folder}}/{FILE}")`
- Ollama: `FROM {{folder}}/{FILE}` in a Modelfile
- rsft_jax: `load_pretrained("{{folder}}/{FILE}")` of `rsft_jax.interop`, or a run that goes on from
  it: `rsft run policy=local policy.path={{folder}}/{FILE}`"""


def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
    """Writes the one file."""
    from rsft_jax.interop import write_gguf

    encoding = tuned.options.get("encoding", _ENCODINGS[own_dtype(tuned.config.policy)])
    config = tuned.model.config
    write_gguf(folder / FILE, config, tuned.params, tuned.tokenizer, dtype=encoding)
    if encoding == "f32":
        return ()
    return (f"matrices in {encoding}; --encoding f32 keeps them as they are",)


FORMAT = Format(
    summary="one file for llama.cpp, Ollama and others; adapters merged",
    write=write,
    loading=_LOADING,
    library="gguf",
    options=(
        Option(
            "encoding",
            "of the matrices; default: as the run found them, f32 of a GGUF file",
            choices=("f32", "f16", "bf16", "q8_0"),
        ),
    ),
)
