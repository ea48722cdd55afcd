"""Ratings of films that nobody made: two tastes, and users who come one after the other."""

import numpy as np

from rsft_jax.experiments.applications.recommendation.movielens import Ratings, User


def synthetic_ratings(num_users=60, num_films=24, per_user=14, seed=0):
    """Users of even number like even films, the others odd ones; each rates two films a second."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        weights = np.where(np.arange(num_films) % 2 == user % 2, 3.0, 1.0)
        films = rng.choice(num_films, per_user, replace=False, p=weights / weights.sum())
        for place, film in enumerate(films.tolist()):
            stars = 5 if film % 2 == user % 2 else 2
            rows.append((user + 1, film, stars, 1000 * user + place // 2))
    users, items, stars, times = np.array(rows).T
    return Ratings(
        users=users,
        items=items,
        stars=stars,
        times=times,
        titles=tuple(f"Film {number} ({1970 + number})" for number in range(num_films)),
        people={u + 1: User(20 + u % 40, "FM"[u % 3 > 0]) for u in range(num_users)},
    )
