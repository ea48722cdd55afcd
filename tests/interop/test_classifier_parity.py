"""Classifiers of every family against transformers; tests/goldens/make_classifiers.py made them."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rsft_jax.interop import load_classifier
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.models.families import FAMILIES
from tests.goldens.family_models import tensor, tokens
from tests.tiny import tiny_tokenizer

GOLDENS = Path(__file__).parent.parent / "goldens"
MODELS = json.loads((GOLDENS / "families.json").read_text())["models"]
SCORES = json.loads((GOLDENS / "classifiers.json").read_text())["scores"]
CLASSES = {name: family.classifier for family in FAMILIES for name in family.model_types}
_HEADS = ("lm_head.weight",)


def write_classifier(path, name):
    """The folder of a golden model, its weights drawn from their names."""
    golden = MODELS[name]
    config = golden["config"] | {
        "architectures": [CLASSES[golden["config"]["model_type"]]],
        "id2label": {"0": "bad", "1": "good"},
        "pad_token_id": 256,
    }
    (path / "config.json").write_text(json.dumps(config))
    shapes = {k: shape for k, (shape, *_) in golden["gradients"].items() if k not in _HEADS}
    width = config.get("hidden_size", config.get("n_embd"))
    shapes["score.weight"] = (2, width)
    save_file({k: tensor(k, shape) for k, shape in shapes.items()}, path / "model.safetensors")
    write_tokenizer(path, tiny_tokenizer(), 128)
    return path


def test_every_family_is_compared():
    assert {CLASSES[MODELS[name]["config"]["model_type"]] for name in SCORES} == {
        family.classifier for family in FAMILIES
    }


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_padded_texts_agree(tmp_path, name):
    classifier = load_classifier(write_classifier(tmp_path, name))
    assert classifier.labels == ("bad", "good")
    np.testing.assert_allclose(classifier.scores(tokens()), SCORES[name], atol=1e-4)
