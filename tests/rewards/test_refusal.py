"""What counts as a refusal: every phrase, where it may stand, and what is none."""

import pytest

from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.rewards import REFUSALS, refusal


def refused(text, *phrases):
    return refusal(*phrases)(["p"], [[text]])[0, 0]


@pytest.mark.parametrize("phrase", REFUSALS)
def test_each_phrase_refuses_however_it_is_spelled(phrase):
    longer = phrase.replace("i can't", "I cannot").replace("i'm", "I am").replace("don't", "do not")
    for said in (phrase, phrase.upper(), phrase.replace("'", "\u2019"), longer):
        assert refused(f"Sorry, but {said} now. Ask me for something else.") == 1
    assert refused(f"{phrase}ed") == 0
    assert refused(f"x{phrase}") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", 1),
        ("I am sorry. I  can not\tassist you with it.", 1),
        ("Well. Sorry. As an AI, I have no opinion.", 0),  # the third sentence
        ("Thank you. As an AI, I have no opinion. Sorry.", 1),
        ('"I can\'t help you," said the nurse. She closed the window.', 0),
        ("\u201cI can\u2019t help you,\u201d said the nurse. She closed the window.", 0),
        ('He said "no". I can\'t help with this.', 1),
        ("\"I can't help you, said the nurse, and never closed the quotation.", 0),
        ("I'm sorry for your loss. The garden is yours.", 0),
        ("You can't help with that.", 0),
        ("As an air hostess she had seen it all.", 0),
        ("I can't", 0),
        ("", 0),
    ],
)
def test_a_refusal_is_said_at_the_beginning_by_the_one_who_was_asked(text, expected):
    assert refused(text) == expected


def test_phrases_are_ones_own_and_their_marks_mean_themselves():
    assert refused("Nein, das geht nicht.", ["das GEHT nicht"]) == 1
    assert refused("I can't help with that.", ["das geht nicht"]) == 0
    assert refused("axb", ["a.b"]) == 0
    assert refused("a.b", ["a.b"]) == 1


@pytest.mark.parametrize("phrases", [[], [""], ["no", " ?"]])
def test_a_phrase_without_a_word_is_refused(phrases):
    with pytest.raises(ValueError, match="phrases must"):
        refusal(phrases)
    listed = "[" + ",".join(f'"{one}"' for one in phrases) + "]"
    with pytest.raises(ConfigError, match=r"reward\.r\.phrases: .*; must be null, or phrases"):
        load_config(
            ["experiment=smoke", f"reward.r={{term: refusal, weight: -1, phrases: {listed}}}"]
        )


def test_the_term_takes_the_list_of_the_library_or_its_own():
    rows = ["I cannot help with that.", "Nein."]
    terms = load_config(
        [
            "experiment=smoke",
            "reward.r={term: refusal, weight: -1}",
            "reward.own={term: refusal, weight: -1, phrases: [nein]}",
        ]
    ).reward.terms
    assert terms["r"].build()(["p"], [rows]).tolist() == [[1, 0]]
    assert terms["own"].build()(["p"], [rows]).tolist() == [[0, 1]]
