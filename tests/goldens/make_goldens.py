"""Makes smollm2.json: what Hugging Face transformers computes from the pinned GGUF file.

The reference shares nothing with this project: transformers' own GGUF loader, tokenizer, template
renderer and Llama in float32. Run it in an environment of its own, from the top of the checkout:

    python3.11 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 transformers==5.23.0 gguf accelerate
    /tmp/reference/bin/python tests/goldens/make_goldens.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

A second tokenization, `split_ids`, is written out below in plain Python: transformers' GGUF loader
does not know that this model splits numbers into digits before anything else, which matters where
several spaces stand before a number. The rule is llama.cpp's (LLAMA_VOCAB_PRE_TYPE_SMOLLM).
"""

import argparse
import itertools
import json
import os
from pathlib import Path

import regex
import torch
import transformers
from gguf import GGUFReader

os.environ["HF_HUB_OFFLINE"] = "1"

OUTPUT = Path(__file__).with_name("smollm2.json")

PLAIN = [
    "Once upon a time, a fox found a lantern in the snow.",
    "The capital of France is",
    "Ünïcödé: naïve café, Привет мир, 日本語テスト, 🦊🏮, العربية, \u200bzero\twidth\n\n  two",
    "In 1998 there were 12345 cats, 3.14 of them 7% grey.",
    "def area(r):\n    return 3 * r ** 2\n",
]
CHATS = [
    [{"role": "user", "content": "Write the opening of a story about a kind dragon."}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "  What is 2+2?\n"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And café in English?"},
    ],
]
TEXTS = [
    *PLAIN,
    "",
    " ",
    "   leading and trailing   ",
    "a  2 b   33\n\n4\t 5",
    "I'm you're we'll they'd he's I've can't 'tis",
    "x²+y³=½ ٣٤٥ Ⅷ",
    "e\u0301 vs \u00e9, \U0001f468\u200d\U0001f469\u200d\U0001f467, \x00 \x7f \ufeff",
    "<html>|im_end| <| |> ### --- ===>",
]
COLUMNS = 64
TOP = 20


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes (the construction of GPT-2's code)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet, shifted = [], 0
    for byte in range(256):
        alphabet.append(chr(byte if byte in kept else 256 + shifted))
        shifted += byte not in kept
    return alphabet


def split_ids(text: str, ids: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Tokenizes with digits split first, in plain Python."""
    alphabet = byte_alphabet()
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    result = []
    for piece in regex.findall(r"\p{N}|\P{N}+", text):
        for word in regex.findall(words, piece):
            parts = [alphabet[byte] for byte in word.encode()]
            while len(parts) > 1:
                pairs = enumerate(itertools.pairwise(parts))
                rank, i = min((ranks.get(pair, len(ranks)), i) for i, pair in pairs)
                if rank == len(ranks):
                    break
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            result += [ids[part] for part in parts]
    return result


def main() -> None:
    """Writes the goldens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    path = parser.parse_args().gguf
    torch.set_num_threads(2)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    fields = GGUFReader(path).fields
    ids = {t: i for i, t in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = fields["tokenizer.ggml.merges"].contents()
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}

    prompts = [{"text": text, "ids": tokenizer.encode(text)} for text in PLAIN]
    for messages in CHATS:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append({"text": text, "ids": tokenizer.encode(text)})
    columns = torch.arange(COLUMNS) * (model.config.vocab_size // COLUMNS) + 7
    for prompt in prompts:
        length = len(prompt["ids"])
        with torch.no_grad():
            logits = model(torch.tensor([prompt["ids"]])).logits[0].float()
        prompt["positions"] = []
        for position in sorted({0, length // 3, 2 * length // 3, length - 1}):
            values, tokens = logits[position].topk(TOP)
            prompt["positions"].append(
                {
                    "position": position,
                    "top_ids": tokens.tolist(),
                    "top": [round(v, 5) for v in values.tolist()],
                    "columns": [round(v, 5) for v in logits[position, columns].tolist()],
                    "log_sum_exp": round(logits[position].double().logsumexp(0).item(), 6),
                }
            )
    rendered = [
        {
            "messages": messages,
            "add_generation_prompt": prompt,
            "text": tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            ),
            "ids": tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=prompt, return_dict=False
            ),
        }
        for messages in CHATS
        for prompt in (True, False)
    ]
    goldens = {
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
        "file": path.name,
        "columns": columns.tolist(),
        "prompts": prompts,
        "chats": rendered,
        "texts": [
            {
                "text": text,
                "ids": tokenizer.encode(text),
                "split_ids": split_ids(text, ids, ranks),
            }
            for text in TEXTS
        ],
    }
    OUTPUT.write_text(json.dumps(goldens, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")
    for entry in goldens["texts"]:
        if entry["ids"] != entry["split_ids"]:
            print("split digits matter in", repr(entry["text"]))


if __name__ == "__main__":
    main()
