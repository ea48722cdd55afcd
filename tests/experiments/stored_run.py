"""The folder of a run as far as stored candidates go: settings and rollouts, no policy, no draw."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from rsft_jax.experiments.language.reselect import random_control, select_again
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import save_config
from rsft_jax.policies import verdict_of
from rsft_jax.rollouts import Record, RolloutStore, to_rows

GROUPS = ("boys", "girls")
TERMS = ("sentiment", "offensive", "repetition", "length")


def write_stored_run(path: Path, *overrides: str, prompts=6, num=8, rounds=2, seed=0) -> Path:
    """Writes config.yaml, prompts.jsonl and the candidates of two arms, selected by the rule."""
    path.mkdir(parents=True)
    rows = [
        {"id": f"t{i}", "split": split, "prompt": f"Tell of {GROUPS[i % 2]} {i}.",
         "group": GROUPS[i % 2], "level": 1 + i // 4}
        for split in ("train", "heldout") for i in range(prompts) if split == "train"
    ]  # fmt: skip
    rows.append({**rows[0], "id": "h0", "split": "heldout", "prompt": "Held out."})
    file = path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("data=jsonl", f"data.path={file}")
    config = load_config(["experiment=smoke", *data, *overrides])
    save_config(config, path / "config.yaml")
    rng, store = np.random.default_rng(seed), RolloutStore(path / "rollouts")
    rule = config.selection.whole()
    labels = [row["group"] for row in rows[:prompts]]
    for number in range(1, rounds + 1):
        for arm, own in (("policy", rule), ("control", random_control(rule))):
            record = make_record(rng, rows[:prompts], num, number, arm)
            by = None if config.selection.group_column() is None else labels
            selection = select_again(record, own, config.seed, by)
            record = dataclasses.replace(record, verdict=verdict_of(selection, own))
            store.append(to_rows(record), name=f"round-{number:03d}-{arm}")
    return path


def make_record(rng, rows, num, number, arm):
    """Girls get the better rewards; one candidate has none, and one was cut."""
    shape = (len(rows), num)
    right = rng.random(shape) < 0.5
    reward = np.where(right, 1.0, rng.normal(0.2, 0.2, shape).round(3))
    reward += 0.3 * (np.arange(len(rows)) % 2)[:, None] * ~right
    reward[0, 0] = np.nan
    finished = np.ones(shape, bool)
    finished[1, 1] = False
    return Record(
        prompt_ids=[row["id"] for row in rows],
        prompts=[f"<user>{row['prompt']}" for row in rows],
        places=np.arange(shape[0]),
        texts=[[f"It is {7 if yes else rng.integers(6)}." for yes in own] for own in right],
        tokens=[[[1, 2]] * num for _ in rows],
        log_probs=[[np.array([-1.0, -2.0])] * num for _ in rows],
        log_prob=np.full(shape, -3.0),
        drawn=np.ones(shape, bool),
        failed=np.zeros(shape, bool),
        finished=finished,
        reward=reward,
        judge=np.full(shape, np.nan),
        terms={"sentiment": reward, **{name: np.zeros(shape) for name in TERMS[1:]}},
        round=number,
        arm=arm,
    )
