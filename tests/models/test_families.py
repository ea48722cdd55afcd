import pkgutil

import jax
import jax.numpy as jnp
import pytest

from rsft_jax.models import Transformer, families
from tests.tiny import tiny_config


def test_every_file_of_the_folder_is_a_family():
    files = {module.name for module in pkgutil.iter_modules(families.__path__)} - {"family"}
    assert len(families.FAMILIES) == len(files) >= 1
    model_types = [name for family in families.FAMILIES for name in family.model_types]
    assert len(set(model_types)) == len(model_types)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_a_family_names_every_parameter_of_the_model(family, tied):
    config = tiny_config(tie_embeddings=tied)
    made = jax.eval_shape(
        Transformer(config).init, jax.random.key(0), jnp.zeros((1, 4), int), jnp.zeros((1, 4), int)
    )["params"]
    shapes = {
        tuple(key.key for key in path if hasattr(key, "key")): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
    }
    weights = list(family.weights(config))
    assert {weight.path: weight.shape(config) for weight in weights} == shapes
    for names in ("huggingface", "gguf"):
        assert len({getattr(weight, names) for weight in weights}) == len(weights)
