"""A reward model as a term: which texts it reads, which score it gives, what is refused."""

import jax
import numpy as np
import pytest

from rsft_jax.experiments.language.make import make_reward
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import read_config, save_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.interop import Pretrained, new_classifier, save_classifier
from rsft_jax.models import Transformer
from rsft_jax.rewards import Term, learned
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer


class Scores:
    """A model whose texts are looked at: scores are its length, and less its number of messages."""

    labels = ("length", "short")

    def __init__(self, problem_type=None):
        self.problem_type = problem_type
        self.seen = []

    def encode(self, messages, completion):
        self.seen.append((messages, completion))
        return [0] * len(completion)

    def scores(self, rows, *, rows_at_once):
        table = np.array([[len(row), -float(len(row))] for row in rows])
        table[table[:, 0] > 5] = np.nan
        return table


class Row:
    """A prompt with its messages."""

    def __init__(self, *contents):
        self.messages = [{"role": "user", "content": text} for text in contents]
        self.text, self.fields, self.id = " ".join(contents), {}, "a7"


def test_a_model_gets_the_messages_of_a_prompt_and_each_completion():
    model = Scores()
    reward = Term("kind", learned(model, label="length"), weight=2.0)
    found = reward([Row("hi", "there"), Row("you")], [["a", "bb"], ["", "too long"]])
    np.testing.assert_array_equal(found, [[2, 4], [0, np.nan]])
    assert [completion for _, completion in model.seen] == ["a", "bb", "", "too long"]
    assert [m["content"] for m in model.seen[0][0]] == ["hi", "there"]
    bare = learned(Scores(), label="short")
    np.testing.assert_array_equal(bare(["hi"], [["a", "bb"]]), [[-1, -2]])
    assert bare([], []).shape == (0, 0)


def test_a_probability_is_among_the_labels_or_by_itself():
    texts = (["p"], [["a", "bb", "too long"]])
    among = learned(Scores("single_label_classification"), label="length", output="probability")
    itself = learned(Scores("multi_label_classification"), label="length", output="probability")
    lengths = np.array([1.0, 2.0])
    expected = np.exp(lengths) / (np.exp(lengths) + np.exp(-lengths))
    np.testing.assert_allclose(among(*texts)[0], [*expected, np.nan])
    np.testing.assert_allclose(itself(*texts)[0], [*1 / (1 + np.exp(-lengths)), np.nan])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "label must be one of length, short, got none"),
        ({"label": "long"}, "label must be one of length, short, got 'long'"),
        ({"label": "short", "output": "logit"}, 'output must be "score" or "probability"'),
        ({"label": "short", "rows_at_once": 0}, "rows_at_once must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        learned(Scores(), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = Pretrained(Transformer(tiny_config()), tiny_params(), tiny_tokenizer())
    path = tmp_path_factory.mktemp("reward") / "model"
    save_classifier(path, new_classifier(jax.random.key(0), base))
    return path


def _config(folder, **settings):
    words = "".join(f", {name}: {value}" for name, value in settings.items())
    term = f"{{term: learned, weight: 2.0, path: '{folder}'{words}}}"
    return load_config(["experiment=smoke", f"reward={{kind: {term}}}"])


def test_the_term_of_the_settings_is_the_model_of_its_folder(folder, monkeypatch, tmp_path):
    from rsft_jax.interop import load_classifier

    term = _config(folder).reward.terms["kind"]
    reward = Term("kind", term.build(), term.weight)
    found = reward([Row("hi")], [["a", "bb", "c" * 300]])
    model = load_classifier(folder)
    rows = [model.encode([{"role": "user", "content": "hi"}], text) for text in ("a", "bb")]
    np.testing.assert_allclose(found[0, :2], 2 * model.scores(rows)[:, 0], rtol=1e-5)
    assert np.isnan(found[0, 2])  # longer than the model can read
    # The folder is found from wherever the run is asked.
    monkeypatch.chdir(folder.parent)
    save_config(_config("model"), tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    again = read_config(tmp_path / "config.yaml")
    assert again.reward.terms["kind"].path == str(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "bad"}, r"reward.kind.path: .*; label must be one of score, got 'bad'"),
        ({"max_length": 300}, r"max_length must be in \[1, 256\], got 300"),
        ({"rows_at_once": 0}, r"reward.kind.rows_at_once: 0; must be at least 1"),
        ({"output": "logit"}, r"reward.kind.output"),
    ],
)
def test_what_does_not_fit_is_one_line_before_a_run(folder, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        make_reward(_config(folder, **settings).reward)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_reward_model_is_one_line(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"reward.kind.path: .*; .*there is no config.json"):
        make_reward(_config(tmp_path).reward)
    with pytest.raises(ConfigError, match=r"reward.kind.path: ' '; must be a folder"):
        _config(" ")
