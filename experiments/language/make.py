"""Turns settings into the objects of the library: one small function for each part."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rsft_jax import selection as rules
from rsft_jax import sharding, training
from rsft_jax.data import Prompt, read_prompts
from rsft_jax.generation import SamplingParams
from rsft_jax.interop import Pretrained, largest_change, load_adapter, load_pretrained
from rsft_jax.interop.endpoints import Judge as EndpointJudge
from rsft_jax.models.lora import merge_lora
from rsft_jax.policies import EarlyStop
from rsft_jax.rewards import PromptRow, Term, WeightedSum, from_text_score, weighted_sum
from rsft_jax.rollouts import RolloutStore
from rsft_jax.types import PRNGKey

from ..settings import schema, user_code
from ..settings.rewards import RewardTerm
from ..settings.typed import to_dict
from ..terminal.errors import ConfigError, one_line, shown
from ..terminal.files import contents_digest
from . import assets, tiny

_APPLICATIONS = Path(__file__).parents[1] / "applications"


def load_policy(policy: schema.PolicyConfig, allowed: Sequence[str] = ()) -> Pretrained:
    """Loads the model, its parameters and its tokenizer, with an adapter merged where one is named.

    Raises:
      ConfigError: the asset is unknown, the file is missing, damaged or of no known kind, or the
        adapter does not fit the model or changes nothing.
    """
    base = _load_base(policy, allowed)
    return base if policy.adapter is None else _with_adapter(base, policy.adapter)


def _with_adapter(base: Pretrained, adapter: str) -> Pretrained:
    """The model with the pairs of an adapter added to its kernels."""
    field = f"policy.adapter: {shown(adapter)}"
    try:
        params = merge_lora(base.params, load_adapter(adapter, base.model))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{field}; {one_line(error)}") from None
    if largest_change(base.model, base.params, params) == 0:
        raise ConfigError(
            f"{field}; moves no logit of the model: it is not trained (its lora_B are zero), or "
            f"too small for policy.dtype={base.model.config.dtype}"
        )
    return base._replace(params=params)


def _load_base(policy: schema.PolicyConfig, allowed: Sequence[str]) -> Pretrained:
    """The model without an adapter; a pinned file is fetched when needed."""
    dtype = jnp.dtype(policy.dtype)
    if policy.function is not None:
        make = user_code.load_function(policy.function, allowed, "policy.function")
        found = user_code.call(make, "policy.function", dtype=dtype)
        if not isinstance(found, Pretrained):
            raise ConfigError(
                f"policy.function: {policy.function} must return a Pretrained(model, params, "
                f"tokenizer), got {type(found).__name__}"
            )
        return found
    if policy.asset == "tiny-random":
        return tiny.random_policy(dtype)
    if policy.asset is not None:
        if policy.asset not in assets.models():
            known = ", ".join([*assets.models(), "tiny-random"])
            raise ConfigError(f"policy.asset: {shown(policy.asset)}; known assets: {known}")
        return load_pretrained(assets.fetch(policy.asset), dtype=dtype)
    try:
        kept = policy.params_dtype
        return load_pretrained(Path(str(policy.path)), dtype=dtype, params_dtype=kept)
    except (ValueError, OSError) as error:
        hint = _hint(policy.made_by, error)
        raise ConfigError(f"policy.path: {shown(policy.path)}; {error}{hint}") from None


def _hint(made_by: str | None, error: Exception) -> str:
    """How a missing file is made, where the settings say it."""
    is_known = made_by is not None and isinstance(error, FileNotFoundError)
    return f"; it is made by: {made_by}" if is_known else ""


def load_prompt_split(data: schema.DataConfig, *, heldout: bool) -> list[Prompt]:
    """Reads the training or the held-out prompts."""
    path = _packaged_prompts(data.packaged) if data.path is None else Path(data.path)
    split = data.heldout_split if heldout else data.train_split
    limit = data.max_heldout_prompts if heldout else data.max_train_prompts
    try:
        found = read_prompts(path, split, limit)
    except OSError as error:
        reason = error.strerror or one_line(error)
        text = f"data.path: {shown(str(path))}; cannot be read ({reason})"
        raise ConfigError(f"{text}{_hint(data.made_by, error)}") from None
    except ValueError as error:
        raise ConfigError(f"data.path: {error}") from None
    if not found.prompts:
        raise ConfigError(f"data.path: {path}; has no usable prompt of the split {split!r}")
    return list(found.prompts)


def _packaged_prompts(application: str) -> Path:
    """The prompts that come with an application."""
    there = {path.parent.name: path for path in sorted(_APPLICATIONS.glob("*/prompts.jsonl"))}
    if application not in there:
        known = ", ".join(there)
        raise ConfigError(f"data.packaged: {shown(application)} is not one of {known}")
    return there[application]


def sampling_params(
    sampling: schema.SamplingConfig, stop_token_ids: tuple[int, ...]
) -> SamplingParams:
    """The law that completions are drawn from."""
    return SamplingParams(
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        stop_token_ids=stop_token_ids,
        min_new_tokens=sampling.min_new_tokens,
        repetition_penalty=sampling.repetition_penalty,
    )


def make_reward(
    reward: schema.RewardConfig, allowed: Sequence[str] = (), answers: RolloutStore | None = None
) -> WeightedSum:
    """The reward that selection looks at, as named terms; penalties count negatively.

    Args:
      reward: its settings.
      allowed: the user's own packages whose functions may be called.
      answers: where what endpoints say is kept; None keeps nothing.
    """
    return weighted_sum(
        {
            name: (_function(term, allowed, f"reward.{name}", answers), term.weight)
            for name, term in reward.terms.items()
        }
    )


def make_judge(
    reward: schema.RewardConfig, allowed: Sequence[str] = (), answers: RolloutStore | None = None
) -> Term:
    """The second judge, which training never sees; without one, every score is NaN."""
    if reward.judge is None:
        return Term("judge", from_text_score(lambda text: float("nan")))
    function = _function(reward.judge, allowed, "reward.judge", answers)
    return Term("judge", function, reward.judge.weight)


def _function(
    term: RewardTerm, allowed: Sequence[str], place: str, answers: RolloutStore | None
) -> Callable[..., Any]:
    function = term.build(allowed, place)
    if answers is not None and isinstance(function, EndpointJudge):
        return function.kept_in(answers)
    return function


def check_columns(reward: WeightedSum, judge: Term, prompts: Sequence[PromptRow]) -> None:
    """Checks that the prompts have the columns that reward and judge read; scores nothing.

    Raises:
      ConfigError: names the term, the column, the prompt and the columns that are there; or what
        a verifier needs is not installed.
    """
    try:
        reward.check_columns(prompts)
        judge.columns(prompts)
    except ValueError as error:
        raise ConfigError(f"data.path: {error}") from None
    except ImportError as error:
        raise ConfigError(f"reward: {error}") from None


def reward_version(reward: schema.RewardConfig) -> str:
    """Names a reward: by its settings, what lies at their paths, and this package's version.

    A model that is put in another one's place is another reward; one that is moved is the same.
    """
    values = to_dict(reward)
    terms = {**reward.terms} if reward.judge is None else {**reward.terms, "judge": reward.judge}
    for name, term in terms.items():
        contents = {field: contents_digest(Path(getattr(term, field))) for field in term.PATHS}
        values[name] = {**values[name], **contents}
    text = f"{values} {importlib.metadata.version('rsft_jax')}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_part(settings: schema.TrainingConfig, key: PRNGKey) -> training.Part:
    """Which parameters are trained; `key` draws the adapters."""
    remat = settings.remat
    match settings.part:
        case schema.AllParameters():
            return training.all_parameters(remat=remat)
        case schema.Lora(rank=rank, alpha=alpha, targets=targets, dropout=dropout):
            targets = None if targets == ("all",) else targets
            return training.lora(
                key, rank=rank, alpha=alpha, targets=targets, dropout=dropout, remat=remat
            )
        case schema.LastLayers(num_layers=num_layers):
            return training.last_layers(num_layers, remat=remat)
        case schema.Matching(patterns=patterns):
            return training.matching(*patterns, remat=remat)


def make_optimizer(settings: schema.TrainingConfig) -> optax.GradientTransformation:
    """The optimizer; its rate falls with the progress of the run, however many steps that takes."""
    return training.make_optimizer(
        settings.optimizer,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        by_progress=True,
        clip_norm=settings.clip_norm,
        weight_decay=settings.weight_decay,
        ema_decay=settings.ema_decay,
    )


def make_rate(settings: schema.TrainingConfig) -> training.RateFn:
    """The learning rate of the optimizer."""
    return training.make_rate(
        settings.learning_rate, settings.schedule, warmup_steps=settings.warmup_steps
    )


def round_span(config: schema.LanguageConfig, number: int) -> tuple[float, float]:
    """The progress of training before and after a round; a restart trains anew in each."""
    rounds = config.rounds.num_rounds
    return (0.0, 1.0) if config.training.restart else ((number - 1) / rounds, number / rounds)


def make_mesh(mesh: schema.MeshConfig, batch_size: int) -> Mesh | None:
    """The devices of training, or None for one device.

    Raises:
      ConfigError: the sizes do not make up the devices, or do not divide the batch.
    """
    if mesh.rules == "single":
        return None
    try:
        made = sharding.make_mesh(data=mesh.data, fsdp=mesh.fsdp, tensor=mesh.tensor)
    except ValueError as error:
        raise ConfigError(f"mesh: {error}") from None
    try:
        sharding.check_batch_size(made, batch_size)
    except ValueError as error:
        raise ConfigError(f"training.{error}") from None
    return made


def run_keys(seed: int) -> dict[str, PRNGKey]:
    """One key for each use of randomness in a run, all from its seed."""
    names = ("rounds", "evaluation", "adapters", "dropout")
    return dict(zip(names, jax.random.split(jax.random.key(seed), len(names))))


def make_early_stop(config: schema.LanguageConfig) -> EarlyStop | None:
    """When drawing for a prompt ends; None where all candidates are drawn.

    Raises:
      ConfigError: a rule of one's own must see all candidates of a prompt.
    """
    if not config.sampling.early_stop:
        return None
    rule = config.selection.build(config.allow_packages)
    budget = config.selection.limit()
    if budget is None or not rule.separable or rule.needs - {"log_proposal", "finished"}:
        raise ConfigError(
            "sampling.early_stop: true; the rule of selection.function must be separable, that is "
            "judge each candidate by itself, and need nothing but its log_proposal and finished"
        )
    return EarlyStop(rules.chain(rule), budget)
