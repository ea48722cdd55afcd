"""The reward's settings: terms by name, a file for each kind, and the words of before."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rsft_jax import rewards
from rsft_jax.experiments.language import make
from rsft_jax.experiments.settings import rewards as kinds
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.reward_words import present_reward
from rsft_jax.experiments.settings.rewards import RewardTerm
from rsft_jax.experiments.settings.stored import read_config, save_config
from rsft_jax.experiments.settings.typed import to_dict
from rsft_jax.experiments.terminal.errors import ConfigError

BEFORE = Path(__file__).parent / "config_before_terms.yaml"
ALLOW = "allow_packages=[mylab]"
TEXTS = [
    ["What a lovely day. I love it!", "He died alone, alone, alone, you stupid idiot.", ""],
    ["so good so good so good so good so good", "Not a word.", "A wonderful, quiet evening."],
]


@pytest.fixture(autouse=True)
def _mylab(monkeypatch):
    """The example package, as if it were installed; forgotten after the test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def reward_of(*overrides, config_dir=None):
    return to_dict(load_config(["experiment=smoke", *overrides], config_dir))["reward"]


def refusal(*overrides):
    with pytest.raises(ConfigError) as caught:
        reward_of(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_setting_of_a_term_is_set_by_its_name_and_swept():
    reward = reward_of("reward.length.min_words=30", "reward.sentiment.weight=0.5")
    assert reward["length"]["min_words"] == 30
    assert (reward["sentiment"]["weight"], reward["offensive"]["weight"]) == (0.5, -1.0)


def test_a_term_is_added_and_left_out_by_its_name():
    ease = "reward.ease={term: reading_ease, weight: 0.01}"
    reward = reward_of(ease, "reward.offensive=null")
    assert list(reward) == ["sentiment", "repetition", "length", "ease", "judge"]
    assert reward["ease"] == {"term": "reading_ease", "weight": 0.01}


def test_a_term_of_another_kind_takes_the_place_of_the_first_with_none_of_its_settings():
    reward = reward_of("reward.length={term: polarity, weight: 1}")
    assert reward["length"] == {"term": "polarity", "weight": 1.0}
    reward = reward_of("reward.length={max_words: 9}")
    assert reward["length"] == {"term": "length", "weight": -0.5, "min_words": 1, "max_words": 9}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.lenght=1", "reward.lenght: 1 is not a group of settings; did you mean reward.len"),
        ("reward.lenght.weight=1", "reward.lenght: unknown; did you mean reward.length?"),
        ("reward.length.min_word=1", "unknown field; did you mean reward.length.min_words?"),
        (
            "reward.calm={weight: 1}",
            "reward.calm.term: missing; must be one of among, answer, equations, function",
        ),
        ("reward.sentiment.term=sentimen", "reward.sentiment.term: 'sentimen' is not one of"),
        ("reward.judge={term: polarty}", "reward.judge.term: 'polarty' is not one of"),
        ("reward.length.weight=inf", "reward.length.weight: inf; must be finite"),
        ("reward.judge.weight=nan", "reward.judge.weight: nan; must be finite"),
        ("reward.repetition.ngram=0", "reward.repetition.ngram: 0; must be at least 1"),
        ("reward.length.min_words=-1", "reward.length.min_words: -1; must be at least 0"),
        ("reward.'a-b'={term: polarity, weight: 1}", "reward"),
        ("reward.length.min_words.x=1", "reward.length.min_words is a single value, not a group"),
    ],
)
def test_wrong_settings_of_a_term_are_one_line(override, message):
    assert message in refusal(override)


def test_a_reward_needs_a_term_and_names_that_can_be_columns(tmp_path):
    (tmp_path / "reward").mkdir()
    for text, message in [
        ("judge: null\n", "reward: {}; must be at least one term"),
        ("a-b: {term: polarity, weight: 1}\njudge: null\n", "reward: 'a-b'; must be a name of"),
        ("calm: {term: polarity, weight: 1}\n", "reward.judge: missing"),
    ]:
        (tmp_path / "reward" / "mine.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            reward_of("reward=mine", config_dir=tmp_path)
        assert message in str(caught.value)


def test_every_kind_of_term_scores():
    settings = {
        "length": {"min_words": 3, "max_words": 5},
        "repetition": {"ngram": 2},
        "function": {"function": "mylab.rewards.brevity"},
        "refusal": {"phrases": ("not a word",)},
    }
    # A served judge is asked in tests/interop/test_endpoint_judge.py; `among` and `answer` read
    # columns, these texts have no sums, and `learned` reads a folder: see the tests of
    # tests/rewards by their names, and of verifiers those of tests/interop_real.
    elsewhere = {"judge", "among", "answer", "equations", "gym_answer", "learned", "math_answer"}
    for name, kind in RewardTerm.variants().items():
        if name in elsewhere:
            continue
        term = kind(term=name, weight=1.0, **settings.get(name, {}))
        scores = rewards.Term(name, term.build(["mylab"], "reward.x"))(["p", "q"], TEXTS)
        assert scores.shape == (2, 3)
        assert np.isfinite(scores[:, :2]).all()
        assert len(np.unique(scores[:, :2])) > 1


# ---- the words of before


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("reward.sentiment=0.25", "reward.sentiment.weight=0.25"),
        ("reward.offensive=0.25", "reward.offensive.weight=-0.25"),
        ("reward.repetition=0", "reward.repetition.weight=-0.0"),
        ("reward.length=2", "reward.length.weight=-2.0"),
        ("reward.min_words=30", "reward.length.min_words=30"),
        ("reward.max_words=30", "reward.length.max_words=30"),
        ("reward.judge=polarity", "reward.judge={term: polarity, weight: 1.0}"),
        ("reward.judge=sentiment", "reward.judge={term: sentiment, weight: 1.0}"),
        (
            "reward.functions=[{name: brevity, function: mylab.rewards.brevity, weight: 0.5}]",
            "reward.brevity={term: function, function: mylab.rewards.brevity, weight: 0.5}",
        ),
        (
            "reward={sentiment: 0.5, judge: sentiment}",
            "reward={sentiment: {weight: 0.5}, judge: {term: sentiment, weight: 1.0}}",
        ),
    ],
)
def test_a_word_of_before_sets_what_it_did(before, now):
    assert repr(reward_of(before, ALLOW)) == repr(reward_of(now, ALLOW))  # repr tells -0.0 from 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.offensive=-1", "reward.offensive: -1.0; must be at least 0 and finite"),
        ("reward.length=long", "reward.length: 'long' is not a number"),
        ("reward.sentiment=true", "reward.sentiment: true is not a number"),
        ("reward.min_words=x", "reward.length.min_words: 'x' is not an integer"),
        ("reward.judge=polarty", "reward.judge.term: 'polarty' is not one of"),
        ("reward.functions=[{name: length, function: a.b, weight: 1}]", "functions[0].name: 'len"),
    ],
)
def test_what_a_word_of_before_cannot_be_is_refused(override, message):
    assert message in refusal(override)


def test_a_word_of_a_term_that_is_not_there_is_refused():
    assert "reward.min_words: 3; this reward has no term length" in refusal(
        "reward.length=null", "reward.min_words=3"
    )


def test_functions_take_the_place_of_the_functions_that_are_there():
    one = "reward.brevity={term: function, function: mylab.rewards.brevity, weight: 0.5}"
    assert "brevity" in reward_of(one, ALLOW)
    assert "brevity" not in reward_of(one, "reward.functions=[]")


def test_a_file_of_the_user_in_the_words_of_before_is_read(tmp_path):
    (tmp_path / "reward").mkdir()
    path = tmp_path / "reward" / "mine.yaml"
    path.write_text("defaults: [sentiment, _self_]\nlength: ${reward.max_words}\nmax_words: 90\n")
    reward = reward_of("reward=mine", config_dir=tmp_path)
    assert list(reward) == ["sentiment", "offensive", "repetition", "length", "judge"]
    assert reward["length"] == {"term": "length", "weight": -90.0, "min_words": 20, "max_words": 90}


def test_terms_set_by_words_of_before_stand_in_the_order_of_then():
    mine = {"term": "polarity", "weight": 1.0}
    reward = present_reward({"mine": mine, "length": 1, "judge": "polarity", "sentiment": 1})
    assert list(reward) == ["sentiment", "length", "mine", "judge"]


def test_null_leaves_a_term_out_in_a_file_too():
    assert present_reward({"sentiment": None, "judge": None}) == {"judge": None}


def test_a_reward_stored_before_is_the_same_to_the_last_bit(tmp_path):
    stored = read_config(BEFORE)
    terms = stored.reward.terms
    assert list(terms) == ["sentiment", "offensive", "repetition", "length", "brevity"]
    # As the reward was made then.
    from mylab.rewards import brevity

    before = rewards.weighted_sum(
        {
            "sentiment": (rewards.sentiment(), 0.9),
            "offensive": (rewards.offensive(), -0.7),
            "repetition": (rewards.repetition(), -0.3),
            "length": (rewards.length_penalty(1, 9), -0.1),
            "brevity": (brevity, 0.55),
        }
    )
    now = make.make_reward(stored.reward, ["mylab"])
    assert now(["p", "q"], TEXTS).tobytes() == before(["p", "q"], TEXTS).tobytes()
    judged = make.make_judge(stored.reward)(["p", "q"], TEXTS)
    assert judged.tobytes() == rewards.polarity()(["p", "q"], TEXTS).tobytes()

    typed = load_config(
        ["experiment=smoke", "reward.sentiment.weight=0.9", "reward.offensive.weight=-0.7",
         "reward.repetition.weight=-0.3", "reward.length.weight=-0.1", "reward.length.max_words=9",
         "reward.brevity={term: function, function: mylab.rewards.brevity, weight: 0.55}", ALLOW]
    )  # fmt: skip
    assert typed.reward == stored.reward
    assert make.reward_version(typed.reward) == make.reward_version(stored.reward)
    save_config(stored, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml").reward == stored.reward


def test_a_reward_model_in_the_place_of_another_is_another_reward(tmp_path):
    def version(path, text, *more):
        path.mkdir(exist_ok=True)
        (path / "model.safetensors").write_text(text)
        overrides = ["experiment=smoke", "reward=learned", f"reward.learned.path={path}", *more]
        return make.reward_version(load_config(overrides).reward)

    first = version(tmp_path / "a", "one")
    assert version(tmp_path / "b", "one") == first  # where it lies is nothing of its
    assert version(tmp_path / "a", "two") != first
    judge = "reward.judge={term: learned, weight: 1.0, path: %s}" % (tmp_path / "b")
    judged = version(tmp_path / "a", "one", judge)
    assert judged != first
    (tmp_path / "b" / "model.safetensors").write_text("three")
    assert version(tmp_path / "a", "one", judge) != judged


# ---- a kind of term is one file


MINE = """
from dataclasses import dataclass
from typing import Literal

from rsft_jax.experiments.settings import checks
from rsft_jax.experiments.settings.rewards import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Level(RewardTerm):
    term: Literal["level"]
    most: int

    def check(self, place):
        checks.at_least(f"{place}.most", self.most, 1)

    def build(self, allowed=(), place=""):
        return lambda prompts, completions, level: [
            [min(len(text), self.most) / of for text in row] for row, of in zip(completions, level)
        ]
"""


@pytest.fixture
def _level(tmp_path, monkeypatch):
    (tmp_path / "level.py").write_text(MINE)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    yield
    sys.modules.pop(f"{kinds.__name__}.level", None)


@pytest.mark.usefixtures("_level")
def test_a_kind_of_term_is_added_by_one_file_and_its_settings():
    mine = "reward.mine={term: level, weight: 2.0, most: 3}"
    config = load_config(
        ["experiment=smoke", mine, "reward.judge={term: level, weight: -1, most: 1}"]
    )
    prompt = rewards_prompt(level=4)
    reward = make.make_reward(config.reward)
    np.testing.assert_array_equal(reward.terms([prompt], [["", "xxxxx"]])["mine"], [[0, 0.75]])
    assert reward.weights["mine"] == 2.0
    judge = make.make_judge(config.reward)
    np.testing.assert_array_equal(judge([prompt], [["", "xxxxx"]]), [[0, -0.25]])
    assert "reward.mine.most: 0; must be at least 1" in refusal(mine, "reward.mine.most=0")


def test_without_its_file_the_kind_is_unknown():
    assert "'level' is not one of" in refusal("reward.mine={term: level, weight: 2.0, most: 3}")


# ---- columns and the judge


def rewards_prompt(**fields):
    from rsft_jax.data import Prompt

    return Prompt(id="p1", text="p", messages=({"role": "user", "content": "p"},), fields=fields)


def test_a_column_that_the_data_lacks_is_an_error_of_the_settings():
    term = "reward.{}={{term: function, function: mylab.rewards.as_long_as, weight: 1}}"
    for name in ("mine", "judge"):
        config = load_config(["experiment=smoke", ALLOW, term.format(name)])
        reward = make.make_reward(config.reward, ["mylab"])
        judge = make.make_judge(config.reward, ["mylab"])
        make.check_columns(reward, judge, [rewards_prompt(answer="x")])
        with pytest.raises(
            ConfigError, match=f"data.path: reward term {name} reads the column ans"
        ):
            make.check_columns(reward, judge, [rewards_prompt(split="train")])


def test_without_a_judge_every_score_of_it_is_missing():
    config = load_config(["experiment=smoke", "reward.judge=null"])
    assert config.reward.judge is None
    assert np.isnan(make.make_judge(config.reward)(["p", "q"], TEXTS)).all()
