"""Makes the folder of a run that never was: its numbers are drawn, its tables consistent.

Rewards follow a law that shifts a little every round, candidates are accepted by statistical
rejection, and every figure in metrics.jsonl is computed from the Parquet files beside it.
"""

import json
from pathlib import Path

import numpy as np
import yaml

from rsft_jax.metrics import bootstrap_interval
from rsft_jax.rollouts import read_rollouts, write_rollouts

NASTY = "<script>alert('x')</script> & \"quoted\" <img src=http://example.invalid/x.png> $x^2$"

CONFIG = {
    "kind": "language",
    "name": "synthetic",
    "seed": 7,
    "output_dir": None,
    "resume": False,
    "control": True,
    "policy": {"asset": "smollm2-135m-instruct", "path": None, "dtype": "float32"},
    "sampling": {"num_candidates": 8, "max_new_tokens": 64, "temperature": 1.0},
    "selection": {
        "rule": "statistical_rejection",
        "beta": 0.3,
        "max_reward": None,
        "budget": 2,
    },
    "reward": {"sentiment": 1.0, "offensive": 1.0, "repetition": 1.0, "length": 0.5},
    "training": {"part": {"name": "lora", "rank": 8}, "learning_rate": 1e-4},
    "evaluation": {"num_prompts": 80, "num_candidates": 2, "confidence": 0.95},
    "checkpoint": {"keep": 2},
}

_OPENINGS = (
    "The old lighthouse keeper opened the door and",
    "On the last day of summer, Mira found",
    "Nobody in the village had ever seen",
    "It began with a letter that",
)
_TEMPLATE = "<|im_start|>user\nTell a story: {}<|im_end|>\n<|im_start|>assistant\n"
_WORDS = [
    "the",
    "a",
    "river",
    "light",
    "and",
    "she",
    "he",
    "laughed",
    "walked",
    "home",
    "with",
    "bright",
    "small",
    "old",
    "friend",
    "garden",
    "morning",
    "never",
    "again",
    "found",
    "lost",
    "happy",
    "sad",
    "bread",
    "rain",
    "window",
    "song",
    "into",
    "over",
    "they",
    "were",
]


def write_synthetic_run(
    folder: Path,
    *,
    seed: int = 0,
    rounds: int = 3,
    control: bool = True,
    status: str = "finished",
    num_prompts: int = 40,
    num_candidates: int = 8,
    num_heldout: int = 60,
    gain: float = 0.16,
    judge_gain: float = 0.05,
) -> Path:
    """Writes config.yaml, run.json, metrics.jsonl and the Parquet files of a run."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    versions = {"python": "3.11.7", "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"}
    (folder / "run.json").write_text(
        json.dumps(
            {
                "status": status, "kind": "language", "name": "synthetic", "seed": 7,
                "versions": versions, "device": "cpu", "started": "2026-11-24T10:00:00+00:00",
                "finished": None if status == "running" else "2026-11-24T10:11:42+00:00",
                "rounds_done": rounds,
            }
        )
    )  # fmt: skip
    difficulty = rng.normal(0, 0.2, num_heldout)
    events = [_evaluate(rng, folder, "policy", 0, difficulty, 0.0, 0.0)]
    for round_ in range(1, rounds + 1):
        for arm in ("policy", "control") if control else ("policy",):
            steps = round_ if arm == "policy" else 0.08 * round_
            before = (round_ - 1) * gain if arm == "policy" else 0.0
            events.append(_train(rng, folder, arm, round_, num_prompts, num_candidates, before))
            events.append(
                _evaluate(rng, folder, arm, round_, difficulty, gain * steps, judge_gain * steps)
            )
    with (folder / "metrics.jsonl").open("w") as file:
        for event in events:
            file.write(json.dumps(event) + "\n")
    return folder


def _text(rng: np.random.Generator) -> str:
    words = rng.choice(_WORDS, size=int(rng.integers(25, 60)))
    return " " + " ".join(words) + "."


def _columns(rng, arm, round_, num_prompts, num_candidates, reward, judge, split):
    num = num_prompts * num_candidates
    lengths = rng.integers(20, 64, num)
    terms = {
        "term/sentiment": reward + 0.1,
        "term/offensive": np.full(num, 0.02),
        "term/repetition": np.full(num, 0.05),
        "term/length": np.full(num, 0.06),
    }
    texts = [_text(rng) for _ in range(num)]
    texts[0] = NASTY
    return {
        "round": np.full(num, round_),
        "arm": [arm] * num,
        "prompt_id": [f"{split}-{i // num_candidates:03d}" for i in range(num)],
        "candidate": np.arange(num) % num_candidates,
        "prompt": [
            _TEMPLATE.format(_OPENINGS[(i // num_candidates) % len(_OPENINGS)]) for i in range(num)
        ],
        "completion": texts,
        "tokens": [rng.integers(0, 49152, n).astype(np.int32) for n in lengths],
        "log_probs": [rng.normal(-2, 0.5, n).astype(np.float32) for n in lengths],
        "finished": lengths < 60,
        "reward": reward,
        "judge": judge,
        **terms,
    }


def _evaluate(rng, folder, arm, round_, difficulty, shift, judge_shift):
    num_prompts, num_candidates = len(difficulty), 2
    shape = (num_prompts, num_candidates)
    reward = np.tanh(difficulty[:, None] + 0.1 + shift + rng.normal(0, 0.35, shape))
    judge = np.tanh(0.5 * difficulty[:, None] + 0.08 + judge_shift + rng.normal(0, 0.2, shape))
    reward[3, 1] = np.nan  # could not be scored
    kl = np.abs(rng.normal(1.5 * round_**1.3 + 0.02, 0.3, shape)) * (1 if round_ else 0)
    if arm == "control":
        kl *= 0.3
    path = folder / "evaluations" / f"round-{round_:03d}-{arm}.parquet"
    columns = _columns(rng, arm, round_, *shape, reward.ravel(), judge.ravel(), "heldout")
    write_rollouts(path, columns)
    event = {"event": "evaluation", "arm": arm, "round": round_, "num_samples": reward.size}
    for name, values in (("reward", reward), ("judge", judge), ("kl", kl)):
        mean, low, high = bootstrap_interval(values)
        event |= {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}
    wear = 0.015 * round_ * (2 if arm == "policy" else 0.5)
    return event | {
        "distinct_1": 0.42 - wear,
        "distinct_2": 0.86 - 1.2 * wear,
        "self_bleu": 0.12 + 1.5 * wear,
        "length_mean": 44.0 + (2.1 * round_ if arm == "policy" else -0.4 * round_),
        "seconds": 21.0 + rng.random(),
    }


def _train(rng, folder, arm, round_, num_prompts, num_candidates, before):
    shape = (num_prompts, num_candidates)
    reward = np.tanh(rng.normal(0.1, 0.2, (num_prompts, 1)) + before + rng.normal(0, 0.4, shape))
    judge = np.clip(0.4 * reward + rng.normal(0, 0.2, shape), -1, 1)
    reward[0, 2] = np.nan
    chance = np.exp((reward - np.nanmax(reward)) / 0.3)
    drawn = rng.random(shape) < np.nan_to_num(chance)
    ranked = np.argsort(np.argsort(np.where(drawn, -rng.random(shape), 1.0), axis=1), axis=1)
    accepted = drawn & (ranked < 2)
    late = np.where(drawn, "rejected by at_most", "rejected by statistical_rejection")
    reason = np.where(np.isnan(reward), "not scored", np.where(accepted, "accepted", late))
    if arm == "control":
        chance = np.full(shape, accepted.mean())
        order = np.argsort(rng.random(shape), axis=1)
        accepted = order < accepted.sum(axis=1, keepdims=True)
        accepted[0, 2] = False
        reason = np.where(accepted, "accepted", "rejected by random_control")
    columns = _columns(rng, arm, round_, *shape, reward.ravel(), judge.ravel(), "train") | {
        "accepted": accepted.ravel(),
        "accept_prob": chance.ravel(),
        "log_weight": np.where(accepted, 0.0, -np.inf).ravel(),
        "reason": list(reason.ravel()),
    }
    path = folder / "rollouts" / f"round-{round_:03d}-{arm}.parquet"
    write_rollouts(path, columns)
    back = read_rollouts(path)
    rate, low, high = bootstrap_interval(np.where(np.isnan(reward), np.nan, accepted * 1.0))
    return {
        "event": "round", "arm": arm, "round": round_, "num_prompts": num_prompts,
        "num_candidates": reward.size, "num_scored": int(np.isfinite(reward).sum()),
        "num_accepted": int(accepted.sum()), "acceptance_rate": rate, "acceptance_low": low,
        "acceptance_high": high, "reward_proposed": float(np.nanmean(reward)),
        "reward_accepted": float(np.nanmean(reward[accepted])),
        "judge_proposed": float(np.nanmean(judge)),
        "judge_accepted": float(np.nanmean(judge[accepted])), "ess": float(accepted.sum()),
        "generated_tokens": int(sum(len(t) for t in back["tokens"])),
        "trained_tokens": int(sum(len(t) for t, a in zip(back["tokens"], accepted.ravel()) if a)),
        "loss_first": 2.1 - 0.1 * round_, "loss_last": 2.0 - 0.1 * round_,
        "on_policy_gap": 8.4e-6, "learning_rate": 1e-4,
        "seconds": {"generate": 48.0 + rng.random(), "score": 1.1, "select": 0.1, "train": 31.0,
                    "checkpoint": 1.5, "check": 4.0},
    }  # fmt: skip


def write_synthetic_gaussian(folder: Path, *, seed: int = 0) -> Path:
    """Writes the folder of a Gaussian run: its exact laws are the experiment's, its draws ours."""
    from rsft_jax.experiments.settings.schema import ProblemConfig
    from rsft_jax.experiments.textbook import laws as gaussian

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"num_inputs": 100, "mean": 1.0, "deviation": 0.6, "curvature": 1.0, "noise": 0.1}
    config = {"kind": "gaussian", "name": "gaussian", "seed": 3, "problem": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "run.json").write_text(json.dumps({"status": "finished", "kind": "gaussian"}))
    problem = ProblemConfig(**settings)
    laws = gaussian.exact_laws(problem, 20)
    edges = gaussian.bin_edges(problem, 20)
    events = []
    for arm, law in laws.items():
        for round_ in range(1, 6):
            loss = law.best_loss + 3.0 * 0.4**round_
            events.append(
                {
                    "event": "round", "arm": arm, "round": round_, "num_accepted": 5000,
                    "num_attempts": int(5000 / law.acceptance), "acceptance_rate": law.acceptance,
                    "acceptance_low": law.acceptance - 0.01,
                    "acceptance_high": law.acceptance + 0.01, "loss_train": 0.8 * loss,
                    "loss_target": loss, "loss_target_low": 0.97 * loss,
                    "loss_target_high": 1.03 * loss, "loss_target_best": law.best_loss,
                    "seconds": 0.1,
                }
            )  # fmt: skip
        observed = rng.multinomial(100_000, law.shares / law.shares.sum()) / 100_000
        target = laws["exact"].shares
        events.append(
            {
                "event": "law", "arm": arm, "law": gaussian.ARMS[arm], "num_samples": 100_000,
                "tv_target": float(np.abs(observed - target).sum() / 2),
                "tv_target_exact": float(np.abs(law.shares - target).sum() / 2),
                "tv_own": float(np.abs(observed - law.shares).sum() / 2),
                "tv_gate": gaussian.tv_gate(20, 100_000), "kl_target": 0.01,
                "kl_target_exact": 0.01, "acceptance_rate": law.acceptance,
                "acceptance_low": law.acceptance - 0.003,
                "acceptance_high": law.acceptance + 0.003, "acceptance_exact": law.acceptance,
                "mean": law.mean, "mean_low": law.mean - 0.01, "mean_high": law.mean + 0.01,
                "mean_exact": law.mean, "mean_target": 1.0, "variance": law.variance,
                "variance_exact": law.variance, "variance_target": 0.36,
                "bin_edges": list(edges), "observed": list(observed), "own": list(law.shares),
                "target": list(target),
            }
        )  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return folder
