"""Folders of sequence classifiers: written, read back, and refused for what is wrong with them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsft_jax.interop import (
    Pretrained,
    load_classifier,
    load_pretrained,
    new_classifier,
    save_classifier,
    save_pretrained,
)
from rsft_jax.models import Transformer
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


def _base():
    return Pretrained(Transformer(tiny_config()), tiny_params(), tiny_tokenizer())


@pytest.fixture(scope="module")
def classifier():
    return new_classifier(jax.random.key(3), _base(), problem_type="regression")


@pytest.fixture
def folder(classifier, tmp_path):
    save_classifier(tmp_path / "model", classifier)
    return tmp_path / "model"


def _edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_a_classifier_is_the_same_after_its_folder(classifier, folder):
    again = load_classifier(folder)
    assert again.model == classifier.model
    assert (again.labels, again.pad_id) == (("score",), classifier.pad_id)
    assert again.problem_type == "regression"
    jax.tree.map(np.testing.assert_array_equal, again.params, classifier.params)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "score"}
    assert config["label2id"] == {"score": 0}
    # What fills rows is one token to the model and to the tokenizer, whatever that had before.
    assert config["pad_token_id"] == classifier.pad_id == again.tokenizer.pad_id
    save_classifier(folder.parent / "other", dataclasses.replace(classifier, pad_id=256))
    assert load_classifier(folder.parent / "other").tokenizer.pad_id == 256
    tensors = load_file(folder / "model.safetensors")
    assert tensors["score.weight"].shape == (1, 64)
    assert "lm_head.weight" not in tensors
    second = folder.parent / "second"
    save_classifier(second, again)
    for file in folder.iterdir():
        assert (second / file.name).read_bytes() == file.read_bytes()


def test_an_untied_language_model_lends_its_body_and_keeps_its_output_layer(tmp_path):
    config = tiny_config(tie_embeddings=False)
    head = jnp.ones((64, 259))
    base = Pretrained(
        Transformer(config), tiny_params() | {"head": {"kernel": head}}, tiny_tokenizer()
    )
    made = new_classifier(jax.random.key(0), base, labels=("bad", "good"))
    save_classifier(tmp_path, made)
    again = load_classifier(tmp_path)
    assert again.labels == ("bad", "good")
    jax.tree.map(np.testing.assert_array_equal, again.params, made.params)
    assert base.params["head"]["kernel"] is head
    # A folder that was made from an untied model and still holds the output layer.
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"lm_head.weight": np.ones((259, 64), np.float32)},
              tmp_path / "model.safetensors")  # fmt: skip
    _edit(tmp_path, tie_word_embeddings=False)
    jax.tree.map(np.testing.assert_array_equal, load_classifier(tmp_path).params, made.params)


def test_scores_are_those_of_each_text_alone_at_its_last_token(classifier):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 256, n).tolist() for n in (5, 40, 0, 17, 257)]
    found = classifier.scores(rows, rows_at_once=3)
    assert found.shape == (5, 1)
    hidden = jax.jit(
        lambda ids: classifier.model.apply(
            {"params": classifier.params}, ids, jnp.arange(40, dtype=jnp.int32)[None],
            method="hidden",
        )
    )  # fmt: skip
    kernel = np.asarray(classifier.params["score"]["kernel"], np.float64)
    for i in (0, 1, 3):
        ids = np.zeros((1, 40), np.int32)
        ids[0, : len(rows[i])] = rows[i]
        last = np.asarray(hidden(ids), np.float64)[0, len(rows[i]) - 1]
        np.testing.assert_allclose(found[i], last @ kernel, atol=1e-5)
        np.testing.assert_allclose(classifier.features([rows[i]])[0], last, atol=1e-5)
    assert np.isnan(found[[2, 4]]).all()
    # Tokens that fill rows are none of the text, as in transformers.
    padded = [[*rows[0], classifier.pad_id, classifier.pad_id]]
    np.testing.assert_allclose(classifier.scores(padded)[0], found[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"rows\[0\] must hold ids in \[0, 259\), got 3 to 259"):
        classifier.scores([[3, 259]])


def test_a_text_is_the_whole_chat_and_never_ends_with_what_fills_rows(classifier):
    tokenizer = classifier.tokenizer
    ids = classifier.encode(CHAT, "Yes? <|im_end|>")
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes? <|im_end|><|im_end|>\n"
    )
    assert ids.count(tokenizer.special_tokens["<|im_end|>"]) == 3  # that of the text is letters
    goes_on = [*CHAT, {"role": "assistant", "content": "Yes? "}]
    assert classifier.encode(goes_on, "<|im_end|>") == ids
    assert classifier.pad_id == 257  # the others end a text
    bare = tiny_tokenizer()
    bare.chat_template = None
    plain = dataclasses.replace(classifier, tokenizer=bare)
    assert bare.decode(plain.encode(CHAT[1:], " you")) == "Hi you"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architectures: must be LlamaForSequenceClass"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "must be LlamaForSequenceClass"),
        ({"model_type": "deberta-v2"}, "model_type: must be 'gemma2' or"),
        ({"model_type": "qwen3"}, "architectures: must be Qwen3ForSequenceClassification for a"),
        ({"auto_map": {"AutoModel": "mine.Model"}}, "auto_map: code that comes with a model"),
        ({"vocab_size": 200}, "the tokenizer has 259 ids, but the embedding only 200"),
        ({"id2label": {"0": "bad", "1": "good"}}, "id2label: must name the 1 scores of score.wei"),
        ({"id2label": ["score"]}, "id2label: must name the 1 scores"),
        ({"pad_token_id": "<pad>"}, "pad_token_id: must be an id or null, got '<pad>'"),
        ({"pad_token_id": -1}, "pad_token_id: must be an id or null, got -1"),
        ({"problem_type": "ranking"}, "problem_type: must be regression, single_label_class"),
        ({"hidden_size": 32}, r"score.weight: needs the shape \(1, 32\), got \(1, 64\)"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, changes, message):
    _edit(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_classifier(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_what_is_missing_is_named(folder, tmp_path):
    _edit(folder, pad_token_id=None, id2label=..., architectures=...)
    again = load_classifier(folder)
    assert (again.pad_id, again.labels) == (None, ("LABEL_0",))
    tensors = load_file(folder / "model.safetensors")
    score = tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"score.weight: is missing, so the model has no score"):
        load_classifier(folder)
    save_file(tensors | {"score.weight": score[0]}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"score.weight: needs the shape \(1, 64\), got \(64,\)"):
        load_classifier(folder)
    save_file(tensors | {"score.weight": score, "score.bias": score[0, :1]},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match=r"score.bias: a Llama model has no such tensor"):
        load_classifier(folder)
    with pytest.raises(FileNotFoundError, match=r"there is no config.json"):
        load_classifier(tmp_path / "nothing")
    (tmp_path / "pickle.pt").write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError)):
        load_classifier(tmp_path / "pickle.pt")


def test_a_language_model_and_a_classifier_are_not_taken_for_each_other(folder, tmp_path):
    with pytest.raises(ValueError, match=r"score.weight: a Llama model has no such tensor"):
        load_pretrained(folder)
    save_pretrained(tmp_path / "policy", *_base())
    with pytest.raises(ValueError, match=r"architectures: must be LlamaForSequenceClassification"):
        load_classifier(tmp_path / "policy")


def test_what_does_not_fit_is_not_written(classifier, tmp_path):
    wrong = dataclasses.replace(classifier, labels=("bad", "good"))
    with pytest.raises(ValueError, match=r"score/kernel needs the shape \(64, 2\), got \(64, 1\)"):
        save_classifier(tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()
