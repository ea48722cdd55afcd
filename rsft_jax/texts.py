"""What words, sentences and chats are as text: the ground of rewards and measures that read one.

Standard library alone, so that a process that only reads texts starts in no time.
"""

import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

# Scripts that put no blank between words: Thai, Lao, Burmese, Khmer, Tai, Balinese, Javanese, kana,
# bopomofo and Chinese characters.
_NO_BLANKS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u3005-\u3007"
    "\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9df\uaa60-\uaadf\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003134f"
)


def _marks(last: int = 0x1FFFF) -> str:
    """What stands on or in a letter, as the inside of a character class: accents, vowel signs.

    Python's word characters do not hold them, so that a word of Hindi would end at each vowel.
    """
    marks, start = ["\u200c\u200d"], None  # the joiners inside words of Persian and Hindi
    for code in range(0x300, min(last, sys.maxunicode) + 2):
        is_mark = unicodedata.category(chr(code)).startswith("M")
        if is_mark and start is None:
            start = code
        elif not is_mark and start is not None:
            marks.append(f"{chr(start)}-{chr(code - 1)}")
            start = None
    return "".join(marks)


_LETTER = rf"[^\W{_NO_BLANKS}]"
_MARK = rf"[{_marks()}]"
_RUN = rf"{_LETTER}(?:{_LETTER}|{_MARK})*"
# A letter of a script without blanks, or a run of other letters; marks belong to what they follow.
_WORD = re.compile(rf"(?!{_LETTER})\w{_MARK}*|{_RUN}(?:['’]{_RUN})*")
# A run of end marks, what closes a quotation after it, then a blank or the end; or a line break.
# The look-behind lets a match begin only where a run begins: without it ten thousand dots in a row
# would be scanned from each of them. Marks that scripts use for nothing else need no blank.
_SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。｡！？।॥؟۔։።။។]+[\"'”’»」』）)\]]*|\n+"
)
_ABBREVIATION = re.compile(r"(?:^|\W)(?:dr|jr|mr|mrs|ms|mt|prof|sr|st|vs)$", re.IGNORECASE)


def split_words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation.

    A word is a run of letters, digits and underscores with their accents and vowel signs; an
    apostrophe inside belongs to it. In scripts that put no blanks between words (Chinese, Japanese,
    Thai, Lao, Khmer, Burmese and others) each letter with its marks counts as a word, as BLEU
    counts Chinese: numbers of "words" are those of letters there, about one and a half to a word
    of Chinese and some four to one of Thai, and are to be compared within one language alone.

    >>> split_words("Don't go, Zoë!")
    ["don't", 'go', 'zoë']
    >>> split_words("AI 你好, हिन्दी")
    ['ai', '你', '好', 'हिन्दी']
    """
    return _WORD.findall(text.lower())


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text, stripped; a piece without a word goes with the one before.

    >>> split_sentences('"Mr. Ito?" she asked. Nobody!! \\nThe end')
    ['"Mr. Ito?"', 'she asked.', 'Nobody!!', 'The end']
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for end in [*_sentence_ends(text), len(text)]:
        if spans and not _WORD.search(text, start, end):
            spans[-1] = (spans[-1][0], end)
        else:  # at the beginning also punctuation alone: an emoticon has a sentiment
            spans.append((start, end))
        start = end
    sentences = [text[start:end].strip() for start, end in spans]
    return [sentence for sentence in sentences if sentence]


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """Returns a chat as one text: a user's only message as it is, else all, with their roles.

    >>> conversation([{"role": "user", "content": "Hi"}])
    'Hi'
    >>> conversation([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    'user: Hi\\n\\nassistant: Yes?'
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _sentence_ends(text: str) -> Iterator[int]:
    for match in _SENTENCE_END.finditer(text):
        # Only the few characters before the dot are looked at, so that a text of nothing but
        # abbreviations does not cost its length squared.
        before = text[max(0, match.start() - 6) : match.start()]
        if match.group().startswith(".") and _ABBREVIATION.search(before):
            continue
        yield match.end()
