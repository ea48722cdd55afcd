"""Words and sentences, also of languages that put no blanks between words."""

import math
import string

import numpy as np
import pytest

from rsft_jax.metrics import distinct_n, self_bleu
from rsft_jax.rewards import length_penalty, reading_ease, repetition
from rsft_jax.texts import split_sentences, split_words

ONCE = {  # a greeting and its units: letters where a script has no blanks, words elsewhere
    "Chinese": ("你好", ["你", "好"]),
    "Japanese": ("こんにちは", ["こ", "ん", "に", "ち", "は"]),
    "half-width kana": ("ｱｲ", ["ｱ", "ｲ"]),
    "rare Chinese": ("\U00020bb7野", ["\U00020bb7", "野"]),
    "Thai": ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
    "Lao": ("ສະບາຍ", ["ສ", "ະ", "ບ", "າ", "ຍ"]),
    "Khmer": ("សួស្តី", ["សួ", "ស្", "តី"]),
    "Burmese": ("မင်္ဂ", ["မ", "င်္", "ဂ"]),
    "Korean": ("안녕 하세요 ", ["안녕", "하세요"]),
    "English": ("hello there ", ["hello", "there"]),
    "Hindi": ("हिन्दी में ", ["हिन्दी", "में"]),
    "Tamil": ("தமிழ் நான் ", ["தமிழ்", "நான்"]),
    "Arabic with vowels": ("مَرْحَبًا بِك ", ["مَرْحَبًا", "بِك"]),
    "Persian": ("می\u200cخواهم تو ", ["می\u200cخواهم", "تو"]),
    "decomposed": ("cafe\u0301 au ", ["cafe\u0301", "au"]),
    "mixed": ("AI模型", ["ai", "模", "型"]),
}


@pytest.mark.parametrize("language", list(ONCE))
def test_words_and_all_that_counts_them(language):
    text, words = ONCE[language]
    assert split_words(text) == words
    six, n = text * 6, 6 * len(words)
    assert split_words(six) == words * 6
    # Of n - 1 pairs as many are different as one greeting has places.
    assert distinct_n([six], 2) == pytest.approx(len(words) / (n - 1))
    assert repetition(2)(["p"], [[six]])[0, 0] == pytest.approx(1 - len(words) / (n - 1))
    assert repetition(len(words))(["p"], [[text]])[0, 0] == 0
    assert length_penalty(n, n)(["p"], [[six]])[0, 0] == 0
    assert length_penalty(2 * n, 2 * n)(["p"], [[six]])[0, 0] == 0.5
    assert self_bleu([six, six]) == 1


def test_words_of_english_are_what_they_were():
    # Every pair of printable ASCII characters, between letters and alone.
    for a in string.printable:
        for b in string.printable:
            text = f"x{a}{b}y {a}{b}"
            words, word = [], ""
            for place, letter in enumerate(text.lower() + " "):
                inside = letter.isalnum() or letter == "_"
                ahead = text[place + 1 : place + 2]
                apostrophe = letter == "'" and word and (ahead.isalnum() or ahead == "_")
                if inside or apostrophe:
                    word += letter
                elif word:
                    words.append(word)
                    word = ""
            assert split_words(text) == words, text


@pytest.mark.parametrize(("text", "sentences"), [
    ("你好。再见！他说：“走。”然后", ["你好。", "再见！", "他说：“走。”", "然后"]),
    ("जी हाँ। नहीं॥", ["जी हाँ।", "नहीं॥"]),
    ("كيف؟ نعم۔", ["كيف؟", "نعم۔"]),
    ("Pi is 3.14. Yes.", ["Pi is 3.14.", "Yes."]),
])  # fmt: skip
def test_sentences_end_where_the_script_ends_them(text, sentences):
    assert split_sentences(text) == sentences


def test_reading_ease_is_of_latin_letters_and_nan_for_others():
    def ease(text):
        return float(reading_ease()(["p"], [[text]])[0, 0])

    for text in ("你好。再见。", "Привет, мир.", "สวัสดี"):
        assert math.isnan(ease(text))
    assert np.isfinite(
        [ease("The cat sat on π."), ease("Zoë naïvely met Łukasz."), ease("1984.")]
    ).all()
