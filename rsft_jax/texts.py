"""What words, sentences and chats are as text: the ground of rewards and measures that read one.

Standard library alone, so that a process that only reads texts starts in no time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

_WORD = re.compile(r"\w+(?:['’]\w+)*")
# A run of end marks, what closes a quotation after it, then a blank or the end; or a line break.
# The look-behind lets a match begin only where a run begins: without it ten thousand dots in a row
# would be scanned from each of them.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*(?=\s|$)|\n+")
_ABBREVIATION = re.compile(r"(?:^|\W)(?:dr|jr|mr|mrs|ms|mt|prof|sr|st|vs)$", re.IGNORECASE)


def split_words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation.

    A word is a run of letters, digits and underscores; an apostrophe inside belongs to it. Scripts
    that do not put blanks between words (Chinese, Japanese, Thai) come out as one word a clause.

    >>> split_words("Don't go, Zoë!")
    ["don't", 'go', 'zoë']
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
