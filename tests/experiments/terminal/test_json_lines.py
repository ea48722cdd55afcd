"""Rows are written whole or not at all, and what is printed commands no terminal."""

import io
import json
import signal

import pytest

from rsft_jax.experiments.terminal.json_lines import JsonLines, json_lines
from rsft_jax.experiments.terminal.plain import without_controls
from rsft_jax.experiments.terminal.signals import interrupts_noted


class _Failing(io.BytesIO):
    """A disk with room for so many bytes, which takes a few at a time."""

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error = room, error

    def write(self, data):
        if self.tell() + len(data) > self.room:
            super().write(data[: self.room - self.tell()])
            raise self.error
        return super().write(data[:5])


@pytest.mark.parametrize("error", [OSError("No space left"), KeyboardInterrupt()])
def test_a_call_that_fails_leaves_the_lines_of_those_before(error):
    disk = _Failing(40, error)
    file = JsonLines(disk)
    file.append([{"id": 1}, {"id": 2}])
    whole = disk.getvalue()
    with pytest.raises(type(error)):
        file.append([{"id": 3}, {"id": "long" * 10}])
    assert disk.getvalue() == whole == b'{"id": 1}\n{"id": 2}\n'
    file.append([{"id": 4}])
    assert disk.getvalue() == whole + b'{"id": 4}\n'


def test_a_row_is_one_line_for_every_reader(tmp_path):
    text = "a\nb\u2028c\x85d\x9b2Je\x7ff\x1b[2J\r é日"
    with json_lines(tmp_path / "rows.jsonl") as file:
        file.append([{"text": text}])
    written = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert len(written.splitlines()) == 1
    assert "é日" in written
    assert json.loads(written) == {"text": text}
    assert written == without_controls(written)
    with pytest.raises(FileExistsError), json_lines(tmp_path / "rows.jsonl"):
        pass


def test_control_characters_are_spelled():
    assert without_controls("a\tb\n") == "a\tb\n"
    assert without_controls("\x1b[2J\r\x07\x9b\x00é") == "\\x1b[2J\\x0d\\x07\\x9b\\x00é"


def test_the_first_interrupt_is_noted_and_the_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_noted() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
