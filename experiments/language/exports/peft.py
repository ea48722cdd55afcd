"""The adapter alone, as PEFT keeps it, to be loaded on top of the model that was tuned."""

from pathlib import Path

from ...settings.schema import LanguageConfig, Lora
from ...terminal.errors import ConfigError, shown
from . import Format, TunedPolicy

_LOADING = """\
The model that was tuned, `{base_model}`, is needed beside it, as a Hugging Face folder.

- PEFT: `base = AutoModelForCausalLM.from_pretrained("{base_model}")`, and then
  `PeftModel.from_pretrained(base, "{folder}")`
- vLLM: `vllm serve {base_model} --enable-lora --lora-modules tuned={folder}`"""


def check(config: LanguageConfig) -> None:
    """Checks that the run has trained adapters.

    Raises:
      ConfigError: it has trained the parameters themselves.
    """
    part = config.training.part
    if not isinstance(part, Lora):
        raise ConfigError(
            f"--format: 'peft'; the run has training.part.name={shown(part.name)}, which trains no "
            "adapter; only runs with training/part=lora have one"
        )


def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
    """Writes adapter_model.safetensors and adapter_config.json."""
    from rsft_jax.interop import save_adapter
    from rsft_jax.models import unstack_layers

    part = tuned.config.training.part
    assert isinstance(part, Lora)  # see `check`
    lora = unstack_layers(tuned.setup.policy.trained(tuned.state))
    save_adapter(
        folder,
        tuned.model,
        lora,
        scale=part.alpha / part.rank,
        base_model=tuned.base_model,
        dropout=part.dropout,
    )
    return ()


FORMAT = Format(
    summary="the adapter alone, for PEFT and vLLM; of runs with training/part=lora",
    write=write,
    loading=_LOADING,
    library="peft",
    check=check,
)
