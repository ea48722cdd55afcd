"""What a run prints, on a terminal and elsewhere."""

import io

from rsft_jax.experiments.terminal.console import Console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_is_plain_lines_with_tokens_per_second():
    stream = io.StringIO()
    console = Console(stream, seconds_between_lines=0)
    with console.progress("round 1: generate [x]", 2, "prompts") as advance:
        advance(tokens=1500, note="half way")
        advance(tokens=1500)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("round 1: generate [x]: 1/2 prompts, 1,500 tokens, ")
    assert last.startswith("round 1: generate [x]: 2/2 prompts, 3,000 tokens, ")
    assert " s left, " in first
    assert " left" not in last
    for line in (first, last):
        assert "tokens/s" in line
        assert line.endswith("half way")  # the last note stays
        assert "\x1b" not in line


def test_progress_lines_are_few_when_work_is_quick():
    stream = io.StringIO()
    with Console(stream).progress("stage", 1000) as advance:
        for _ in range(1000):
            advance()
    assert stream.getvalue().count("\n") == 1
    assert "stage: 1000/1000 items" in stream.getvalue()
    assert "tokens" not in stream.getvalue()


def test_progress_on_a_terminal_ends_with_the_same_line():
    stream = Terminal()
    with Console(stream).progress("stage", 1, "prompts") as advance:
        advance(tokens=10)
    assert "stage: 1/1 prompts, 10 tokens, " in stream.getvalue()


def test_table_keeps_every_figure_in_a_file():
    stream = io.StringIO()
    Console(stream).table("closing", ("arm", "reward"), [("policy", 0.123456), ("control", None)])
    text = stream.getvalue()
    assert "closing" in text
    assert "0.1235" in text
    assert "-" in text
    assert "…" not in text


WIDE = [f"{i}.25 [0.1, 0.5]" for i in range(12)]


def test_a_wide_table_is_whole_in_a_file():
    stream = io.StringIO()
    Console(stream).table("closing", ["figure"] * 12, [WIDE])
    (row,) = [line for line in stream.getvalue().splitlines() if "3.25" in line]
    assert all(cell in row for cell in WIDE)
    assert all(line == line.rstrip() or len(line) < 300 for line in stream.getvalue().splitlines())


def test_a_table_leaves_nothing_out_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    Console(stream).table("closing", ["n"] * 4, [["12345678901234567890"] * 4])
    assert "…" not in stream.getvalue()
    assert sum(map(str.isdigit, stream.getvalue())) >= 80


def test_said_text_is_printed_as_it_is():
    stream = io.StringIO()
    Console(stream).say("[bold]" + "x" * 300)
    assert stream.getvalue() == "[bold]" + "x" * 300 + "\n"
