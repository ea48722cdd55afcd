"""What `rsft generate` and `rsft chat` share: which policy is drawn from, and how."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..kinds import kind_of, without_policy
from ..runs.folder import existing_run
from ..settings import checks
from ..settings.compose import allowed_packages
from ..terminal.errors import ConfigError, shown
from ..terminal.parser import Parser

if TYPE_CHECKING:
    from ..language.opened import Opened
    from ..terminal.console import Console

_LAW = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p")


def add_policy(parser: Parser) -> None:
    """Adds the policy: of a run, or a model."""
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER",
        help="the output_dir of a run, a GGUF file, or a Hugging Face folder",
    )  # fmt: skip
    parser.add_argument("--arm", help="of a run: whose parameters (default: policy)")
    parser.add_argument(
        "--weights", choices=("averaged", "last"),
        help="of a run: of the last step, or their moving average (default: the average, if there "
        "is one)",
    )  # fmt: skip
    parser.add_allow()


def add_law(parser: Parser, length: str = "as in the run, or 64") -> None:
    """Adds how completions are drawn; what is not given is as in the run."""
    number = "N"
    parser.add_argument(
        "--max-new-tokens", type=int, metavar=number,
        help=f"longest completion, in tokens (default: {length})",
    )  # fmt: skip
    for name, kind, text in (
        ("temperature", float, "divides the logits; 0 is greedy"),
        ("top-k", int, "keep the k most likely tokens; 0 keeps all"),
        ("top-p", float, "keep the most likely tokens of this mass; 1 keeps all"),
        ("min-p", float, "keep tokens at least this times as likely as the likeliest; 0 keeps all"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar=number, help=text)
    parser.add_argument("--seed", type=int, default=0, metavar=number, help="default: 0")


def check_given(parsed: argparse.Namespace) -> None:
    """Checks what can be checked before anything is loaded.

    Raises:
      ConfigError: there is nothing at the path, or the seed is none.
    """
    if not parsed.folder.exists():
        raise ConfigError(
            f"{shown(str(parsed.folder))}: is not there; give the folder of a run, a GGUF file or "
            "a Hugging Face folder"
        )
    checks.seed("--seed", parsed.seed)


def opened(
    parsed: argparse.Namespace, console: "Console", *, longest: int | None = None
) -> "Opened":
    """The policy that was asked for, with the law that was asked for.

    Args:
      parsed: the flags.
      console: where loading is told.
      longest: the longest completion, in tokens, where no flag says it: no more than half of the
        policy's context. By default as in the run.

    Raises:
      ConfigError: there is none, it cannot be read, or a flag does not fit it.
    """
    from ..language.assets import default_cache_dir
    from ..runs import backend

    backend.use_compilation_cache(default_cache_dir() / "xla")
    policy = _opened(parsed, console)
    given = {name: getattr(parsed, name) for name in _LAW if getattr(parsed, name) is not None}
    sampling = policy.sampling
    if longest is not None:
        given = {"max_new_tokens": min(longest, policy.max_length // 2), **given}
    if "max_new_tokens" in given:  # a shorter text may have no room for the shortest of the run
        given["min_new_tokens"] = min(sampling.min_new_tokens, max(0, given["max_new_tokens"]))
    sampling = dataclasses.replace(sampling, **given)
    try:
        sampling.check()
    except ConfigError as error:
        raise ConfigError(_as_flags(str(error))) from None
    if sampling.max_new_tokens >= policy.max_length:
        raise ConfigError(
            f"--max-new-tokens: {sampling.max_new_tokens}; must be below {policy.max_length}, the "
            "policy's context"
        )
    return dataclasses.replace(policy, sampling=sampling)


def _opened(parsed: argparse.Namespace, console: "Console") -> "Opened":
    folder = parsed.folder
    if (folder / "run.json").is_file():
        existing_run(folder)
        allowed = allowed_packages(parsed.allow)
        kind = kind_of(folder)
        if kind.open is None:
            raise without_policy(folder)
        arm = "policy" if parsed.arm is None else parsed.arm
        return kind.open(folder, console, arm=arm, weights=parsed.weights, allow_packages=allowed)
    from ..language.opened import open_model

    for flag in ("arm", "weights", "allow"):
        if value := getattr(parsed, flag):
            what = f"--{flag}: {shown(value)}"
            raise ConfigError(f"{what}; is for the folder of a run, {shown(str(folder))} is none")
    return open_model(folder)


def _as_flags(text: str) -> str:
    """An error of the settings as one of the flags.

    >>> _as_flags("sampling.top_p: 2.0; must be above 0 and at most 1")
    '--top-p: 2.0; must be above 0 and at most 1'
    """
    return re.sub(r"sampling\.(\w+)", lambda m: "--" + m.group(1).replace("_", "-"), text)
