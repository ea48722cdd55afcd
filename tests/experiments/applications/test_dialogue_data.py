"""Conversations to prompts and scored examples: what is left out, people in one set, leaks."""

import json
from collections import Counter

import pytest

from rsft_jax.experiments.applications.dialogue.chitchat import Talk, read_chitchat
from rsft_jax.experiments.applications.dialogue.people import PARTS, divide
from rsft_jax.experiments.applications.dialogue.prompts import (
    check_no_leak,
    messages_of,
    pair_rows,
    parts_of,
    prompt_rows,
    scored_rows,
    whole,
)
from rsft_jax.experiments.language import assets
from rsft_jax.experiments.terminal.errors import ConfigError
from tests.experiments.applications.synthetic_talks import message, synthetic_chitchat

TEN = {"witty": 10, "upbeat": 9, "interesting": 8}


def write(path, **rows):
    path.write_text(json.dumps(rows))
    return path


def row(*turns, ratings=None, prompt="Tea?"):
    """Two people take turns, a first; a turn of several messages is a tuple."""
    return {
        "messages": [
            [message(text, "ab"[place % 2]) for text in ([turn] if isinstance(turn, str) else turn)]
            for place, turn in enumerate(turns)
        ],
        "ratings": ratings,
        "prompt": prompt,
    }


def test_what_is_read_and_what_is_left_out(tmp_path):
    path = write(
        tmp_path / "talks.json",
        alone={**row("Hello?", ratings=TEN)},
        short=row("Hello?", "Hey there!", "Tea, please"),
        default=row("One", "two", ratings=dict.fromkeys(TEN, 5)),
        no_opening={"messages": row("One", "two")["messages"]},
        good=row("Hi!", "Anyone home?", ("Tea\n it  is.", "And you?"), "Me too", "", ratings=TEN),
        even=row("hello", "Tea", "Good", "Bye", ratings=TEN),
    )
    found = read_chitchat(path)
    default, good, even = found.talks
    assert (default.turns, default.scores, default.score) == (("One", "two"), None, None)
    # Of greetings nothing is left, nor of what follows a turn without words.
    assert good.turns == ("Tea it is. And you?", "Me too")
    assert (good.number, good.opening, good.scores) == (4, "Tea?", TEN)
    assert good.score == pytest.approx(0.9)
    # Whoever speaks first is the user, of each conversation: here the other one.
    assert good.people == tuple(reversed(even.people))
    assert found.notes[0].startswith("1 conversations with scores, in which one person alone")
    assert found.notes[1].startswith("2 conversations of which greetings leave")
    assert found.notes[2].startswith("1 conversations scored 5, 5, 5")
    assert found.notes[3] == "3 conversations of 2 people, 2 of them scored"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold conversations by their names"),
        (json.dumps({"x": row("One", "two", ratings=TEN | {"witty": 11})}), r"x: scores must be"),
        (json.dumps({"x": row("One", "two", ratings={"witty": 1})}), "conversation x: 'upbeat'"),
        (json.dumps({"x": {"messages": [[message("One", "a")], [message("two", "a")]]}}),
         "x: the two must take turns"),
        (json.dumps({"x": {"messages": [[message("One", s)] for s in "abc"]}}),
         "x: must be of two people, got 3"),
        (json.dumps({"x": {"messages": [[message("One", "a"), message("two", "b")]]}}),
         "x: a turn must be of one person, got 2"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_told_of_in_a_line(tmp_path, text, told):
    path = tmp_path / "talks.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_chitchat(path)
    assert "\n" not in str(caught.value)


def test_what_to_put_where_if_it_cannot_be_fetched(tmp_path, monkeypatch):
    def refuse(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(assets, "fetch", refuse)
    with pytest.raises(ConfigError, match=r"no network; or take .*dataset\.json .* --data FILE"):
        read_chitchat()
    with pytest.raises(ConfigError, match=r"--data: .*; is no file, it wants .*dataset\.json"):
        read_chitchat(tmp_path / "nothing")


def test_people_are_divided_so_that_conversations_stay():
    """Three clubs who hardly talk to others, of which a lot would keep a third."""
    pairs = [
        (10 * club + i, 10 * club + j) for club in range(3) for i in range(8) for j in range(i)
    ]
    pairs += [(0, 10), (11, 20), (21, 1)]
    part = divide(pairs)
    kept = [pair for pair in pairs if part[pair[0]] == part[pair[1]]]
    assert sorted(set(part.values())) == sorted(PARTS)
    assert len(kept) > 0.45 * len(pairs)
    most = Counter(part[one] for one, _ in kept).most_common(1)[0][1]
    assert most <= 0.65 * len(pairs) / 3 + 7  # whoever moves last brings no more than their own
    assert divide(pairs) == part
    assert divide(list(pairs), seed=1) != part


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = synthetic_chitchat(tmp_path_factory.mktemp("talks") / "talks.json")
    return parts_of(read_chitchat(path).talks)


def test_nobody_is_in_two_sets(parts):
    people = {name: {p for talk in parts[name] for p in talk.people} for name in PARTS}
    assert all(len(people[name]) > 3 for name in PARTS)
    for one in PARTS:
        for other in PARTS:
            assert one == other or not people[one] & people[other]


def test_prompts_end_with_the_user_and_begin_with_the_system(parts):
    rows = prompt_rows(parts)
    assert {r["split"] for r in rows} == {"train", "heldout"}
    assert {1, 3} <= {r["turns"] for r in rows} <= {1, 3, 5}
    for r in rows:
        roles = [m["role"] for m in r["prompt"]]
        assert roles == ["system", *(["user", "assistant"] * 3)[: r["turns"]]]
        assert r["opening"] in r["prompt"][0]["content"]
        assert set(r) >= {"id", "conversation", "people", "witty", "upbeat", "interesting", "reply"}
        assert not any("p0-" in str(v) or "q0-" in str(v) for v in r.values())  # no sender's id
    check_no_leak([*rows, *(r for name in PARTS for r in scored_rows(parts[name], name))])


@pytest.mark.parametrize(("split", "other"), [("train", "heldout"), ("heldout", "gold")])
def test_a_planted_leak_is_seen(parts, split, other):
    rows = prompt_rows(parts) + scored_rows(parts["gold"], "gold")
    leaked = next(r for r in rows if r["split"] == split)
    with pytest.raises(ValueError, match=f"person {leaked['people'][1]} is in two sets") as caught:
        check_no_leak(
            [*rows, {**leaked, "id": "leak", "split": other, "people": leaked["people"][1:]}]
        )
    assert "leak" in str(caught.value)


def talk(number, score, opening="Tea?", turns=("a", "b", "c", "d")):
    scores = dict.fromkeys(TEN, score)
    return Talk(number=number, people=(0, 1), turns=turns, opening=opening, scores=scores)


def test_scored_examples_and_pairs_by_hand():
    talks = [talk(0, 7), talk(1, 5), talk(2, 4), talk(3, 1, "Pigs?"), talk(4, 1, turns=("a", "b"))]
    rows = scored_rows(talks, "proxy")
    # Two depths of the first four, one of the last.
    assert [(r["conversation"], r["turns"], r["completion"]) for r in rows] == [
        *((n, d, t) for n in range(4) for d, t in ((1, "b"), (3, "d"))),
        (4, 1, "b"),
    ]
    assert whole(rows[1]) == messages_of(talks[0], 4)
    assert rows[1]["score"] == 0.7
    pairs = pair_rows(rows)
    # 7 against 5 is two points and enough, 5 against 4 is not; "Pigs?" is about something else.
    assert [p["id"] for p in pairs] == [
        "proxy-0-1>proxy-1-1", "proxy-0-1>proxy-2-1", "proxy-0-1>proxy-4-1",
        "proxy-1-1>proxy-4-1", "proxy-2-1>proxy-4-1",
        "proxy-0-3>proxy-1-3", "proxy-0-3>proxy-2-3",
    ]  # fmt: skip
    assert pairs[0]["chosen"][-1] == {"role": "assistant", "content": "b"}
    assert (pairs[0]["score_chosen"], pairs[0]["score_rejected"]) == (0.7, 0.5)


def test_long_turns_make_shorter_prompts():
    long = talk(0, 9, turns=("word " * 100, "b", "c " * 30, "d", "e", "f"))
    assert [r["turns"] for r in scored_rows([long], "proxy")] == [1]
    rows = prompt_rows({"proxy": [talk(1, 9), long], "gold": [], "heldout": [talk(2, 9)]})
    assert [r["turns"] for r in rows] == [1, 1, 1]
    assert rows[1]["reply"] == "b"
