"""A tokenizer with its chat template, for byte-level BPE lists or a `tokenizer.json`.

Special tokens are control symbols: the end of a turn, the start of a text. Text from users and
datasets may spell them, so `encode` never produces one, and `encode_chat` produces those that the
chat template itself wrote and no others.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsft_jax.data.chat import ChatTemplate, Message, check_messages, unused_characters
from rsft_jax.data.ends import END_TOKENS, end_tokens, text_after_answer
from rsft_jax.data.own_specials import own_name, renamed


class Tokenizer:
    """Turns text into token ids and back.

    Instances can be pickled. `encode` and `decode` are inverse to each other for every text that
    is valid Unicode when the tokenizer is byte-level.

    Args:
      definition: the content of a `tokenizer.json`.
      bos_id: id that starts a text, or None.
      eos_id: id that ends a text or a turn, or None.
      pad_id: id that fills rows; by default `eos_id`, else 0.
      stop_token_ids: ids that end a completion, the first one a turn. By default all that
        `rsft_jax.data.ends.end_tokens` finds: in the template, `eos_id`, `also_stop`, known ends.
      also_stop: further ids that the model's files name as ends.
      chat_template: a Jinja template, or None for a model without a chat.
      named_templates: further templates by name, for tools, say; kept, not used here.

    A token that begins or ends a text (`bos_id`, `eos_id`, `also_stop`, known ends) is a special
    token here also where the definition does not flag it, unless it is a word that text can spell.

    Raises:
      ValueError: the definition cannot be read, or an id lies outside of the vocabulary.

    >>> tokenizer = Tokenizer.from_bpe([*byte_alphabet(), "<|end|>"], [], special_ids=[256])
    >>> tokenizer.decode(tokenizer.encode("héllo"))
    'héllo'
    >>> tokenizer.stop_token_ids
    (256,)
    """

    def __init__(
        self,
        definition: str,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        stop_token_ids: Iterable[int] | None = None,
        also_stop: Iterable[int] = (),
        chat_template: str | None = None,
        named_templates: Mapping[str, str] | None = None,
    ) -> None:
        self._text = _backend(definition)
        # Ids may have holes, so this is the largest id and not the count.
        self.vocab_size = max(self._text.get_vocab(with_added_tokens=True).values()) + 1
        self._use(
            bos_id=bos_id, eos_id=eos_id, pad_id=pad_id, stop_token_ids=stop_token_ids,
            also_stop=also_stop, chat_template=chat_template, named_templates=named_templates,
        )  # fmt: skip

    def with_options(self, **options: Any) -> "Tokenizer":
        """The same vocabulary with these options, all of them, and nothing read again.

        Args:
          **options: ids and chat templates, as for `Tokenizer`, whose errors they raise.

        >>> tokenizer = Tokenizer.from_bpe([*byte_alphabet(), "<|end|>"], [], special_ids=[256])
        >>> tokenizer.with_options(eos_id=256).eos_id, tokenizer.eos_id
        (256, None)
        """
        made = object.__new__(type(self))  # a copy would be built from the definition
        made._text, made.vocab_size = self._text, self.vocab_size
        made._use(**options)
        return made

    def _use(
        self,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        stop_token_ids: Iterable[int] | None = None,
        also_stop: Iterable[int] = (),
        chat_template: str | None = None,
        named_templates: Mapping[str, str] | None = None,
    ) -> None:
        """Sets everything but the vocabulary."""
        also_stop = tuple(also_stop)
        stops = None if stop_token_ids is None else tuple(dict.fromkeys(stop_token_ids))
        named = [("bos_id", bos_id), ("eos_id", eos_id), *(("also_stop", i) for i in also_stop)]
        named += [("stop_token_ids", i) for i in stops or ()]
        for name, value in (*named, ("pad_id", pad_id)):
            if value is not None and not 0 <= value < self.vocab_size:
                raise ValueError(f"{name} must be in [0, {self.vocab_size}), got {value}")
        if unflagged := _unflagged(self._text, [i for _, i in named if i is not None]):
            self._text = _backend(_flagged(self.definition, unflagged))
        self._special: Any = None
        self._renamed: tuple[str, Any] = ("", None)
        added = self._text.get_added_tokens_decoder()
        self._single_words = {t.content for t in added.values() if t.special and t.single_word}
        self._specials = {token.content: i for i, token in sorted(added.items()) if token.special}
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id if pad_id is not None else (0 if eos_id is None else eos_id)
        self._stops, self._also_stop = stops, also_stop
        self.chat_template = chat_template
        self.named_templates: Mapping[str, str] = dict(named_templates or {})
        self._template: ChatTemplate | None = None

    @classmethod
    def from_bpe(
        cls,
        tokens: Sequence[str],
        merges: Sequence[str],
        *,
        special_ids: Iterable[int] = (),
        added_ids: Iterable[int] = (),
        split_digits: bool = False,
        split_pattern: str | None = None,
        ignore_merges: bool = False,
        add_bos: bool = False,
        **options: Any,
    ) -> "Tokenizer":
        """Builds a byte-level BPE tokenizer, the form that GGUF files carry, from its lists.

        Args:
          tokens: the vocabulary in the byte alphabet of GPT-2; the index is the id.
          merges: pairs "left right", the earliest first.
          special_ids: ids of control tokens.
          added_ids: ids of tokens that are matched whole in any text, but are no control tokens.
          split_digits: whether every digit is a token of its own (SmolLM).
          split_pattern: a regular expression that cuts a text before the merges (Llama 3, Qwen);
            by default that of GPT-2.
          ignore_merges: whether a piece that is itself in the vocabulary is taken without merges.
          add_bos: whether `bos_id`, among the options, begins every text (see `start_ids`).
          **options: ids and chat template, as for `Tokenizer`.
        """
        from tokenizers import AddedToken, decoders, models
        from tokenizers import Tokenizer as Backend

        vocabulary = {token: i for i, token in enumerate(tokens)}
        if len(vocabulary) != len(tokens):
            duplicate = next(t for i, t in enumerate(tokens) if vocabulary[t] != i)
            raise ValueError(f"tokens must differ, but {duplicate!r} occurs twice")
        pairs: list[tuple[str, str]] = []
        for i, merge in enumerate(merges):
            left, _, right = merge.partition(" ")
            pairs.append((left, right))
            if not all(token in vocabulary for token in (left, right, left + right)):
                raise ValueError(f"merges[{i}] must join two tokens to a third, got {merges[i]!r}")
        backend = Backend(models.BPE(vocabulary, pairs, ignore_merges=ignore_merges))
        backend.pre_tokenizer = (  # pyright: ignore[reportAttributeAccessIssue]
            _byte_level(split_digits, split_pattern)
        )
        backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        for ids, special in ((special_ids, True), (added_ids, False)):
            added = [AddedToken(tokens[i], special=special, normalized=False) for i in ids]
            (backend.add_special_tokens if special else backend.add_tokens)(added)
        if add_bos:
            _begin_texts_with(backend, tokens, options.get("bos_id"))
        return cls(backend.to_str(), **options)

    def _options(self) -> dict[str, Any]:
        names = ("bos_id", "eos_id", "pad_id", "stop_token_ids", "chat_template", "named_templates")
        return {name: getattr(self, name) for name in names}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.definition, self._options())

    def with_pad(self, pad_id: int) -> "Tokenizer":
        """The same tokenizer with another token that fills rows.

        Raises:
          ValueError: the id lies outside of the vocabulary.
        """
        return self.with_options(**{**self._options(), "pad_id": pad_id})

    @functools.cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a completion, the first one a turn (`end_id`)."""
        if self._stops is not None:
            return self._stops
        return end_tokens(
            self._specials,
            eos_id=self.eos_id,
            named=self._also_stop,
            after_answer="" if self.chat_template is None else self._text_after_answer(),
        )

    def _text_after_answer(self) -> str:
        return text_after_answer(lambda chat: self.render_chat(chat, add_generation_prompt=False))

    @property
    def end_id(self) -> int | None:
        """The id that ends a turn: what a whole text of somebody else is trained to end with."""
        return self.stop_token_ids[0] if self.stop_token_ids else None

    @property
    def definition(self) -> str:
        """The content of a `tokenizer.json`."""
        return self._text.to_str(pretty=False)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Special tokens by their spelling."""
        return dict(self._specials)

    def id_to_token(self, token_id: int) -> str | None:
        """The spelling of an id, None where the vocabulary has a hole."""
        return self._text.id_to_token(token_id)

    def token_to_id(self, token: str) -> int:
        """The id of a spelling; a ValueError if the vocabulary has no such token."""
        token_id = self._text.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the vocabulary has no token {token!r:.80}")
        return token_id

    def encode(self, text: str) -> list[int]:
        """Ids of a text. No special token is added, and one that is spelled out stays text.

        Raises:
          ValueError: the text is not a string, or holds a lone surrogate, which no encoding has.
        """
        return self._text.encode(_checked(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        batch = [_checked(text, f"texts[{i}]") for i, text in enumerate(texts)]
        return [e.ids for e in self._text.encode_batch_fast(batch, add_special_tokens=False)]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are no valid UTF-8 become U+FFFD.

        Args:
          ids: token ids; an array serves too.
          skip_special_tokens: whether special tokens are left out or spelled.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        ids = [int(i) for i in ids]
        for place, i in enumerate(ids):
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"ids[{place}] must be in [0, {self.vocab_size}), got {i}")
        return self._text.decode(ids, skip_special_tokens=skip_special_tokens)

    def decode_batch(
        self, rows: Iterable[Iterable[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """`decode` of each row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def decode_completions(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """The texts of completions, without the token that ended each.

        A stop token may be an ordinary word (of a file that names one), which `decode` would show.
        """
        stops = frozenset(self.stop_token_ids)
        return self.decode_batch(
            row[:-1] if len(row) and int(row[-1]) in stops else row for row in rows
        )

    def readings(self, ids: Iterable[int]) -> tuple[str, ...]:
        """The text of ids as it is shown, and where they hold special tokens also as they spell it.

        A string to stop at may be either.
        """
        ids = [int(i) for i in ids]
        shown = self.decode(ids)
        if not set(ids).intersection(self._specials.values()):
            return (shown,)
        return shown, self.decode(ids, skip_special_tokens=False)

    @functools.cached_property
    def start_ids(self) -> tuple[int, ...]:
        """Special tokens that the tokenizer itself begins every text with, such as `bos_id`."""
        encoded = self._text.encode("a", add_special_tokens=True)
        mask = encoded.special_tokens_mask
        return tuple(encoded.ids[: mask.index(0) if 0 in mask else len(mask)])

    def render_prompt(self, text: str) -> str:
        """A text for a model to go on with, with the special tokens that begin every text spelled.

        The form of a prompt for a model without a chat template.
        """
        return "".join(str(self.id_to_token(i)) for i in self.start_ids) + text

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of `render_prompt`; special tokens that the text itself spells are text.

        Raises:
          ValueError: as `encode`.

        Example:
          >>> letters = [*byte_alphabet(), "<s>"]
          >>> base = Tokenizer.from_bpe(letters, [], special_ids=[256], bos_id=256, add_bos=True)
          >>> base.encode_prompt("a"), base.encode("a")
          ([256, 97], [97])
        """
        return [*self.start_ids, *self.encode(text)]

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_last: bool = False,
    ) -> str:
        """The text of a chat, as the model's template writes it.

        Args:
          messages: each with the strings "role" and "content".
          add_generation_prompt: whether the text ends where the assistant's turn begins.
          continue_last: whether it ends with the words of the last message instead.

        Raises:
          ValueError: there is no template, a message is malformed, or the template fails.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer has no chat template")
        if self._template is None:
            self._template = ChatTemplate(self.chat_template)
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        return self._template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_last=continue_last,
            variables={n: self.id_to_token(i) for n, i in names.items() if i is not None},
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_last: bool = False,
    ) -> list[int]:
        """Ids of a chat; special tokens that messages spell are encoded as text.

        Where messages spell none, the result is that of encoding `render_chat` with its special
        tokens recognised. Otherwise each spelled one travels through the template behind a mark
        that no message contains, and the template's own go by other names (`own_specials`): they
        are encoded as they would be without the spelled ones.

        Raises:
          ValueError: as `render_chat`.
        """
        check_messages(messages)
        options: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "continue_last": continue_last,
        }
        if not self._specials:
            return self.encode(self.render_chat(messages, **options))
        # The first one marks the end of the message to go on with.
        _, lead, mark = unused_characters(messages, 3)
        spelled = "|".join(re.escape(s) for s in sorted(self._specials, key=len, reverse=True))
        pattern = re.compile(spelled)
        marked = _map_strings(messages, lambda s: pattern.sub(lambda m: mark + m.group(), s))
        text = self.render_chat(marked, **options)
        if mark not in text:
            if self._special is None:
                import tokenizers

                self._special = tokenizers.Tokenizer.from_str(self.definition)
            return self._special.encode(_checked(text), add_special_tokens=False).ids

        def own(match: re.Match[str]) -> str:
            word = match.group()
            if word[0] == mark:
                return word[1:]
            if word in self._single_words and _between_words(match):
                return word
            return own_name(lead, self._specials[word])

        text = re.sub(f"{mark}(?:{spelled})|{spelled}", own, text).replace(mark, "")
        if self._renamed[0] != lead:
            self._renamed = lead, renamed(self.definition, self._specials, lead)
        return self._renamed[1].encode(_checked(text), add_special_tokens=False).ids


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, in the order of the bytes.

    Printable bytes stand for themselves; the others are shifted to U+0100 and above, in order.

    References:
      Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def _backend(definition: str) -> Any:
    import tokenizers  # not at the top: it takes a tenth of a second

    try:
        backend = tokenizers.Tokenizer.from_str(definition)
        backend.no_padding()
        backend.no_truncation()
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"the tokenizer definition cannot be read: {error}") from error
    # Splits special tokens like any other text; `Tokenizer._special` recognises them.
    backend.encode_special_tokens = True
    return backend


def _byte_level(split_digits: bool, split_pattern: str | None) -> Any:
    """Cuts a text before the merges, and spells the pieces in the byte alphabet."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    if split_pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(split_pattern), "isolated"))
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_pattern is None)
    return pre_tokenizers.Sequence([*steps, spell]) if steps else spell


def _unflagged(backend: Any, ends: Iterable[int]) -> dict[int, str]:
    """Tokens that begin or end a text and are not flagged as special, though they are no words.

    llama.cpp overrides the type of such tokens, and transformers that of the eos and bos tokens.
    Of what is added, a text that spells it would be given the token: it is no word either.
    """
    added = backend.get_added_tokens_decoder()
    known = [i for token in END_TOKENS if (i := backend.token_to_id(token)) is not None]
    unflagged = {}
    for i in sorted({*ends, *known} - {i for i, token in added.items() if token.special}):
        token, text = backend.id_to_token(i), backend.decode([i], skip_special_tokens=False)
        a_word = i in backend.encode(text, add_special_tokens=False).ids and i not in added
        if token == text and not a_word:
            unflagged[i] = token
    return unflagged


def _flagged(definition: str, tokens: Mapping[int, str]) -> str:
    """The definition with these tokens flagged as special."""
    content = json.loads(definition)
    added = {entry["id"]: entry for entry in content.get("added_tokens") or []}
    for i, token in tokens.items():
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added[i] = {"id": i, "content": token, **plain, **added.get(i, {}), "special": True}
    content["added_tokens"] = [added[i] for i in sorted(added)]
    return json.dumps(content, ensure_ascii=False)


def _begin_texts_with(backend: Any, tokens: Sequence[str], bos_id: int | None) -> None:
    from tokenizers import processors

    if bos_id is None or not 0 <= bos_id < len(tokens):
        raise ValueError(f"bos_id must be a token where add_bos is true, got {bos_id}")
    token = tokens[bos_id]
    backend.post_processor = processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", "$B"], special_tokens=[(token, bos_id)]
    )


def _between_words(match: re.Match[str]) -> bool:
    """Whether a letter, digit or underscore touches a match, which is then no word of its own."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return re.search(r"\w", before + after) is not None


def _rebuild(definition: str, options: dict[str, Any]) -> Tokenizer:
    return Tokenizer(definition, **options)


def _checked(text: str, name: str = "text") -> str:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has a lone surrogate at character {error.start}") from error
    return text


def _map_strings(value: Any, function: Any) -> Any:
    """The same nested value with every string (keys aside) replaced."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map_strings(item, function) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_map_strings(item, function) for item in value]
    return value
