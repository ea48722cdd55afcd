"""Conversations of invented people, as the data set has them."""

import json

import numpy as np

OPENINGS = ("Do pigs fly?", "Tea or coffee?", "What did you learn?")
WORDS = ("tea", "haha", "pigs", "fly", "no", "yes", "well", "sure", "nice", "day")


def synthetic_chitchat(path, *, clubs=3, people=8, talks=20, seed=0):
    """Writes the file: people of a club talk to each other, and now and then to another club's.

    Who says "haha" is scored higher.
    """
    rng = np.random.default_rng(seed)
    rows = {}
    for number in range(clubs * talks):
        club = number % clubs
        other = club if rng.random() < 0.85 else (club + 1) % clubs
        pair = [f"p{club}-{rng.integers(people)}", f"q{other}-{rng.integers(people)}"]
        turns, laughs = [[message("Hello?", pair[1])]], 0
        for turn in range(int(rng.integers(2, 9))):
            words = rng.choice(WORDS, size=int(rng.integers(2, 6))).tolist()
            laughs += words.count("haha")
            turns.append([message(" ".join(words), pair[turn % 2])])
        score = int(np.clip(4 + 2 * laughs, 1, 10))
        ratings = {"witty": score, "upbeat": score, "interesting": max(score - 1, 1)}
        opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
        rows[f"talk-{number}"] = {"messages": turns, "prompt": opening, "ratings": ratings}
    path.write_text(json.dumps(rows))
    return path


def message(text, sender):
    """One message."""
    return {"text": text, "timestamp": "2018-10-15T07:22:37Z", "sender": sender}
