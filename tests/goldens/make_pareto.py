"""Writes pareto.json: k-hats of ArviZ 0.23.4, for inputs that `pareto_inputs` makes.

python tests/goldens/make_pareto.py    # in an environment with arviz==0.23.4 and NumPy alone
"""

import json
import pathlib

import numpy as np


def pareto_inputs() -> dict[str, np.ndarray]:
    """Log-weights by name: tails from bounded to without a mean, few and many, some of weight 0."""
    u = {n: np.random.default_rng(n).random(n) for n in (21, 100, 1000, 20_000)}
    laws = {
        "tail": lambda u, k: -k * np.log(u),  # w = u^-k: Pareto with shape k
        "bounded": lambda u, k: np.log(u) / k,  # density rises to an end at 1
        "lognormal": lambda u, k: k * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * u[::-1]),
    }
    inputs = {
        f"{name} {k} of {n}": law(u[n], k)
        for name, law in laws.items()
        for k in (0.3, 0.7, 1.5)
        for n in u
    }
    without = np.where(u[1000] < 0.5, -np.inf, -0.7 * np.log(u[1000][::-1]))
    return inputs | {"half without weight": without, "shifted": inputs["tail 0.7 of 1000"] - 500}


if __name__ == "__main__":
    import arviz

    assert arviz.__version__ == "0.23.4"
    found = {name: float(arviz.psislw(x.copy())[1]) for name, x in pareto_inputs().items()}
    path = pathlib.Path(__file__).with_name("pareto.json")
    path.write_text(json.dumps(found, indent=1) + "\n")
