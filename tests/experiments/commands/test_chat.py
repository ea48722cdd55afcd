"""`rsft chat`: what a person sees of it, in a terminal and through pipes."""

import dataclasses
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language.chat import Chat, Voice, voices_of
from rsft_jax.experiments.language.conversation import Conversation
from rsft_jax.experiments.language.opened import open_model
from rsft_jax.experiments.runs import backend
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.experiments.terminal.plain import without_controls
from rsft_jax.generation import generate
from rsft_jax.models import cache_fn, logits_fn
from tests.tiny import tiny_tokenizer, write_tiny_gguf

LENGTH = 12
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model whose answers have no end of their own."""
    policy = open_model(write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    sampling = dataclasses.replace(policy.sampling, max_new_tokens=LENGTH, min_new_tokens=LENGTH)
    return dataclasses.replace(policy, sampling=sampling)


def other(params):
    return jax.tree.map(lambda leaf: leaf + 0.05, params)


def template(policy, chat_template):
    """The policy with another chat template, or none."""
    old = policy.tokenizer
    new = type(old)(
        old.definition, bos_id=old.bos_id, eos_id=old.eos_id,
        stop_token_ids=old.stop_token_ids, chat_template=chat_template,
    )  # fmt: skip
    return dataclasses.replace(policy, tokenizer=new)


class Talk:
    """A chat, and what came of it."""

    def __init__(self, policy, voices=None, out=None, named=False, seed=5):
        self.out, self.told = out or io.StringIO(), []
        voices = voices or voices_of(policy, beside_base=False)
        self.chat = Chat(
            policy, voices, seed=seed, out=self.out, tell=self.told.append, named=named
        )

    def __call__(self, *lines):
        self.chat.run(lines)
        return self

    @property
    def messages(self):
        return [(m["role"], m["content"]) for m in self.chat.conversation.messages]


def drawn(policy, params, messages, turn, draw):
    """The answer by `generate`: candidate `draw` of the prompt `turn`."""
    ids = policy.tokenizer.encode_chat([{"role": r, "content": c} for r, c in messages])
    out = generate(
        jax.random.key(5), logits_fn(policy.model), params, [ids], num_candidates=draw + 1,
        sampling=policy.law, init_cache=cache_fn(policy.model), prompt_ids=[turn],
    )  # fmt: skip
    tokens = np.asarray(out.tokens)[0, draw, : int(out.lengths[0, draw])]
    return policy.tokenizer.decode_completions([tokens])[0]


def test_answers_are_candidates_of_the_whole_conversation_so_far(tiny):
    talk = Talk(tiny)("Hi", "/retry", "And?")
    first = drawn(tiny, tiny.params, [("user", "Hi")], 0, 1)  # the second draw is what is kept
    said = [("user", "Hi"), ("assistant", first), ("user", "And?")]
    second = drawn(tiny, tiny.params, said, 1, 0)
    assert talk.messages == [*said, ("assistant", second)]
    shown = talk.out.getvalue()
    assert shown.endswith(f"{without_controls(first)}\n{without_controls(second)}\n")
    before = shown.removesuffix(f"{without_controls(first)}\n{without_controls(second)}\n")
    assert before == without_controls(drawn(tiny, tiny.params, said[:1], 0, 0)) + "\n"
    assert talk.told == [f"cut at --max-new-tokens {LENGTH}"] * 3
    assert Talk(tiny)("Hi", "/retry", "And?").out.getvalue() == shown  # the same seed


def test_base_answers_beside_the_tuned_and_the_conversation_goes_on_with_the_tuned(tiny):
    policy = dataclasses.replace(tiny, base=lambda: other(tiny.params))
    talk = Talk(policy, voices_of(policy, beside_base=True), named=True)("Hi")
    tuned = drawn(tiny, tiny.params, [("user", "Hi")], 0, 0)
    base = drawn(tiny, other(tiny.params), [("user", "Hi")], 0, 0)
    assert tuned != base
    wanted = f"tuned> {without_controls(tuned)}\nbase> {without_controls(base)}\n"
    assert talk.out.getvalue() == wanted
    assert talk.messages == [("user", "Hi"), ("assistant", tuned)]


def test_commands_do_what_help_says(tiny):
    talk = Talk(tiny)("/retry", "", "  ", "/rest", "/help")
    assert talk.told[0] == "there is no answer yet"
    assert talk.told[1] == "'/rest' is no command; /help lists them"
    for command in ("/retry", "/reset", "/system", "/quit"):
        assert command in talk.told[2]
    assert talk.messages == []
    talk("//quit", "/quit", "not read")
    assert [content for role, content in talk.messages if role == "user"] == ["/quit"]
    talk("/reset")
    assert talk.messages == []
    talk("/system Be kind", "Hi")
    assert talk.chat.conversation.system == "Be kind"
    talk("/reset")
    assert talk.chat.conversation == Conversation("Be kind")
    talk("/system")
    assert talk.chat.conversation == Conversation()


class _Interrupting(io.StringIO):
    """Ctrl-C when so many pieces have been written."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def write(self, text):
        self.after -= text not in ("", "\n")
        if self.after == 0:
            self.after = -1
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_stops_the_answer_keeps_it_and_the_session_goes_on(tiny):
    talk = Talk(tiny, out=_Interrupting(3))("Hi", "And?")
    assert talk.told[0].startswith("stopped after ")
    assert talk.told[1].startswith("cut at")
    (_, kept), (_, asked) = talk.messages[1:3]
    whole = drawn(tiny, tiny.params, [("user", "Hi")], 0, 0)
    assert 0 < len(kept) < len(whole)
    assert whole.startswith(kept)
    assert talk.out.getvalue().startswith(without_controls(kept) + "\n")
    assert (asked, len(talk.messages)) == ("And?", 4)


def test_ctrl_c_before_a_word_leaves_the_message_out(tiny, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt
        yield

    talk = Talk(tiny)("Hi")
    before = talk.messages
    monkeypatch.setattr("rsft_jax.experiments.language.chat.stream", interrupted)
    talk("And?")
    assert talk.messages == before
    assert talk.told[-1] == "this message is left out, as nothing was answered"


def test_a_full_context_is_refused_and_not_cut(tiny):
    talk = Talk(tiny)("Hi", "x" * 250)
    assert "the context is full: the conversation has 3" in talk.told[-1]
    assert "12 more, and the policy reads 256; /reset" in talk.told[-1]
    assert len(talk.messages) == 2
    talk("/reset", "Hi")
    assert talk.told[-1].startswith("cut at")


def test_a_template_that_refuses_is_one_line_and_the_session_goes_on(tiny):
    policy = template(tiny, NO_SYSTEM + tiny.tokenizer.chat_template)
    talk = Talk(policy)
    talk.chat.begin("Be kind")
    [line] = talk.told
    assert line.startswith("system message: the chat template failed: no system role")
    assert line.endswith("going on without it")
    talk("Hi")
    assert len(talk.messages) == 2
    short = "{% if messages | length > 1 %}{{ raise_exception('one message alone') }}{% endif %}"
    talk = Talk(template(tiny, short + tiny.tokenizer.chat_template))("Hi", "And?", "/retry")
    assert "one message alone (this message is left out)" in talk.told[1]
    assert "\n" not in talk.told[1]
    assert len(talk.messages) == 2
    assert talk.told[2].startswith("cut at")
    assert "lone surrogate" in talk("/reset", "\ud800").told[-1]


def test_a_base_model_goes_on_with_each_text_alone(tiny):
    policy = template(tiny, None)
    talk = Talk(policy)
    talk.chat.begin("Be kind")
    assert talk.told == ["a system message needs a chat template; going on without it"]
    asked = Conversation().asked("Once").answered("upon").asked("Twice")
    assert asked.tokens(policy.tokenizer) == policy.tokenizer.encode_prompt("Twice")
    talk("Once", "Twice")
    assert len(talk.messages) == 4


def test_characters_that_several_tokens_spell_are_whole(tiny, monkeypatch):
    ids = [*"né 日😀".encode(), 0xE2, 0x82]
    stop = tiny.law.stop_token_ids[0]

    def spelled(*arguments, **options):
        from rsft_jax.generation import StreamedToken

        yield from (StreamedToken(i, -1.0, False) for i in ids)
        yield StreamedToken(stop, -1.0, True)

    monkeypatch.setattr("rsft_jax.experiments.language.chat.stream", spelled)
    pieces = []
    out = io.StringIO()
    monkeypatch.setattr(out, "write", pieces.append)
    talk = Talk(dataclasses.replace(tiny, tokenizer=tiny_tokenizer()), out=out)("Hi")
    assert [piece for piece in pieces if piece] == [*"né 日😀", "�", "\n"]
    assert talk.messages[1] == ("assistant", "né 日😀�")
    assert talk.told == []


def test_voice_without_a_distribution_is_one_line(tiny):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, tiny.params)
    talk = Talk(tiny, [Voice("policy", broken)])("Hi")
    assert "no distribution" in talk.told[0]
    assert talk.messages == []


def test_flags_that_fit_no_model_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)
    path = str(write_tiny_gguf(tmp_path / "tiny.gguf"))
    for words, part in [
        ([path, "--beside", "base"], "only a run has a base beside it"),
        ([path, "--beside", "me"], "invalid choice: 'me'"),
        ([path, "--weights", "last"], "--weights: 'last'; is for the folder of a run"),
        (["nowhere"], "'nowhere': is not there"),
        ([], "required: FOLDER"),
    ]:
        assert main(["chat", *words]) == ExitCode.USAGE
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1


# Takes the terminal as its own, so that Ctrl-C reaches it, which a suite in the background ignores,
# and becomes the program. Not a `preexec_fn`, which must not run beside JAX's threads.
BEGIN = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-X", "faulthandler", *sys.argv[1:]])
"""


class Terminal:
    """A Python program on a terminal of its own."""

    def __init__(self, *words):
        self._mine, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, *words],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def type(self, keys):
        os.write(self._mine, keys)

    def until(self, part, seconds=240, again=b""):
        """What is shown until it has a part; if it never has, also where the program hangs.

        Types the keys `again` at every fifth second of silence.
        """
        seen, end = "", time.monotonic() + seconds
        while part not in seen:
            if time.monotonic() > end:
                self.process.send_signal(signal.SIGABRT)
                end = np.inf
            if not select.select([self._mine], [], [], 5)[0]:
                self.type(again)
                continue
            try:
                seen += os.read(self._mine, 4096).decode(errors="replace")
            except OSError:  # it has ended
                raise AssertionError(seen) from None
        return seen


def test_a_session_on_a_terminal(tmp_path):
    # Greedy, the random model goes round in a circle and does not end by itself.
    long = {"llama.context_length": 40_000}
    path = write_tiny_gguf(tmp_path / "tiny.gguf", values=long)
    words = ["chat", str(path), "--temperature", "0", "--max-new-tokens", "30000"]
    terminal = Terminal("-m", "rsft_jax.experiments.cli", *words)
    try:
        assert "(model tiny.gguf; greedy, at most 30000 tokens" in terminal.until("you> ")
        # CPython's readline shows the prompt before it waits for keys, and notices a Ctrl-C between
        # the two only with the next key (2 of 100 that are typed at once); no person is that fast.
        terminal.type(b"\x03")
        assert "(Ctrl-D or /quit leaves)" in terminal.until("you> ", again=b"\x03")
        terminal.type(b"Hi\n")
        terminal.until("policy> ")
        time.sleep(0.5)
        terminal.type(b"\x03")
        assert "(stopped after " in terminal.until("you> ")
        terminal.type(b"\x04")
        assert terminal.process.wait(60) == ExitCode.OK
    finally:
        terminal.process.kill()


def test_a_session_through_pipes(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    words = ["chat", str(path), "--temperature", "0", "--max-new-tokens", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "rsft_jax.experiments.cli", *words],
        input=b"Hi\n\xff\xfe\nHo", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stdout.decode().count("\n") == 2
    told = done.stderr.decode()
    assert "(the line is not UTF-8, and left out)" in told
    assert "you>" not in told
