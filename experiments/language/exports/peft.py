"""The adapter alone, as PEFT keeps it, to be loaded on top of the model that was tuned."""

from pathlib import Path

from ...settings.schema import LanguageConfig, Lora
from ...terminal.errors import ConfigError, shown
from . import Format, TunedPolicy, is_hub_name

_LOADING = """\
The model that was tuned, `{base_model}`, is needed beside it, as a Hugging Face folder.

- PEFT: `base = AutoModelForCausalLM.from_pretrained("{base_model}")`, and then
  `PeftModel.from_pretrained(base, "{folder}")`
- vLLM: `vllm serve {base_model} --enable-lora --lora-modules tuned={folder}`
- rsft_jax: a run that starts from it:
  `rsft run policy=local policy.path={base_model} policy.adapter={folder}`"""


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
    """Writes adapter_model.safetensors and adapter_config.json.

    Where the run started from an adapter (`policy.adapter`), what is written is the sum of that one
    and the trained one, of the sum of their ranks: it belongs on the model that both are for.
    """
    from rsft_jax.interop import join_lora, largest_change, load_adapter, save_adapter
    from rsft_jax.models import unstack_layers
    from rsft_jax.models.lora import scale_lora

    part, policy = tuned.config.training.part, tuned.setup.policy
    assert isinstance(part, Lora)  # see `check`
    start, base, notes = tuned.config.policy.adapter, tuned.base_model, []
    lora, scale = unstack_layers(policy.trained(tuned.state)), part.alpha / part.rank
    if start is not None:
        first = load_adapter(start, tuned.model)
        lora, scale = join_lora(first, scale_lora(lora, scale)), 1.0
        notes.append(f"the adapter that the run started from is in it: {start}")
    dropout = part.dropout
    save_adapter(folder, tuned.model, lora, scale=scale, base_model=base, dropout=dropout)
    before, after = policy.sampled(policy.initial), policy.sampled(tuned.state)
    if largest_change(tuned.model, before, after) == 0:
        notes.append("what was trained moves no logit: the run has changed nothing")
    if not (Path(base).is_dir() or is_hub_name(base)):
        notes.append(
            f"{base} is no Hugging Face folder, which PEFT needs as the base model; name one of "
            "the same weights with --base-model"
        )
    return tuple(notes)


FORMAT = Format(
    summary="the adapter alone, for PEFT and vLLM; of runs with training/part=lora",
    write=write,
    loading=_LOADING,
    library="peft",
    check=check,
)
