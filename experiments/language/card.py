"""The model card of an exported policy: README.md with the head that the Hugging Face Hub reads.

What it says is what the run has recorded; a figure that is not there is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsft_jax.selection import Law

from ..settings.schema import LanguageConfig
from ..settings.typed import leaves, to_dict
from .exports import Format, TunedPolicy, is_hub_name
from .licences import base_licence

_LAWS = {
    Law.EXACT: "each accepted candidate follows the rule's target exactly",
    Law.CONSISTENT: "tends to the rule's target as the number of candidates grows",
    Law.HEURISTIC: "no target is stated",
}
_UNKNOWN = "unknown: see the base model"

Event = Mapping[str, Any]


def model_card(
    tuned: TunedPolicy, form: Format, facts: Event, events: Sequence[Event], folder: Path
) -> str:
    """The text of README.md.

    Args:
      tuned: what was exported.
      form: in which format.
      facts: `arm`, `round` and `weights`, as in export.json.
      events: of the run, its metrics.jsonl.
      folder: that was written; the card tells its name and no more of its place.
    """
    config, licence = tuned.config, base_licence(tuned.config.policy)
    base = tuned.base_model if is_hub_name(tuned.base_model) else Path(tuned.base_model).name
    head = {
        **(licence or {"license": "unknown"}),
        **({"base_model": base} if is_hub_name(tuned.base_model) else {}),
        **({"library_name": form.library} if form.library else {}),
        "pipeline_tag": "text-generation",
        "tags": ["rejection-sampling", "rsft-jax"],
    }
    loading = form.loading.replace("{folder}", folder.absolute().name)
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {config.name}: {_title(facts['arm'])}",
        _title_text(facts["arm"], base),
        _table(("", ""), _made(tuned, facts, base, licence)),
        _heldout(config, facts, events),
        "## What it is not good for",
        _limits(config),
        "## How to load it",
        loading.replace("{base_model}", base),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _title(arm: str) -> str:
    return "a random control" if arm == "control" else "tuned by rejection sampling"


def _title_text(arm: str, base: str) -> str:
    if arm == "control":
        return (
            f"`{base}`, fine-tuned on as many of its own completions as a rule accepted, picked "
            "by chance: a control to compare with, and no better than its base by intention."
        )
    return f"`{base}`, fine-tuned on those of its own completions that a rule accepted."


def _made(
    tuned: TunedPolicy, facts: Event, base: str, licence: Mapping[str, str]
) -> list[tuple[str, str]]:
    """What was done, a row each."""
    config = tuned.config
    rule = config.selection.whole(config.allow_packages)
    control = facts["arm"] == "control"
    weights = "of the last step"
    if facts["weights"] == "averaged":
        weights = f"moving average, decay {config.training.ema_decay:g} a step"
    adapter = config.policy.adapter
    named = licence.get("license_name") or licence.get("license")
    trained = f"{_said(config.training.part)}; learning rate {config.training.learning_rate:g}"
    return [
        ("base model", base),
        *([("adapter in it", Path(adapter).name)] if adapter else []),
        ("licence", f"{named}, as the base model says" if named else _UNKNOWN),
        ("rule", f"{_said(config.selection)}" + (" (its count alone)" if control else "")),
        ("its law", f"{rule.law.name.lower()}: {_LAWS[rule.law]}"),
        ("reward", "; ".join(f"{n}: {_said(t)}" for n, t in config.reward.terms.items())),
        ("rounds", f"{facts['round']} of {config.rounds.num_rounds}, {_prompts(config)}"),
        ("candidates", _candidates(config)),
        ("data", _data(tuned)),
        ("trained", trained),
        ("weights", weights),
    ]


def _said(settings: Any) -> str:
    """Settings on one line: `top_k, k 2`."""
    values = dict(leaves(to_dict(settings)))
    first = next(values.pop(key) for key in ("rule", "term", "name") if key in values)
    given = [f"{key} {value}" for key, value in values.items() if value is not None]
    return ", ".join([str(first), *given])


def _prompts(config: LanguageConfig) -> str:
    return f"{config.rounds.prompts_per_round} prompts each"


def _candidates(config: LanguageConfig) -> str:
    sampling = config.sampling
    if config.candidates is not None:
        return f"given, none drawn: {Path(config.candidates).name}"
    most = "at most " if sampling.early_stop else ""
    cuts = {"top_k": 0, "top_p": 1, "min_p": 0}
    laws = [f"{k} {v:g}" for k, off in cuts.items() if (v := getattr(sampling, k)) != off]
    return ", ".join(
        [
            f"{most}{sampling.num_candidates} a prompt",
            f"temperature {sampling.temperature:g}",
            *laws,
            f"at most {sampling.max_new_tokens} tokens",
        ]
    )


def _data(tuned: TunedPolicy) -> str:
    config, setup = tuned.config, tuned.setup
    packaged = f"the packaged prompts of {config.data.packaged}"
    name = packaged if config.data.path is None else config.data.path
    return (
        f"{Path(name).name}: {len(setup.train.prompts)} prompts to train on, "
        f"{len(setup.heldout.prompts)} held out"
    )


def _heldout(config: LanguageConfig, facts: Event, events: Sequence[Event]) -> str:
    """The held-out figures of the run, with the base and the random control beside the policy."""
    done = facts["round"]
    rows = [
        (label, *(_figure(event, name) for name in ("reward", "judge", "kl")))
        for label, arm, round_ in (
            ("base model", "policy", 0),
            ("tuned policy", "policy", done),
            ("random control", "control", done),
        )
        if (event := _last(events, arm, round_)) is not None
    ]
    if not rows:
        return ""
    settings = config.evaluation
    notes = [
        f"Means with {settings.confidence:.0%} bootstrap intervals over prompts, of at most "
        f"{settings.num_prompts} held-out prompts with {settings.num_candidates} completions each. "
        "The judge is a score that training never saw; KL, in nats a completion, is to the base. "
        "All are of the parameters as the run kept them, before they are rounded to be written."
    ]
    if config.training.ema_decay is not None and facts["weights"] == "last":
        notes.append("They are of the averaged weights, which these are not.")
    heads = ("", "reward", "judge", "KL")
    return "\n\n".join((f"## Held-out, after round {done}", _table(heads, rows), " ".join(notes)))


def _last(events: Iterable[Event], arm: str, round_: int) -> Event | None:
    """The last evaluation of an arm after a round."""
    wanted = {"event": "evaluation", "arm": arm, "round": round_}
    found = [event for event in events if all(event.get(k) == v for k, v in wanted.items())]
    return found[-1] if found else None


def _figure(event: Event, name: str) -> str:
    """`0.310 [0.249, 0.369]`, or nothing where the run has no such figure."""
    mean, low, high = (event.get(f"{name}_{end}") for end in ("mean", "low", "high"))
    if mean is None:
        return ""
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _limits(config: LanguageConfig) -> str:
    terms = ", ".join(config.reward.terms)
    return (
        f"- Other tasks than these prompts: it was tuned for one reward ({terms}), and whether "
        "anything else became worse was not measured.\n"
        "- As a measure of quality: a policy can learn what a reward overrates. The judge and the "
        "random control are there to tell, and are themselves only scores.\n"
        f"- Long texts: it was tuned on completions of at most {config.sampling.max_new_tokens} "
        "tokens.\n"
        "- Safety: nothing was done for it here; faults of the base model are still there."
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
