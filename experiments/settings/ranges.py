"""The ranges of all settings, checked before anything is compiled or written."""

import math
import re
from pathlib import Path
from typing import Any

from ..terminal.errors import ConfigError, shown
from .schema import (
    GaussianConfig,
    JoblibLauncher,
    LanguageConfig,
    LastLayers,
    LauncherConfig,
    Lora,
    Matching,
    MeshConfig,
    OwnRule,
    RandomControl,
    RayLauncher,
    RewardConfig,
    RunConfig,
    SelectionConfig,
    StatisticalRejection,
    SubmititLauncher,
    Threshold,
    TopK,
    TrainingConfig,
)
from .typed import build

_FRACTION = "at least 0 and below 1"
_TERM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def output_folder(value: Any) -> Path | None:
    """Types and checks the value of `output_dir`; None leaves the choice to the command.

    Raises:
      ConfigError: it is no text, or none that names a folder.
    """
    text = build(str | None, value, "output_dir")
    if text is None:
        return None
    _check(_is_path(text), "output_dir", text, "the path of a folder")
    return Path(text)


def _is_path(text: str) -> bool:
    """Whether a text can be a path, and be written to a file of settings."""
    is_unicode = not any("\ud800" <= character <= "\udfff" for character in text)
    return bool(text.strip()) and "\0" not in text and is_unicode


def validate(config: RunConfig) -> None:
    """Checks the ranges of all settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    _check(
        _RUN_NAME.fullmatch(config.name) is not None,
        "name",
        config.name,
        "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit",
    )
    _check(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    output_folder(config.output_dir)
    for name in ("project", "experiment"):
        value = getattr(config.tracker, name, "rsft")
        allowed = "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
        _check(_RUN_NAME.fullmatch(value) is not None, f"tracker.{name}", value, allowed)
    if isinstance(config, LanguageConfig):
        _validate_language(config)
    else:
        _validate_gaussian(config)


def _validate_language(config: LanguageConfig) -> None:
    policy, data, sampling = config.policy, config.data, config.sampling
    given = [getattr(policy, name) for name in ("asset", "path", "function")]
    if sum(value is not None for value in given) != 1:
        raise ConfigError(
            f"policy.path: {shown(policy.path)} with policy.asset: {shown(policy.asset)} and "
            f"policy.function: {shown(policy.function)}; give exactly one of them and set the "
            "others to null"
        )
    _check(
        data.train_split != data.heldout_split,
        "data.heldout_split",
        data.heldout_split,
        "another split than data.train_split",
    )
    for name in ("max_train_prompts", "max_heldout_prompts"):
        value = getattr(data, name)
        _check(value is None or value >= 1, f"data.{name}", value, "at least 1, or null for all")

    for name in ("num_candidates", "max_new_tokens", "batch_size"):
        _at_least(f"sampling.{name}", getattr(sampling, name), 1)
    _not_negative("sampling.temperature", sampling.temperature)
    _at_least("sampling.top_k", sampling.top_k, 0)
    _check(0 < sampling.top_p <= 1, "sampling.top_p", sampling.top_p, "above 0 and at most 1")
    _check(0 <= sampling.min_p <= 1, "sampling.min_p", sampling.min_p, "from 0 to 1")
    most = sampling.max_new_tokens
    allowed = f"from 0 to sampling.max_new_tokens = {most}"
    fewest = sampling.min_new_tokens
    _check(0 <= fewest <= most, "sampling.min_new_tokens", fewest, allowed)
    penalty = sampling.repetition_penalty
    finite = math.isfinite(penalty) and penalty > 0
    _check(finite, "sampling.repetition_penalty", penalty, "above 0 (1 is off)")
    strings = list(sampling.stop_strings)
    _check(all(strings), "sampling.stop_strings", strings, "texts that are not empty")

    if sampling.early_stop and config.candidates is not None:
        raise ConfigError("sampling.early_stop: true; nothing is drawn where candidates are given")
    if sampling.early_stop and config.mesh.distributed:
        raise ConfigError(
            "sampling.early_stop: true; not with mesh.distributed=true, whose processes draw apart"
        )

    validate_reward(config.reward)
    validate_selection(config.selection, sampling.num_candidates)
    if sampling.early_stop:
        _validate_early_stop(config.selection)
    _validate_training(config.training)
    _validate_mesh(config.mesh)
    if config.mesh.distributed and config.output_dir is None:
        raise ConfigError(
            "output_dir: null; with mesh.distributed=true it must be a folder that all processes "
            "share"
        )
    for name in ("num_rounds", "prompts_per_round"):
        _at_least(f"rounds.{name}", getattr(config.rounds, name), 1)
    evaluation = config.evaluation
    for name in ("num_prompts", "num_candidates", "kl_prompts", "bootstrap_samples"):
        _at_least(f"evaluation.{name}", getattr(evaluation, name), 1)
    _inside("evaluation.confidence", evaluation.confidence, 0, 1)
    _at_least("checkpoint.keep", config.checkpoint.keep, 1)
    for name in ("store", "candidates"):
        path = getattr(config, name)
        _check(path is None or _is_path(path), name, path, "a path, or null")
    if config.candidates is not None and not Path(config.candidates).exists():
        raise ConfigError(f"candidates: {shown(config.candidates)}; is not there")


def validate_reward(reward: RewardConfig) -> None:
    """Checks the ranges of a reward's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    for name in ("sentiment", "offensive", "repetition", "length"):
        _not_negative(f"reward.{name}", getattr(reward, name))
    _at_least("reward.min_words", reward.min_words, 0)
    _check(
        reward.max_words >= max(reward.min_words, 1),
        "reward.max_words",
        reward.max_words,
        f"at least reward.min_words = {reward.min_words}, and at least 1",
    )
    taken = {"sentiment", "offensive", "repetition", "length"}
    for number, term in enumerate(reward.functions):
        field = f"reward.functions[{number}]"
        is_new = _TERM_NAME.fullmatch(term.name) is not None and term.name not in taken
        _check(is_new, f"{field}.name", term.name, "a name of its own, letters, digits and '_'")
        _check(math.isfinite(term.weight), f"{field}.weight", term.weight, "finite")
        taken.add(term.name)


def validate_selection(selection: SelectionConfig, num_candidates: int) -> None:
    """Checks the ranges of a rule's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    counted = f"from 1 to sampling.num_candidates = {num_candidates}"
    if isinstance(selection, TopK | RandomControl):
        _check(1 <= selection.k <= num_candidates, "selection.k", selection.k, counted)
    budgeted = Threshold | StatisticalRejection | OwnRule
    if isinstance(selection, budgeted) and selection.budget is not None:
        value = selection.budget
        _check(1 <= value <= num_candidates, "selection.budget", value, f"{counted}, or null")
    if isinstance(selection, Threshold):
        _check(math.isfinite(selection.minimum), "selection.minimum", selection.minimum, "finite")
    if isinstance(selection, StatisticalRejection):
        _positive("selection.beta", selection.beta)
        bound = selection.max_reward
        _check(
            bound is None or math.isfinite(bound), "selection.max_reward", bound, "finite, or null"
        )


def _validate_early_stop(selection: SelectionConfig) -> None:
    """Checks what can be told of a rule by its settings; of one's own rule, its budget."""
    fits = isinstance(selection, Threshold | OwnRule) or (
        isinstance(selection, StatisticalRejection) and selection.max_reward is not None
    )
    if not fits:
        raise ConfigError(
            f"sampling.early_stop: true; selection.rule: {selection.rule} must see all candidates "
            "of a prompt; those that judge each by itself are threshold and statistical_rejection "
            "with a selection.max_reward"
        )
    if selection.budget is None:
        raise ConfigError(
            "sampling.early_stop: true; needs selection.budget, the number of accepted candidates "
            "that is enough for a prompt"
        )


def _validate_training(training: TrainingConfig) -> None:
    part = training.part
    if isinstance(part, Lora):
        _at_least("training.part.rank", part.rank, 1)
        _positive("training.part.alpha", part.alpha)
        unique = len(part.targets) > 0 and len(set(part.targets)) == len(part.targets)
        _check(unique, "training.part.targets", part.targets, "at least one name, each once")
        _check(0 <= part.dropout < 1, "training.part.dropout", part.dropout, _FRACTION)
    if isinstance(part, LastLayers):
        _at_least("training.part.num_layers", part.num_layers, 1)
    _positive("training.learning_rate", training.learning_rate)
    _at_least("training.warmup_steps", training.warmup_steps, 0)
    if training.clip_norm is not None:
        _positive("training.clip_norm", training.clip_norm, ", or null")
    _not_negative("training.weight_decay", training.weight_decay)
    for name in ("epochs", "batch_size"):
        _at_least(f"training.{name}", getattr(training, name), 1)
    if isinstance(part, Matching):
        _check(len(part.patterns) > 0, "training.part.patterns", part.patterns, "at least one")
    if training.row_length is not None:
        _at_least("training.row_length", training.row_length, 2)
    smoothing, ratio = training.label_smoothing, training.clip_ratio
    _check(0 <= smoothing < 1, "training.label_smoothing", smoothing, _FRACTION)
    for name in ("replay_fraction", "ema_decay"):
        value = getattr(training, name)
        if value is not None:
            _check(0 <= value < 1, f"training.{name}", value, _FRACTION)
    for name in ("z_loss", "kl_weight"):
        _not_negative(f"training.{name}", getattr(training, name))
    if ratio is not None:
        _not_negative("training.clip_ratio", ratio)
        _check(smoothing == 0, "training.label_smoothing", smoothing, "0 with a clip_ratio")


def _validate_mesh(mesh: MeshConfig) -> None:
    names = ("data", "fsdp", "tensor")
    for name in names:
        value = getattr(mesh, name)
        _check(value >= 1 or value == -1, f"mesh.{name}", value, "at least 1, or -1 for the rest")
    free = [name for name in names if getattr(mesh, name) == -1]
    if len(free) > 1:
        raise ConfigError(f"mesh.{free[1]}: -1; only one size may be -1, and mesh.{free[0]} is")
    if mesh.rules == "single":
        for name in names:
            _check(getattr(mesh, name) == 1, f"mesh.{name}", getattr(mesh, name), "1 on one device")
        _check(not mesh.distributed, "mesh.rules", mesh.rules, "another with distributed processes")


def _validate_gaussian(config: GaussianConfig) -> None:
    problem, training, law = config.problem, config.training, config.law
    _at_least("problem.num_inputs", problem.num_inputs, 2)
    for name in ("mean", "curvature"):
        value = getattr(problem, name)
        _check(math.isfinite(value), f"problem.{name}", value, "finite")
    _inside("problem.deviation", problem.deviation, 0, 1)
    _not_negative("problem.noise", problem.noise)
    for name in ("num_rounds", "steps_per_round", "batch_size", "max_attempts"):
        _at_least(f"training.{name}", getattr(training, name), 1)
    _positive("training.learning_rate", training.learning_rate)
    _at_least("law.num_bins", law.num_bins, 2)
    _at_least("law.num_samples", law.num_samples, 100 * law.num_bins)


def validate_launcher(launcher: LauncherConfig) -> None:
    """Checks the ranges of a launcher's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    if launcher.timeout_minutes is not None:
        _positive("launcher.timeout_minutes", launcher.timeout_minutes, ", or null")
    _at_least("launcher.retries", launcher.retries, 0)
    if isinstance(launcher, JoblibLauncher):
        _at_least("launcher.num_jobs", launcher.num_jobs, 1)
    if isinstance(launcher, SubmititLauncher):
        _at_least("launcher.gpus_per_node", launcher.gpus_per_node, 0)
        for name in ("cpus_per_task", "memory_gb"):
            _at_least(f"launcher.{name}", getattr(launcher, name), 1)
    if isinstance(launcher, RayLauncher):
        for name in ("cpus_per_job", "gpus_per_job"):
            _not_negative(f"launcher.{name}", getattr(launcher, name))


def _check(is_right: bool, name: str, value: object, allowed: str) -> None:
    if not is_right:
        raise ConfigError(f"{name}: {shown(value)}; must be {allowed}")


def _at_least(name: str, value: int, minimum: int) -> None:
    _check(value >= minimum, name, value, f"at least {minimum}")


def _positive(name: str, value: float, alternative: str = "") -> None:
    _check(value > 0 and math.isfinite(value), name, value, f"above 0 and finite{alternative}")


def _not_negative(name: str, value: float) -> None:
    _check(value >= 0 and math.isfinite(value), name, value, "at least 0 and finite")


def _inside(name: str, value: float, low: float, high: float) -> None:
    _check(low < value < high, name, value, f"between {low} and {high}, neither included")
