"""Formats of `rsft export --format NAME`, a file each: what is written, and how it is loaded.

A format is added by a file in this folder; its name is that of the file, and nothing else changes.

    def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
        from rsft_jax.interop import save_mine

        save_mine(folder / "model.mine", tuned.model, tuned.params, tuned.tokenizer)
        return ()

    FORMAT = Format(
        summary="Mine, for my server",
        write=write,
        loading="`my-server {folder}`",
        options=(Option("bits", "of a weight", choices=("4", "8"), default="8"),),
    )

`write` gets an empty folder, which takes the place that the user asked for when all that is in it
has been written; an error (`ValueError`, or `ConfigError` with the flag's name) leaves nothing.
Beside what it writes come `README.md`, the model card, and `export.json`, what was exported.

Files of this folder import JAX and the library only inside of functions: the command lists them
for its help. A file whose name starts with an underscore is no format.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...settings.plugins import modules_in
from ...settings.schema import LanguageConfig
from ...terminal.errors import ConfigError, shown

if TYPE_CHECKING:
    from rsft_jax.data.tokenizer import Tokenizer
    from rsft_jax.models import Transformer
    from rsft_jax.training import TrainState

    from ..setup import Setup


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedPolicy:
    """What is exported, the same for every format.

    Attributes:
      setup: what the arms of the run share; `setup.policy` is the `LanguagePolicy`.
      state: the train state after the last round, or its moving average.
      base_model: what the policy was before it was tuned: a name of the Hub, a folder or a file.
      options: the format's own options by name: those given, else their defaults.
    """

    setup: "Setup"
    state: "TrainState"
    base_model: str
    options: Mapping[str, str]

    @property
    def config(self) -> LanguageConfig:
        """The settings of the run."""
        return self.setup.config

    @property
    def model(self) -> "Transformer":
        """The network; its sizes are in `model.config`."""
        return self.setup.policy.model

    @property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer, with the chat template."""
        return self.setup.policy.tokenizer

    @functools.cached_property
    def params(self) -> Any:
        """The parameters: unrolled (`layers_0`, `layers_1`, ...), adapters merged.

        float32, but for what a run with `policy.params_dtype=checkpoint` has not trained.
        """
        return self.setup.policy.params(self.state)


class Option(NamedTuple):
    """A flag of a format, `--NAME VALUE`; formats that share a name share the flag.

    Attributes:
      name: of the flag, without dashes.
      help: what it is.
      choices: the values that it may have; empty for any text.
      default: its value when it is not given; None where the run decides.
    """

    name: str
    help: str
    choices: tuple[str, ...] = ()
    default: str | None = None


def _anything(config: LanguageConfig) -> None:
    """Every run has what is exported."""


class Format(NamedTuple):
    """A form in which other programs read a policy.

    Attributes:
      summary: what it is and for which programs, a few words.
      write: `(tuned, folder) -> notes`: writes it into an empty folder, and returns lines that the
        user is to see.
      loading: Markdown for the model card that says how each program loads it; `{folder}` stands
        for the folder, `{base_model}` for the model that was tuned.
      library: `library_name` of the model card, by which the Hub shows how to load it; or None.
      options: flags of its own. A flag that a format does not have is refused.
      check: raises a `ConfigError` for the settings of a run that has no such export, before
        anything is loaded.
    """

    summary: str
    write: Callable[[TunedPolicy, Path], tuple[str, ...]]
    loading: str
    library: str | None = None
    options: tuple[Option, ...] = ()
    check: Callable[[LanguageConfig], None] = _anything


DEFAULT = "huggingface"
"""The format that is written when none is named."""


def formats() -> dict[str, Format]:
    """All formats by name.

    >>> "huggingface" in formats()
    True
    """
    return {module.__name__.rpartition(".")[2]: module.FORMAT for module in modules_in(_FOLDER)}


def all_options() -> dict[str, tuple[Option, list[str]]]:
    """Every flag that a format has, by its name, with the formats that have it.

    >>> option, having = all_options()["dtype"]
    >>> option.name, "huggingface" in having
    ('dtype', True)
    """
    found: dict[str, tuple[Option, list[str]]] = {}
    for name, form in formats().items():
        for option in form.options:
            found.setdefault(option.name, (option, []))[1].append(name)
    return {name: (option, having) for name, (option, having) in found.items()}


def chosen_options(name: str, given: Mapping[str, str | None]) -> dict[str, str]:
    """The options of a format: those given, else their defaults where there are any.

    Args:
      name: of the format.
      given: values by the names of flags; None for those that were not given.

    Raises:
      ConfigError: the format has no such flag, or no such value of it.

    >>> chosen_options("huggingface", {"dtype": "float16"})
    {'dtype': 'float16'}
    """
    own = {option.name: option for option in formats()[name].options}
    for flag, value in given.items():
        if value is not None and flag not in own:
            raise ConfigError(f"--{flag}: {shown(value)}; --format {name} has no such option")
    values = {flag: given.get(flag) or option.default for flag, option in own.items()}
    for flag, value in values.items():
        if value is not None and own[flag].choices and value not in own[flag].choices:
            allowed = ", ".join(own[flag].choices)
            raise ConfigError(f"--{flag}: {shown(value)}; with --format {name} one of {allowed}")
    return {flag: value for flag, value in values.items() if value is not None}


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the Hugging Face Hub, `owner/model`, and no folder that is here.

    >>> is_hub_name("HuggingFaceTB/SmolLM2-135M-Instruct"), is_hub_name("/models/mine")
    (True, False)
    """
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


_FOLDER = __name__.partition("experiments.")[2]
