"""A chat in the terminal: lines in, answers out, token by token.

Answers go to one stream and what is told about them to another, so that `rsft chat FOLDER <
questions.txt > answers.txt` leaves answers alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TextIO

import jax

from rsft_jax.data.text_stream import TextStream
from rsft_jax.generation import stop_strings, stream
from rsft_jax.models import cache_fn, logits_fn
from rsft_jax.types import Params

from ..terminal.errors import one_line, shown
from ..terminal.plain import without_controls
from ..terminal.signals import Terminated, interrupts_noted
from .conversation import Conversation, check_room
from .opened import Opened

HELP = """\
a line is a message; // at its start is a single /
/retry         draw another answer to the last message
/reset         begin a new conversation
/system TEXT   begin a new conversation with this system message; without TEXT, with none
/quit          leave, as Ctrl-D does
Ctrl-C stops an answer: what there is of it is kept"""


class Voice(NamedTuple):
    """One who answers.

    Attributes:
      name: what stands before its answers.
      params: its parameters.
    """

    name: str
    params: Params


class _Answer(NamedTuple):
    text: str
    stopped: bool  # by Ctrl-C


class Chat:
    """A conversation whose next messages come as lines.

    The first voice's answers are those that the conversation goes on with; the others answer the
    same messages, with the same random numbers. Answer d of turn t is candidate d of the prompt t
    of `rsft_jax.generation.generate`.

    Args:
      policy: what answers; its law and its tokenizer are those of all voices.
      voices: one or more.
      seed: of all randomness.
      out: where answers go.
      tell: what is told of them, a line at a time.
      named: whether the names of the voices stand before their answers.
    """

    def __init__(
        self,
        policy: Opened,
        voices: Sequence[Voice],
        *,
        seed: int,
        out: TextIO,
        tell: Callable[[str], None],
        named: bool,
    ):
        self._policy, self._out, self._tell, self._named = policy, out, tell, named
        self._key, self._logits = jax.random.key(seed), logits_fn(policy.model)
        prepare = getattr(self._logits, "prepare", lambda params: params)
        self._voices = [Voice(voice.name, prepare(voice.params)) for voice in voices]
        self._conversation = Conversation()
        self._turn, self._draw = -1, 0

    @property
    def conversation(self) -> Conversation:
        """What was said so far."""
        return self._conversation

    def begin(self, system: str | None) -> None:
        """Begins a conversation; without the system message, where the policy cannot take one."""
        tokenizer = self._policy.tokenizer
        if system is not None and tokenizer.chat_template is None:
            self._tell("a system message needs a chat template; going on without it")
            system = None
        if system is not None:
            try:
                Conversation(system).asked("Hello").tokens(tokenizer)
            except ValueError as error:
                self._tell(f"system message: {one_line(error)}; going on without it")
                system = None
        self._conversation = Conversation(system)

    def run(self, lines: Iterable[str]) -> None:
        """Answers lines until they end or one of them is /quit."""
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if not word:
                continue
            if word == "/quit":
                return
            if word == "/help":
                self._tell(HELP)
            elif word == "/reset":
                self._conversation = self._conversation.restarted()
                self._tell("a new conversation")
            elif word == "/system":
                self.begin(rest.strip() or None)
                self._tell("a new conversation")
            elif word == "/retry":
                self._retry()
            elif word.startswith("/") and not word.startswith("//"):
                self._tell(f"{shown(word)} is no command; /help lists them")
            else:
                self._say(line.removeprefix("/") if word.startswith("//") else line)

    def _say(self, text: str) -> None:
        self._turn, self._draw = self._turn + 1, 0
        self._answer_to(self._conversation.asked(text))

    def _retry(self) -> None:
        asked = self._conversation.unanswered()
        if asked is None:
            self._tell("there is no answer yet")
            return
        self._draw += 1
        self._answer_to(asked)

    def _answer_to(self, asked: Conversation) -> None:
        """Lets all voices answer; the conversation stays as it was where the first does not."""
        law = self._policy.law
        try:
            tokens = asked.tokens(self._policy.tokenizer)
            check_room(len(tokens), law.max_new_tokens, self._policy.max_length)
        except ValueError as error:
            self._tell(f"{one_line(error)} (this message is left out)")
            return
        for number, voice in enumerate(self._voices):
            answer = self._answer(voice, tokens)
            if number == 0 and (answer.text or not answer.stopped):
                self._conversation = asked.answered(answer.text)
            elif number == 0:
                self._tell("this message is left out, as nothing was answered")
            if answer.stopped:
                return

    def _answer(self, voice: Voice, tokens: Sequence[int]) -> _Answer:
        text, ended, stopped, count = TextStream(self._policy.tokenizer.decode), False, False, 0
        if self._named:
            self._write(f"{voice.name}> ")
        try:
            with interrupts_noted() as interrupted:
                for drawn in self._stream(voice, tokens):
                    count, ended = count + 1, drawn.finished
                    if not (ended and drawn.token in self._policy.law.stop_token_ids):
                        self._write(text.add(drawn.token))
                    if interrupted() and not ended:
                        stopped = True
                        break
        except Terminated:
            raise
        except KeyboardInterrupt:  # a second one, which did not wait for the next token
            stopped = True
        except ValueError as error:  # no distribution to draw from
            self._end_line()
            self._tell(one_line(error))
            return _Answer(text.text, stopped=True)
        if not stopped:
            self._write(text.end())
        self._end_line()
        if stopped:
            self._tell(f"stopped after {count} tokens")
        elif not ended:
            self._tell(f"cut at --max-new-tokens {count}")
        elif not text.text.strip():
            self._tell("an empty answer; /retry draws another")
        return _Answer(text.text, stopped)

    def _stream(self, voice: Voice, tokens: Sequence[int]):
        strings = self._policy.sampling.stop_strings
        return stream(
            self._key,
            self._logits,
            voice.params,
            tokens,
            sampling=self._policy.law,
            init_cache=cache_fn(self._policy.model),
            prompt_id=self._turn,
            candidate=self._draw,
            max_length=self._policy.max_length,
            stop=stop_strings(self._policy.tokenizer.readings, strings) if strings else None,
        )

    def _write(self, text: str) -> None:
        self._out.write(without_controls(text))
        self._out.flush()

    def _end_line(self) -> None:
        self._out.write("\n")
        self._out.flush()


def voices_of(policy: Opened, *, beside_base: bool) -> list[Voice]:
    """The policy, and beside it what it was before it was tuned, if that is asked for."""
    if not beside_base:
        return [Voice("policy", policy.params)]
    assert policy.base is not None
    return [Voice("tuned", policy.params), Voice("base", policy.base())]
