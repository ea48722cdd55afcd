"""Classifiers of every family through the real transformers: what we write it loads, and scores."""

import numpy as np
import pytest

from rsft_jax.interop import load_classifier, save_classifier
from tests.goldens.family_models import tokens
from tests.interop.test_classifier_parity import SCORES, write_classifier
from tests.tiny import CHATML

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop


@pytest.mark.parametrize("name", SCORES)
def test_transformers_loads_what_we_write_with_equal_scores(tmp_path, name):
    (tmp_path / "given").mkdir()
    classifier = load_classifier(write_classifier(tmp_path / "given", name))
    save_classifier(tmp_path / "ours", classifier)
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True,
    )  # fmt: skip
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    ids = torch.from_numpy(tokens())
    with torch.no_grad():
        expected = theirs.eval()(ids, attention_mask=(ids != 256).long()).logits.numpy()
    np.testing.assert_allclose(classifier.scores(tokens()), expected, atol=1e-4)


def test_transformers_scores_a_chat_as_we_do(tmp_path):
    (tmp_path / "given").mkdir()
    classifier = load_classifier(write_classifier(tmp_path / "given", "llama"))
    assert classifier.tokenizer.chat_template == CHATML
    save_classifier(tmp_path / "ours", classifier)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    prompt = [{"role": "user", "content": "Hi"}]
    texts = ["Yes?", "No, not now.", ""]
    chats = [[*prompt, {"role": "assistant", "content": text}] for text in texts]
    batch = tokenizer.apply_chat_template(
        chats, return_dict=True, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        expected = theirs.eval()(**batch).logits.numpy()
    rows = [classifier.encode(prompt, text) for text in texts]
    assert rows[1] == batch["input_ids"][1][: len(rows[1])].tolist()
    np.testing.assert_allclose(classifier.scores(rows), expected, atol=1e-4)
