"""Each text reward against answers worked out by hand, and its imports kept late and quiet."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from rsft_jax.rewards import (
    length_penalty,
    offensive,
    polarity,
    reading_ease,
    repetition,
    sentiment,
)
from rsft_jax.rewards.readability import count_syllables


def one(reward, text):
    return float(reward(["prompt"], [[text]])[0, 0])


def compound(*valences):
    """VADER's squashed sum, for words without modifiers."""
    return sum(valences) / np.sqrt(sum(valences) ** 2 + 15)


def test_sentiment_is_the_mean_of_sentences_by_hand():
    # Valences of the lexicon: love 3.2, died -2.6; the middle sentence has no word in it.
    text = "They love bread. The table is brown. The king died."
    expected = (compound(3.2) + 0.0 + compound(-2.6)) / 3
    assert one(sentiment(), text) == pytest.approx(expected, abs=1e-4)  # VADER rounds to 4 places


def test_sentiment_gains_nothing_from_length():
    reward = sentiment()
    sentence = "They love bread. "
    assert one(reward, sentence * 40) == pytest.approx(one(reward, sentence))
    assert one(reward, sentence) < 0.7  # one compound over the forty would be 0.9996


@pytest.mark.parametrize("text", ["", " \n", "...", "The table is brown."])
@pytest.mark.parametrize("make", [sentiment, polarity])
def test_sentiment_of_neutral_text_is_zero(make, text):
    assert one(make(), text) == 0.0


@pytest.mark.parametrize("make", [sentiment, polarity])
def test_sentiment_orders_texts_and_stays_in_range(make):
    reward = make()
    texts = [
        "A wonderful, happy, beautiful day! We love it! " * 20,
        "It was a nice evening.",
        "It was a sad evening.",
        "A horrible, cruel, disgusting death. We hate it. " * 20,
    ]
    scores = reward(["prompt"], [texts])[0]
    assert np.all(np.diff(scores) < 0)
    assert np.all(np.abs(scores) <= 1.0)


def test_polarity_needs_no_corpus_and_no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("polarity tried the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert one(polarity(), "A wonderful evening.") == 1.0


def test_offensive_tells_rude_from_clean_in_one_batch():
    rewards = offensive()(["a", "b"], [["The sea was calm.", ""], ["fuck you", "a warm loaf"]])
    assert rewards.shape == (2, 2)
    assert rewards[1, 0] > 0.9
    assert max(rewards[0, 0], rewards[0, 1], rewards[1, 1]) < 0.3


def test_offensive_keeps_the_version_warning_and_no_other_from_the_console(tmp_path):
    # A stand-in that warns as the real package does under a scikit-learn its pickle is not from.
    (tmp_path / "profanity_check.py").write_text(
        "import warnings\n"
        "from sklearn.exceptions import InconsistentVersionWarning as Inconsistent\n"
        "warnings.warn(Inconsistent(estimator_name='LinearSVC', original_sklearn_version='0.1',\n"
        "                           current_sklearn_version='9.9'))\n"
        "warnings.warn('another warning')\n"
        "predict_prob = lambda texts: [0.5] * len(texts)\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from rsft_jax.rewards import offensive\n"
        "print(offensive()(['p'], [['The sea was calm.']]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[[0.5]]", done.stderr
    assert "LinearSVC" not in done.stderr
    assert "another warning" in done.stderr


def test_offensive_is_quiet_with_the_installed_packages():
    script = "from rsft_jax.rewards import offensive; offensive()(['p'], [['The sea was calm.']])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("n", "text", "expected"),
    [
        (1, "a b a b", 0.5),
        (2, "a b a b", 1 / 3),  # ab ba ab
        (3, "a b a b", 0.0),  # aba bab
        (3, "happy " * 10, 7 / 8),  # eight trigrams, one kind
        (3, "Happy, HAPPY happy! happy", 1 / 2),
        (3, "a b", 0.0),
        (3, "", 0.0),
    ],
)
def test_repetition_matches_answers_by_hand(n, text, expected):
    assert one(repetition(n), text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(0, 1.0), (1, 0.9), (9, 0.1), (10, 0.0), (20, 0.0), (21, 0.05), (30, 0.5), (40, 1), (99, 1)],
)
def test_length_penalty_is_linear_outside_its_range(words, expected):
    assert one(length_penalty(10, 20), "word " * words) == pytest.approx(expected)


def test_length_penalty_without_a_minimum_lets_the_empty_text_pass():
    assert one(length_penalty(0, 20), "") == 0.0


def test_reading_ease_matches_the_formula_by_hand():
    # 8 words, 2 sentences; table 2, window 2, yellow 2, the others 1: 11 syllables.
    text = "The table stood there. The window was yellow."
    expected = 206.835 - 1.015 * 4 - 84.6 * 11 / 8
    assert one(reading_ease(), text) == pytest.approx(expected)
    assert np.isnan(one(reading_ease(), "!?"))


@pytest.mark.parametrize(
    ("word", "syllables"),
    [("a", 1), ("the", 1), ("made", 1), ("apple", 2), ("asked", 1), ("landed", 2), ("banana", 3)],
)
def test_syllables_match_a_dictionary(word, syllables):
    assert count_syllables(word) == syllables


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: repetition(0), "n must be at least 1, got 0"),
        (lambda: length_penalty(-1, 5), "minimum_words must be at least 0, got -1"),
        (lambda: length_penalty(6, 5), "got 5 with minimum_words=6"),
        (lambda: length_penalty(0, 0), "maximum_words must be at least 1"),
    ],
)
def test_reward_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "blocked", "package"),
    [
        (sentiment, "vaderSentiment.vaderSentiment", "vaderSentiment"),
        (polarity, "textblob.en.sentiments", "textblob"),
        (offensive, "profanity_check", "alt-profanity-check"),
        (offensive, "sklearn.exceptions", "scikit-learn"),
    ],
)
def test_missing_package_is_one_import_error_naming_the_extra(monkeypatch, make, blocked, package):
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(ImportError, match=rf"needs {package}, .*rsft_jax\[rewards\]"):
        make()


def test_import_of_rewards_brings_no_optional_package():
    script = (
        "import sys, rsft_jax.rewards, rsft_jax.data\n"
        "heavy = ['sklearn', 'nltk', 'textblob', 'vaderSentiment', 'profanity_check', 'scipy',"
        " 'tokenizers', 'flax']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
