"""Reads a random bfloat16 folder in the shape of Llama 3.2 1B: seconds, and memory at most.

    python -m rsft_jax.experiments.benchmarks.reading
    python -m rsft_jax.experiments.benchmarks.reading --transformers OTHER/bin/python --runs 5

The folder is made anew, and removed. Each reading is a process of its own, which imports what it
needs before the clock starts; the readers take turns, and the file lies in the page cache for all
of them. `load_pretrained` reads configuration, tokenizer and weights; `from_pretrained` (of the
Python that is named, which needs torch and transformers) the configuration and the weights.

One JSON object a reader. `cpu_seconds` are those of all threads. Sizes are in GB; `over_parameters`
is the most resident memory above what the process held before, less the bytes of the parameters,
as part of the size of the weights' file.
`first_use_seconds` is a sum over every parameter afterwards: a reader that leaves the numbers in
the mapped file reads them then, and `held` is what the process has gained after that.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, dict[str, Any]] = {
    "1b": {"vocab_size": 128_256, "d_model": 2048, "num_layers": 16, "num_heads": 32,
           "num_kv_heads": 8, "head_dim": 64, "d_ff": 8192},
    "33m": {"vocab_size": 8192, "d_model": 512, "num_layers": 8, "num_heads": 8,
            "num_kv_heads": 4, "head_dim": 64, "d_ff": 2048},
}  # fmt: skip
"""Of Llama 3.2 1B, and small ones for a test."""

_MEMORY = '''
import gc, json, re, sys, time
from pathlib import Path


def gigabytes(field):
    status = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\\s+(\\d+) kB", status)[1]) * 1024 / 1e9


def measure(read, size, use):
    """What a reading takes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, begun, cpu = gigabytes("VmRSS"), time.perf_counter(), time.process_time()
    held = read(sys.argv[1])
    seconds, peak = time.perf_counter() - begun, gigabytes("VmHWM")
    cpu = time.process_time() - cpu
    begun, parameters = time.perf_counter(), size(held)
    use(held)
    file = sum(f.stat().st_size for f in Path(sys.argv[1]).glob("*.safetensors")) / 1e9
    found = dict(seconds=seconds, cpu_seconds=cpu, first_use_seconds=time.perf_counter() - begun)
    found |= dict(file=file, parameters=parameters, peak=peak - before)
    found["over_parameters"] = (found["peak"] - parameters) / file
    gc.collect()
    print(json.dumps(found | dict(held=gigabytes("VmRSS") - before)))

'''

_OURS = """
import jax
from rsft_jax.interop import load_pretrained

jax.block_until_ready(jax.numpy.zeros(3) + 1)


def read(folder):
    return jax.block_until_ready(load_pretrained(folder, params_dtype=sys.argv[2]).params)


def use(params):
    for leaf in jax.tree.leaves(params):
        jax.numpy.sum(leaf, dtype="float32").block_until_ready()


measure(read, lambda params: sum(x.nbytes for x in jax.tree.leaves(params)) / 1e9, use)
"""

_THEIRS = """
import torch
from transformers import LlamaForCausalLM


def read(folder):
    return LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, sys.argv[2]))


def use(model):
    for parameter in model.parameters():
        parameter.detach().sum(dtype=torch.float32)


measure(read, lambda model: sum(x.nbytes for x in model.parameters()) / 1e9, use)
"""


def make_folder(folder: Path, size: str) -> None:
    """Writes a random model in bfloat16, a tensor at a time.

    Args:
      folder: empty.
      size: a key of `SIZES`.
    """
    from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
    from rsft_jax.models import TransformerConfig
    from rsft_jax.models.families.llama import FAMILY

    config = TransformerConfig(**SIZES[size], max_length=8192)
    shapes = {}
    for weight in FAMILY.weights(config):
        shapes[weight.huggingface] = weight.shape(config)[::-1]
    shapes["model.embed_tokens.weight"] = (config.vocab_size, config.d_model)
    said = {"architectures": [FAMILY.architecture], "model_type": "llama"}
    said |= {**FAMILY.json_of(config), "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(said))
    write_tokenizer(folder, _tokenizer(config.vocab_size), config.max_length)
    _write_random(folder / "model.safetensors", shapes)


def _tokenizer(vocab_size: int) -> Any:
    """Bytes, and words that no text is cut into: what is read has a row for each."""
    from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet

    letters = byte_alphabet()
    words = [f"word{i}" for i in range(vocab_size - len(letters) - 1)]
    special = vocab_size - 1
    return Tokenizer.from_bpe(
        [*letters, *words, "<|end|>"], [], special_ids=[special], eos_id=special
    )


def _write_random(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for rows in _blocks(shape):
                # Sign and mantissa at random, and an exponent of 2^-11 to 2^-8.
                bits = rng.integers(0, 1 << 16, rows, np.uint16)
                file.write((bits & 0x81FF | 0x3A00).astype("<u2").tobytes())


def _blocks(shape: tuple[int, ...]) -> Iterator[int]:
    """A tensor's numbers in parts that fit into little memory."""
    left = int(np.prod(shape))
    while left:
        yield min(left, 1 << 24)
        left -= min(left, 1 << 24)


def compare(folder: Path, theirs: str | None, runs: int) -> list[dict[str, Any]]:
    """Reads a folder in turn by each reader; medians, and all seconds.

    Args:
      folder: as `make_folder` writes it.
      theirs: a Python that has transformers; None for without.
      runs: readings of each.
    """
    readers = {f"rsft_jax {kind}": (sys.executable, _OURS, kind) for kind in _OUR_DTYPES}
    if theirs is not None:
        readers |= {f"transformers {kind}": (theirs, _THEIRS, kind) for kind in _THEIR_DTYPES}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
    for _ in range(runs):
        for name, (python, code, kind) in readers.items():
            for file in folder.glob("*.safetensors"):
                _warm(file)
            command = [python, "-c", _MEMORY + code, str(folder), kind]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr.strip()[-500:]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return [{"reader": name, **_medians(measured)} for name, measured in found.items()]


_OUR_DTYPES = ("float32", "checkpoint")
_THEIR_DTYPES = ("float32", "bfloat16")


def _medians(measured: list[dict[str, float]]) -> dict[str, Any]:
    medians = {key: round(statistics.median(m[key] for m in measured), 3) for key in measured[0]}
    return {**medians, "all_seconds": [round(m["seconds"], 2) for m in measured]}


def _warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a JSON object for each reader."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="1b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--transformers", metavar="PYTHON", help="one that has transformers")
    arguments = parser.parse_args(argv)
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("memory at most is read from /proc, which is Linux's")
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), arguments.size)
        for line in compare(Path(folder), arguments.transformers, arguments.runs):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
