"""The model card: what it says is what the run has recorded, and nothing else."""

from types import SimpleNamespace

import pytest
import yaml

from rsft_jax.experiments.language.card import model_card
from rsft_jax.experiments.language.exports import Format, TunedPolicy
from rsft_jax.experiments.language.licences import base_licence
from rsft_jax.experiments.settings.compose import load_config
from tests.tiny import write_tiny_gguf

FORM = Format(
    summary="", write=lambda tuned, folder: (), loading="`load {folder} on {base_model}`",
    library="transformers",
)  # fmt: skip
FACTS = {"arm": "policy", "round": 2, "weights": "last"}


def evaluation(arm, round_, reward, judge=None):
    figures = {"reward_mean": reward, "reward_low": reward - 0.1, "reward_high": reward + 0.1}
    return {"event": "evaluation", "arm": arm, "round": round_, "judge_mean": judge, **figures}


EVENTS = [
    evaluation("policy", 0, 0.25, 0.5),
    {"event": "round", "arm": "policy", "round": 2, "reward_mean": 9.0},
    evaluation("policy", 1, 0.3),
    evaluation("policy", 2, 0.75),
    evaluation("control", 2, 0.125),
]


def card(folder, *settings, base_model="me/base", facts=FACTS, events=EVENTS):
    config = load_config(["experiment=smoke", *settings])
    batch = SimpleNamespace(prompts=[None] * 12), SimpleNamespace(prompts=[None] * 4)
    setup = SimpleNamespace(config=config, train=batch[0], heldout=batch[1])
    tuned = TunedPolicy(setup=setup, state=None, base_model=base_model, options={})
    text = model_card(tuned, FORM, facts, events, folder)
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return yaml.safe_load(head), {row[0].strip(): row[1:] for row in rows}, body


def test_the_card_says_what_the_run_was(tmp_path):
    head, rows, body = card(tmp_path / "tuned", "selection.beta=0.2")
    assert head == {
        "license": "unknown", "base_model": "me/base", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["rejection-sampling", "rsft-jax"],
    }  # fmt: skip
    assert rows["licence"] == ["unknown: see the base model"]
    assert rows["rule"] == ["statistical_rejection, budget 2, beta 0.2"]
    assert rows["its law"][0].startswith("consistent: ")  # max_reward is estimated
    assert rows["rounds"] == ["2 of 2, 6 prompts each"]
    assert rows["candidates"] == ["4 a prompt, temperature 1, at most 12 tokens"]
    assert rows["data"] == ["the packaged prompts of stories: 12 prompts to train on, 4 held out"]
    assert rows["trained"][0].startswith("lora, rank ")
    assert "`load tuned on me/base`" in body
    assert str(tmp_path) not in body


def test_the_cards_figures_are_those_of_the_run_with_base_and_control(tmp_path):
    _, rows, body = card(tmp_path)
    assert rows["base model"][0] == "0.250 [0.150, 0.350]"
    assert rows["base model"][1] == "0.500"
    assert rows["tuned policy"][0] == "0.750 [0.650, 0.850]"
    assert rows["random control"][0] == "0.125 [0.025, 0.225]"
    assert "after round 2" in body
    assert "9.0" not in body
    _, rows, body = card(tmp_path, events=EVENTS[:3])
    assert "tuned policy" not in rows
    _, rows, body = card(tmp_path, events=[])
    assert "Held-out" not in body
    averaged = ["training.ema_decay=0.9"]
    assert "which these are not" in card(tmp_path, *averaged)[2]
    assert (
        "which these are not"
        not in card(tmp_path, *averaged, facts=FACTS | {"weights": "averaged"})[2]
    )


def test_a_control_is_called_one_and_a_folder_is_no_name_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    head, _, body = card(
        tmp_path, base_model=str(tmp_path / "a" / "b"), facts=FACTS | {"arm": "control"}
    )
    assert "base_model" not in head
    assert "random control" in body.partition("\n## ")[0]
    assert "on b`" in body
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in card(tmp_path, base_model="a/b")[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: mit\nlanguage: en\n---\n# M\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "own", "license_link": "LICENSE"},
        ),
        ("# no head\nlicense: mit\n", {}),
        ("---\nlicense: [mit\n---\n", {}),
        ("---\nlicense: 3\n---\n", {}),
        (None, {}),
    ],
)
def test_the_licence_is_what_the_base_models_card_says(tmp_path, text, found):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    policy = load_config(["experiment=smoke", "policy=local", f"policy.path={tmp_path}"]).policy
    assert base_licence(policy) == found


def test_the_licence_of_assets_and_files(tmp_path):
    assets = load_config(["experiment=smoke", "policy=smollm2"]).policy
    assert base_licence(assets) == {"license": "apache-2.0"}
    assert base_licence(load_config(["experiment=smoke"]).policy) == {}
    path = write_tiny_gguf(tmp_path / "m.gguf", values={"general.license": "mit"})
    policy = load_config(["experiment=smoke", "policy=local", f"policy.path={path}"]).policy
    assert base_licence(policy) == {"license": "mit"}
