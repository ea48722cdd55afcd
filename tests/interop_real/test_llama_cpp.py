"""llama.cpp runs what is written as GGUF: the same numbers, the same tokens, the same adapters.

It needs `pip install llama-cpp-python`, which compiles for a quarter of an hour.
"""

import json
import random
from typing import Any

import jax
import numpy as np
import pytest

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.experiments.language.assets import fetch
from rsft_jax.interop import load_pretrained, read_gguf, write_gguf, write_gguf_adapter
from rsft_jax.interop.formats.gguf import GGUFFile
from rsft_jax.interop.formats.gguf_writer import Tensor, write_gguf_file
from rsft_jax.interop.gguf_tokenizer import SPLITS
from rsft_jax.models import Transformer, TransformerConfig, logits_fn
from rsft_jax.models.families.llama import FAMILY as LLAMA
from rsft_jax.models.lora import merge_lora
from tests.tiny import CHATML

llama_cpp = pytest.importorskip("llama_cpp")

pytestmark = pytest.mark.interop

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<done>"]
CHAT = [
    {"role": "user", "content": "It's 1234.\n\nOr isn't it?"},
    {"role": "assistant", "content": " Yes: naïve 東京 "},
]
AWKWARD = [
    "",
    " ",
    "   three blanks   and   a   few   ",
    "\n\n \n\t\t x\r\n\r\ny\r",
    "It's I'LL we'Re 'tis don''t '' ' 'S",
    "1 12 123 1234 12345 1,234.56 x=12y34 3rd",
    "a  1   22    333",
    "½ Ⅷ ٣٤ ④ x² 一二三",
    "naïve cafe\u0301 e\u0301\u0301 Å Å ﬁ",
    "東京タワー 서울 กรุงเทพ देवनागरी नमस्ते العربية עברית",
    "🙂 👩\u200d👩\u200d👧 🇩🇪🇩🇪 🏳️\u200d🌈 \ufe0f",
    "nbsp\u00a0x\u2003y\u3000z\u200b\ufeff",
    "<|im_end|> <|im_start|>user <done> <|endoftext|",
    "call <|tool|>(x) <|tool|><|tool|> <|tool",
    "--->>> !!!??? ...... ``` ''' \"\"\" ({[<>]}) \\n \\\\",
    "snake_case camelCase HTTPServer2 x_1_2 __init__",
    "\x00\x01\x7f\x80\x85",
    "\U0001d518\U0001d52b\U00020000\U0010fffd",
    "The quick brown fox jumps over the lazy dog." * 20,
]


def corpus():
    """What the merges are learned from: words with and without blanks, digits, quotes, lines."""
    return [text.replace("<|", "").replace("done", "") for text in AWKWARD] * 3


def random_texts(count=300, seed=0):
    """Mixtures of scripts, signs and blanks."""
    rng = random.Random(seed)
    spans = [(0x20, 0x7F), (0x20, 0x30), (0x30, 0x3A), (9, 14), (0xA0, 0x250), (0x370, 0x600)]
    spans += [(0x900, 0xE80), (0x2000, 0x2C00), (0x3000, 0x3100), (0x4E00, 0x9FA0)]
    spans += [(0xAC00, 0xD7A0), (0x1F300, 0x1F700)]
    texts = []
    for _ in range(count):
        runs = []
        for _ in range(rng.randint(1, 8)):
            low, high = rng.choice(spans)
            runs += [chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 4))]
        texts.append("".join(runs))
    return texts


def learned(split, **options):
    """A tokenizer whose merges were learned from the corpus, cut by a rule."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    rule = Tokenizer.from_bpe(sorted(pre_tokenizers.ByteLevel.alphabet()), [], **SPLITS[split])
    backend = tokenizers.Tokenizer.from_str(rule.definition)
    backend.model = models.BPE()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    model = json.loads(backend.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    tokens = [*SPECIALS, *words, "<|tool|>"]
    given = {"bos_id": 1, "eos_id": 0, "also_stop": [3], "chat_template": CHATML} | options
    return Tokenizer.from_bpe(
        tokens,
        [" ".join(merge) for merge in model["merges"]],
        special_ids=range(len(SPECIALS)),
        added_ids=[len(tokens) - 1],
        **SPLITS[split],
        **given,
    )


def sizes(tokenizer, **changes):
    plain: dict[str, Any] = {
        "d_model": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
    }
    plain |= {"d_ff": 96, "max_length": 128, "rope_base": 2e4, "norm_eps": 1e-4}
    return TransformerConfig(vocab_size=tokenizer.vocab_size, **(plain | changes))


def random_params(config, seed=0):
    """Weights at which attention looks at places, and logits spread over some 2 nats."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for weight in LLAMA.weights(config):
        shape = weight.shape(config)
        scale = 2.0 / np.sqrt(shape[0]) if weight.path[-1] == "kernel" else 0.25
        node = params
        for key in weight.path[:-1]:
            node = node.setdefault(key, {})
        draw = scale * rng.standard_normal(shape)
        node[weight.path[-1]] = (1 + 0.4 * draw if len(shape) == 1 else draw).astype(np.float32)
    return params


def ours(config, params, ids):
    """Log-probabilities `[T, V]` of the `Transformer` here."""
    tokens = np.asarray([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    logits, _ = jax.jit(logits_fn(Transformer(config)))(params, tokens, positions, None)
    return log_softmax(np.asarray(logits[0], np.float64))


def log_softmax(logits):
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def opened(path, **options):
    plain = {"n_ctx": 128, "n_threads": 2, "logits_all": True, "verbose": False}
    # A cache of keys and values in float32; half precision is the default, and 1e-2 off.
    return llama_cpp.Llama(str(path), **(plain | {"type_k": 0, "type_v": 0} | options))


def theirs(path, ids, **options):
    """Log-probabilities `[T, V]` of llama.cpp."""
    model = opened(path, **options)
    model.eval(ids)
    scores = np.array(model.scores[: len(ids)], np.float64)
    model.close()
    return log_softmax(scores)


def ids_for(config, count=48, seed=1):
    return np.random.default_rng(seed).integers(4, config.vocab_size, count).tolist()


@pytest.fixture(scope="module")
def tokenizer():
    return learned("smollm")


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": False, "num_kv_heads": 4}, {"head_dim": 16, "num_kv_heads": 1}],
    ids=["tied", "untied", "narrow"],
)
def test_llama_cpp_gives_our_log_probs(tmp_path, tokenizer, changes):
    config = sizes(tokenizer, **changes)
    params, ids = random_params(config), ids_for(config)
    write_gguf(tmp_path / "a.gguf", config, params, tokenizer)
    worst = np.max(np.abs(theirs(tmp_path / "a.gguf", ids) - ours(config, params, ids)))
    print(f"largest difference {worst:.1e}")
    assert worst < 1e-3


def divergence(exact, rounded):
    """Mean over positions of KL(exact || rounded), in nats."""
    return float(np.mean(np.sum(np.exp(exact) * (exact - rounded), axis=-1)))


ROUNDED = pytest.mark.parametrize(
    ("dtype", "limit"), [("f16", 1e-4), ("bf16", 5e-3), ("q8_0", 0.02)]
)


@ROUNDED
def test_llama_cpp_rounded_matrices_are_near(tmp_path, tokenizer, dtype, limit):
    config = sizes(tokenizer)
    params, ids = random_params(config), ids_for(config)
    path = tmp_path / "a.gguf"
    write_gguf(path, config, params, tokenizer, dtype=dtype)
    got, exact = theirs(path, ids), ours(config, params, ids)
    # The same rounded weights, read here: llama.cpp rounds what it multiplies them with as well.
    same = ours(config, read_gguf(path)[1], ids)
    print(
        f"{dtype}: largest {np.max(np.abs(got - exact)):.1e}, of the weights alone "
        f"{np.max(np.abs(same - exact)):.1e}; KL {divergence(exact, got):.1e}, "
        f"{divergence(exact, same):.1e}"
    )
    assert 0 < divergence(exact, got) < limit
    assert 0 < divergence(exact, same) < limit


def test_llama_cpp_without_the_permutation_is_another_model(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("rsft_jax.interop.gguf_export.permute", lambda weight, heads: weight)
    config = sizes(tokenizer)
    params, ids = random_params(config), ids_for(config)
    write_gguf(tmp_path / "a.gguf", config, params, tokenizer)
    got, exact = theirs(tmp_path / "a.gguf", ids), ours(config, params, ids)
    assert np.max(np.abs(got - exact)) > 0.5
    assert divergence(exact, got) > 0.1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("add_bos", [False, True])
def test_llama_cpp_tokenizes_as_we_do(tmp_path, split, add_bos):
    tokenizer = learned(split, add_bos=add_bos)
    config = sizes(tokenizer, num_layers=1)
    write_gguf(tmp_path / "a.gguf", config, random_params(config), tokenizer)
    model = opened(tmp_path / "a.gguf", vocab_only=True)
    for text in [*AWKWARD, *random_texts()]:
        raw = text.encode()
        assert model.tokenize(raw, add_bos=False) == tokenizer.encode(text), repr(text)
        assert model.tokenize(raw, add_bos=True) == tokenizer.encode_prompt(text), repr(text)
    chat = tokenizer.render_chat(CHAT)
    assert model.tokenize(chat.encode(), add_bos=False, special=True) == tokenizer.encode_chat(CHAT)
    assert model.metadata["tokenizer.chat_template"] == CHATML
    model.close()


def test_another_rule_of_splitting_gives_other_tokens(tmp_path, tokenizer):
    config = sizes(tokenizer, num_layers=1)
    write_gguf(tmp_path / "a.gguf", config, random_params(config), tokenizer)
    file = GGUFFile(tmp_path / "a.gguf")
    values = {key: file.get(key) for key in file} | {"tokenizer.ggml.pre": "qwen2"}
    tensors = {name: Tensor(file.tensor(name), "f32") for name in file.tensors}
    write_gguf_file(tmp_path / "b.gguf", values, tensors)
    model = opened(tmp_path / "b.gguf", vocab_only=True)
    texts = [*AWKWARD, *random_texts()]
    differ = [t for t in texts if model.tokenize(t.encode(), add_bos=False) != tokenizer.encode(t)]
    model.close()
    assert len(differ) > 5


def ends(model):
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    return {i for i in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, i)}


def test_llama_cpp_stops_where_we_stop(tmp_path, tokenizer):
    config = sizes(tokenizer, num_layers=1)
    write_gguf(tmp_path / "a.gguf", config, random_params(config), tokenizer)
    model = opened(tmp_path / "a.gguf", vocab_only=True)
    assert ends(model) == set(tokenizer.stop_token_ids) == {0, 2, 3}
    assert (model.token_bos(), model.token_eos()) == (1, 0)
    model.close()


def test_llama_cpp_takes_token_11_for_an_end_that_is_not_named(tmp_path):
    # Why a tokenizer without an end is refused.
    tokenizer = learned("gpt-2")
    config = sizes(tokenizer, num_layers=1)
    write_gguf(tmp_path / "a.gguf", config, random_params(config), tokenizer)
    file = GGUFFile(tmp_path / "a.gguf")
    values = {key: file.get(key) for key in file if not key.endswith("os_token_id")}
    tensors = {name: Tensor(file.tensor(name), "f32") for name in file.tensors}
    write_gguf_file(tmp_path / "b.gguf", values, tensors)
    model = opened(tmp_path / "b.gguf", vocab_only=True)
    assert (model.token_bos(), model.token_eos()) == (11, 11)
    assert 11 in ends(model)
    model.close()


def random_lora(config, rank, targets, seed=3):
    rng = np.random.default_rng(seed)
    lora: dict[str, Any] = {}
    for weight in LLAMA.weights(config):
        if weight.path[-1] == "kernel" and weight.path[-2] in targets:
            wide, narrow = weight.shape(config)
            node = lora
            for key in weight.path[:-1]:
                node = node.setdefault(key, {})
            node["a"] = (rng.standard_normal((wide, rank)) / np.sqrt(wide)).astype(np.float32)
            node["b"] = rng.standard_normal((rank, narrow)).astype(np.float32)
    return lora


@pytest.mark.parametrize("targets", [("query", "key"), ("value", "output", "up", "down", "head")])
def test_llama_cpp_applies_our_adapter(tmp_path, tokenizer, targets, monkeypatch):
    config = sizes(tokenizer, tie_embeddings=False)
    params, ids = random_params(config), ids_for(config)
    lora = random_lora(config, 4, targets)
    base, adapter = tmp_path / "base.gguf", tmp_path / "lora.gguf"
    write_gguf(base, config, params, tokenizer)
    write_gguf_adapter(adapter, config, lora, alpha=6.0)
    merged = ours(config, merge_lora(params, lora, 6.0 / 4), ids)
    worst = np.max(np.abs(theirs(base, ids, lora_path=str(adapter)) - merged))
    print(f"largest difference {worst:.1e}")
    assert worst < 1e-3
    assert np.max(np.abs(ours(config, params, ids) - merged)) > 0.5
    half = ours(config, merge_lora(params, lora, 0.5 * 6.0 / 4), ids)
    scaled = theirs(base, ids, lora_path=str(adapter), lora_scale=0.5)
    assert np.max(np.abs(scaled - half)) < 1e-3
    if "query" in targets:  # planted: the adapter's rows as they are
        monkeypatch.setattr("rsft_jax.interop.gguf_adapter.permute", lambda weight, heads: weight)
        write_gguf_adapter(adapter, config, lora, alpha=6.0)
        assert np.max(np.abs(theirs(base, ids, lora_path=str(adapter)) - merged)) > 0.5


@pytest.fixture(scope="module")
def smollm2():
    try:
        path = fetch("smollm2-135m-instruct")
    except ConnectionError as error:
        pytest.skip(str(error))
    return path, load_pretrained(path, max_length=128)


def test_smollm2_written_again_is_the_same_model(tmp_path, smollm2):
    path, (model, params, tokenizer) = smollm2
    again = tmp_path / "again.gguf"
    write_gguf(again, model.config, params, tokenizer)
    config, read, got = read_gguf(again)
    assert config == model.config
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert got.definition == tokenizer.definition
    assert got.encode_chat(CHAT) == tokenizer.encode_chat(CHAT)
    assert got.stop_token_ids == tokenizer.stop_token_ids
    ids = tokenizer.encode_chat(CHAT)
    worst = np.max(np.abs(theirs(again, ids) - ours(config, params, ids)))
    print(f"largest difference {worst:.1e}")
    assert worst < 1e-3
    old, new = (opened(p, vocab_only=True) for p in (path, again))
    for text in [*AWKWARD, *random_texts()]:
        ids = new.tokenize(text.encode(), add_bos=False)
        assert ids == old.tokenize(text.encode(), add_bos=False), repr(text)
        assert ids == tokenizer.encode(text), repr(text)
    # SmolLM2 has no token for the byte 4. It falls away, but its neighbours merge here alone.
    assert new.tokenize(b"-\x04-", add_bos=False) == 2 * tokenizer.encode("-")
    assert tokenizer.encode("-\x04-") == tokenizer.encode("--")
    for model in (old, new):
        model.close()


@ROUNDED
def test_smollm2_rounded_is_near(tmp_path, smollm2, dtype, limit):
    _, (model, params, tokenizer) = smollm2
    write_gguf(tmp_path / "a.gguf", model.config, params, tokenizer, dtype=dtype)
    ids = tokenizer.encode_chat(CHAT)
    got, exact = theirs(tmp_path / "a.gguf", ids), ours(model.config, params, ids)
    chosen = [row[token] for row, token in zip(got - exact, ids[1:])]
    print(
        f"{dtype}: largest {np.max(np.abs(got - exact)):.1e}, of the text "
        f"{np.max(np.abs(chosen)):.1e}, mean {np.mean(np.abs(chosen)):.1e}; "
        f"KL {divergence(exact, got):.1e}"
    )
    assert 0 < divergence(exact, got) < limit
