"""Two measures of how cheerful a text is: one to train on, one to judge with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsft_jax.rewards.extras import require
from rsft_jax.rewards.texts import from_text_score
from rsft_jax.texts import split_sentences

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn


def sentiment() -> RewardFn:
    """Returns a reward in [-1, 1]: the mean over sentences of VADER's compound score.

    VADER sums the valences v of a sentence's words and squashes the sum, v / sqrt(v^2 + 15). It is
    made for one sentence: over a whole story the sum grows with the length, and the score sits at
    +1 or -1 whatever the story says. The mean over sentences keeps its range at any length, and a
    longer text gains nothing by being longer. What it cannot see: it is a list of words, so text
    that repeats cheerful words scores near 1. Weigh it against `repetition` and `length_penalty`,
    and watch `polarity` beside it.

    A text without a word it knows scores 0, and so does an empty one.

    Raises:
      ImportError: vaderSentiment is not installed (`pip install "rsft_jax[rewards]"`).

    >>> sentiment()(["p"], [["What a lovely day. I love it!", "He died alone."]]).round(2)
    array([[ 0.63, -0.68]])

    Source: Hutto and Gilbert, VADER: a parsimonious rule-based model for sentiment analysis of
    social media text, ICWSM 2014.
    """
    module = require("vaderSentiment.vaderSentiment", package="vaderSentiment")
    analyzer = module.SentimentIntensityAnalyzer()

    def score(text: str) -> float:
        sentences = split_sentences(text)
        total = sum(analyzer.polarity_scores(sentence)["compound"] for sentence in sentences)
        return total / max(len(sentences), 1)

    return from_text_score(score)


def polarity() -> RewardFn:
    """Returns a reward in [-1, 1]: TextBlob's polarity, a judge for what `sentiment` trained.

    The mean polarity of the words and phrases that the `pattern` lexicon knows, with modifiers and
    negation. Another lexicon and another rule than VADER's, so that a policy which has learnt the
    weak points of one shows in the other. Both are word lists: they agree on real cheerfulness and
    on much that is not, and a rise in both is evidence, not proof.

    Only the lexicon that comes with the package is used; nothing is downloaded. A text without a
    word it knows scores 0.

    Raises:
      ImportError: textblob is not installed (`pip install "rsft_jax[rewards]"`).

    >>> polarity()(["p"], [["A wonderful evening.", "A terrible evening."]])
    array([[ 1., -1.]])

    Source: De Smedt and Daelemans, Pattern for Python, JMLR 13, 2012; TextBlob `PatternAnalyzer`.
    """
    module = require("textblob.en.sentiments", package="textblob")
    analyzer = module.PatternAnalyzer()
    return from_text_score(lambda text: float(analyzer.analyze(text).polarity))
