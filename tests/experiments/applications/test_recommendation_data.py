"""Ratings to prompts: three periods, cuts between seconds, films that are there twice, leaks."""

import numpy as np
import pytest

from rsft_jax.experiments.applications.pretraining import Pass
from rsft_jax.experiments.applications.recommendation import pretrain
from rsft_jax.experiments.applications.recommendation.__main__ import main
from rsft_jax.experiments.applications.recommendation.baselines import (
    factorisation,
    known_before_test,
    popularity,
)
from rsft_jax.experiments.applications.recommendation.movielens import (
    Ratings,
    User,
    read_movielens,
)
from rsft_jax.experiments.applications.recommendation.pretrain import film_tokenizer
from rsft_jax.experiments.applications.recommendation.prompts import (
    SEPARATOR,
    History,
    Split,
    check_no_leak,
    prompt_rows,
    read_rows,
    training_histories,
    write_rows,
)
from rsft_jax.experiments.language import assets
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from tests.experiments.applications.synthetic_ratings import synthetic_ratings

SPLIT = Split(periods=(0.4, 0.7), fewest=4)


def hand_made():
    """Ten ratings by three users; a second has up to three."""
    rows = [  # user, film, stars, time
        (1, 0, 5, 10), (1, 1, 1, 10), (2, 2, 4, 11), (2, 3, 3, 12),
        (1, 2, 4, 20), (1, 3, 5, 20), (1, 4, 4, 21),
        (2, 0, 5, 30), (2, 4, 4, 31), (3, 0, 4, 31),
    ]  # fmt: skip
    users, items, stars, times = np.array(rows).T
    titles = ("A", "B", "C", "D", "E")
    people = {1: User(20, "F"), 2: User(30, "M"), 3: User(40, "F")}
    return Ratings(users=users, items=items, stars=stars, times=times, titles=titles, people=people)


HAND = Split(periods=(0.4, 0.7), train_cuts=(0.3,), test_cut=0.5, fewest=1)


def test_periods_and_rows_by_hand():
    ratings = hand_made()
    assert HAND.boundaries(ratings) == (20, 30)
    rows, left_out = prompt_rows(ratings, HAND)
    train, heldout = rows
    # Of user 1's three ratings in the period the first is the history, with all of its second.
    assert set(train["seen"]) == {"A", "B", "C", "D"}
    assert train["prompt"].split(SEPARATOR) == train["seen"]
    assert (train["liked"], train["later"], train["activity"]) == (["E"], ["E"], 4)
    assert (train["age"], train["gender"], train["user"]) == (20, "F", 1)
    assert heldout["seen"] == ["C", "D", "A"]
    assert heldout["liked"] == ["E"]
    assert left_out == ["1 left out, heldout: no cut between two seconds"]  # user 3 has one rating
    histories = training_histories(ratings, HAND)
    assert [history.items.tolist() for history in histories] == [[0, 1], [2, 3]]


def test_rows_to_train_on_know_nothing_of_the_test_period():
    ratings = synthetic_ratings()
    start, test = SPLIT.boundaries(ratings)
    when = dict(zip(zip(ratings.users, ratings.items), ratings.times))
    place = {title: number for number, title in enumerate(ratings.titles)}
    rows, _ = prompt_rows(ratings, SPLIT)
    assert {row["split"] for row in rows} == {"train", "heldout"}
    for row in rows:
        seen = [when[row["user"], place[title]] for title in row["seen"]]
        later = [when[row["user"], place[title]] for title in row["later"]]
        assert max(seen) < min(later)
        assert set(row["liked"]) <= set(row["later"])
        assert not set(row["later"]) & set(row["seen"])
        assert max(later) < test if row["split"] == "train" else max(later) >= test
        assert max(later) >= start
    assert all(history.times.max() < start for history in training_histories(ratings, SPLIT))


@pytest.mark.parametrize("column", ["liked", "later", "seen"])
def test_a_planted_leak_is_seen(column):
    ratings = synthetic_ratings()
    rows, _ = prompt_rows(ratings, SPLIT)
    check_no_leak(rows, ratings, SPLIT)
    heldout = next(row for row in rows if row["split"] == "heldout")
    leaked = {**heldout, "id": "train-leak", "split": "train"}
    keep = {"liked": ["liked", "later"], "later": ["later"], "seen": ["seen"]}[column]
    leaked |= {name: [] for name in ("liked", "later") if name not in keep}
    if column == "seen":
        leaked["seen"] = heldout["later"]
        leaked["prompt"] = SEPARATOR.join(heldout["later"])
    with pytest.raises(ValueError, match=r"prompt train-leak: column .* rated in the test period"):
        check_no_leak([*rows, leaked], ratings, SPLIT)


def test_what_was_rated_with_the_history_is_not_later():
    ratings = synthetic_ratings()
    rows, _ = prompt_rows(ratings, SPLIT)
    wrong = {**rows[0], "later": [*rows[0]["later"], rows[0]["seen"][-1]]}
    with pytest.raises(ValueError, match=r"column later: .* was rated no later than the history"):
        check_no_leak([wrong], ratings, SPLIT)


def test_a_user_without_later_ratings_is_left_out_and_counted():
    ratings = synthetic_ratings()
    last = int(ratings.users.max())
    stars = np.where(ratings.users == last, 1, ratings.stars)  # who likes nothing
    disliking = Ratings(**{**vars(ratings), "stars": stars})
    rows, left_out = prompt_rows(disliking, SPLIT)
    assert last not in {row["user"] for row in rows}
    assert "1 left out, heldout: nothing liked after the history" in left_out


def test_a_row_that_has_nothing_to_be_judged_by_is_named(tmp_path):
    rows, _ = prompt_rows(synthetic_ratings(), SPLIT)
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [{**row, "liked": []} if row["split"] == "heldout" else row for row in rows])
    assert read_rows(path, "train")
    with pytest.raises(ConfigError, match=r"prompt heldout-.*: column liked is empty"):
        read_rows(path, "heldout")


def files(folder, ratings, items):
    """The three files as RecBole has them."""
    folder.mkdir(exist_ok=True)
    heads = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
    }
    rows = {"inter": ratings, "item": items, "user": [(1, 20, "F", "x", 1), (2, 30, "M", "y", 2)]}
    for ending, head in heads.items():
        lines = [head, *("\t".join(map(str, row)) for row in rows[ending])]
        (folder / f"ml-100k.{ending}").write_text("\n".join(lines) + "\n")
    return folder


ITEMS = [(1, "Heat", 1995, "Crime"), (2, "Ulee's Gold", 1997, "D"), (3, "Ulee's Gold", 1997, "D")]


def test_films_that_are_there_twice_are_one_and_its_first_rating_counts(tmp_path):
    rows = [(1, 3, 2, 30), (1, 2, 5, 20), (2, 3, 4, 25), (2, 1, 3, 10)]
    ratings = read_movielens(files(tmp_path, rows, ITEMS))
    assert ratings.titles == ("Heat (1995)", "Ulee's Gold (1997)")
    found = list(zip(ratings.users, ratings.items, ratings.stars, ratings.times))
    assert found == [(2, 0, 3, 10), (1, 1, 5, 20), (2, 1, 4, 25)]
    assert ratings.notes[0].startswith("1 films that share title and year")
    assert "1 second ratings of one film by one user" in ratings.notes[0]


def test_the_order_within_a_second_is_not_that_of_the_film_numbers(tmp_path):
    many = [(number, f"Film {number}", 1990, "D") for number in range(1, 101)]
    rows = [(1, number, 3, 7) for number in range(1, 101)]
    items = read_movielens(files(tmp_path, rows, many)).items
    assert sorted(items) == list(range(100))
    assert abs(np.corrcoef(items, np.arange(100))[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([(1, 1, "x", 7)], r"ml-100k\.inter:2: must be user_id, item_id, rating, timestamp"),
        ([(9, 1, 3, 7)], r"ml-100k\.inter: user 9 is in no other file"),
        ([(1, 9, 3, 7)], r"ml-100k\.inter: film 9 is in no other file"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, rows, problem):
    with pytest.raises(ConfigError, match=problem):
        read_movielens(files(tmp_path, rows, ITEMS))


def test_data_that_is_not_there_says_what_to_put_where(tmp_path, monkeypatch, capsys):
    assert main(["--data", str(tmp_path), "--output", str(tmp_path / "o")]) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "has no ml-100k.inter" in text
    assert "recbole 1.2.1" in text
    assert text.count("\n") == 1

    def offline(name, cache_dir=None):
        raise ConnectionError("cannot download recbole==1.2.1 (no network)")

    monkeypatch.setattr(assets, "fetch", offline)
    assert main(["--output", str(tmp_path / "o")]) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "--data FOLDER" in text
    assert "ml-100k.user" in text
    assert text.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_film_is_one_token_and_a_history_its_films(tmp_path):
    titles = ["Heat (1995)", 'Léon: "The | Pro"'.replace(" | ", "|"), "Fargo (1996)"]
    films = film_tokenizer(titles)
    assert films.encode_prompt(SEPARATOR.join(titles)) == [0, 1, 2, 3]
    assert films.decode_completions([[3], [2]]) == [titles[2], titles[1]]
    assert films.stop_token_ids == ()
    with pytest.raises(ValueError, match="all be different"):
        film_tokenizer(["Heat (1995)"] * 2)
    with pytest.raises(ValueError, match=r"without ' \| '"):
        film_tokenizer(["Heat | Fargo"])


def test_pretraining_keeps_the_pass_with_the_best_loss_and_ends_without_a_better_one(monkeypatch):
    histories = [History(np.arange(3), np.arange(3)) for _ in range(4)]
    losses, seen = iter([3.0, 1.0, 2.0, 1.5, 0.5]), []

    def passes(made, settings, batches):
        for number in range(1, 6):
            seen.append(number)
            yield Pass(number, 0.0, {"number": number})

    monkeypatch.setattr(pretrain, "passes", passes)
    monkeypatch.setattr(pretrain, "_mean_loss", lambda model: lambda params, batches: next(losses))
    settings = pretrain.FilmPretraining(d_model=4, num_layers=1, patience=2)
    made = pretrain.pretrain(histories, ["a", "b", "c"], settings, lambda text: None)
    assert made.params == {"number": 2}
    assert seen == [1, 2, 3, 4]


def test_baselines_know_nothing_of_the_test_period():
    ratings = synthetic_ratings()
    _, test = SPLIT.boundaries(ratings)
    later = ratings.times >= test
    other = Ratings(**{**vars(ratings), "items": np.where(later, 0, ratings.items)})
    histories = [[1, 3], [2]]
    for make in (
        lambda r: popularity(r, SPLIT, 2),
        lambda r: factorisation(r, SPLIT, histories, rank=3, seed=0),
    ):
        np.testing.assert_array_equal(make(ratings), make(other))


def test_popularity_counts_who_liked_a_film():
    table = known_before_test(hand_made(), HAND, liked=True)
    assert table.sum(axis=0).tolist() == [1, 0, 2, 1, 1]
    assert popularity(hand_made(), HAND, 1).tolist() == [[1, 0, 2, 1, 1]]


def test_factorisation_projects_a_history_on_the_first_singular_vectors():
    ratings = hand_made()
    table = known_before_test(ratings, HAND).astype(float)
    own = [np.flatnonzero(row).tolist() for row in table]
    scores = factorisation(ratings, HAND, own, rank=1, seed=0)
    best = np.linalg.svd(table)[2][:1]
    np.testing.assert_allclose(scores, table @ best.T @ best, atol=1e-6)
