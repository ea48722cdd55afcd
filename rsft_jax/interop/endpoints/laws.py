"""The law that an endpoint samples from: every cut by name, and when log q is known.

What a request leaves out is the server's to choose, and servers choose: one samples at temperature
0.8 with top-k 40, top-p 0.95 and min-p 0.05; another takes what the model's
`generation_config.json` says. So a request names everything that its server knows, off or not.

The log-probabilities that servers return are those of the model before temperature, cuts and
penalties (seen of vLLM 0.32 in its default mode, and of llama-cpp-python 0.3.36: the same numbers
at temperature 0.2 and 2, with top_k 1 and with a logit bias of -100). They are log q, the
proposal's, only where these are all off: `SamplingLaw.is_plain`.

Two more things to know of their sum. It is over the server's tokens, and a trainer has its own
tokenizer: a sum over a text may be compared, the tokens' may not, and of several ways to spell a
text in tokens it is of the one that was drawn. And servers differ in whether the token that ended
the answer counts: vLLM gives it (that of a stop text too, which the text leaves out), OpenAI's and
llama-cpp-python's do not, so that there log q lacks log q(end | text).

`transformers serve` (5.24) draws nothing at any `temperature` unless the model's own
`generation_config.json` says `do_sample`, keeps the 50 likeliest tokens where it does, refuses
`top_k`, and leaves `n` and `logprobs` aside without an error. All of its law can be named in one
field, `generation_config`; it says no log-probabilities.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from rsft_jax.numerics.checks import check_between, check_choice, check_integer, check_number

ServerKind = Literal["llama_cpp", "openai", "transformers", "vllm"]
"""Which names for cuts and limits a server knows."""


class _Names(NamedTuple):
    """How a kind of server names things.

    Attributes:
      fields: field of `SamplingLaw` -> its name in a request.
      off: what is switched off besides.
      log_probs: by what it says log-probabilities; None where it says none.
      packed: the field that holds all of them as JSON; "" where they are fields of the request.
    """

    fields: Mapping[str, str]
    off: Mapping[str, Any]
    log_probs: Mapping[str, Any] | None = MappingProxyType({"logprobs": True})
    packed: str = ""


_BOTH = {"temperature": "temperature", "top_p": "top_p", "stop": "stop"}
_PENALTIES = {"frequency_penalty": 0.0, "presence_penalty": 0.0}
_CUTS = {"top_k": "top_k", "min_p": "min_p", "max_tokens": "max_tokens"}
_SERVERS: Mapping[str, _Names] = MappingProxyType(
    {
        # Refuses a request with a field that it does not know.
        "openai": _Names({**_BOTH, "max_tokens": "max_completion_tokens"}, _PENALTIES),
        "vllm": _Names({**_BOTH, **_CUTS, "repetition_penalty": "repetition_penalty"}, _PENALTIES),
        # Of llama.cpp's own server and of llama-cpp-python's; each ignores what the other knows.
        "llama_cpp": _Names(
            {**_BOTH, **_CUTS, "repetition_penalty": "repeat_penalty"},
            {
                **_PENALTIES,
                "typical_p": 1.0,
                "mirostat": 0,
                "mirostat_mode": 0,
                "xtc_probability": 0.0,
                "dry_multiplier": 0.0,
                "top_n_sigma": -1.0,
                "dynatemp_range": 0.0,
            },
            # Without top_logprobs llama-cpp-python says nothing.
            {"logprobs": True, "top_logprobs": 1},
        ),
        "transformers": _Names(
            {
                **_BOTH,
                **_CUTS,
                "max_tokens": "max_new_tokens",
                "repetition_penalty": "repetition_penalty",
            },
            {"typical_p": 1.0},
            log_probs=None,
            packed="generation_config",
        ),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingLaw:
    """How an endpoint is to draw.

    Attributes:
      max_tokens: longest answer, in the server's tokens.
      temperature: divides the logits; 0 is greedy.
      top_k: keep the k most likely tokens; 0 keeps all.
      top_p: keep the most likely tokens of this mass; 1 keeps all.
      min_p: keep tokens at least this times as likely as the likeliest; 0 keeps all.
      repetition_penalty: 1 is off.
      stop: texts that end an answer.

    Raises:
      ValueError: a value out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integer("max_tokens", self.max_tokens)
        check_between("temperature", self.temperature, 0, math.inf, bounds="[)")
        check_integer("top_k", self.top_k, 0)
        check_between("top_p", self.top_p, 0, 1, bounds="(]")
        check_between("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, above=0)

    @property
    def is_plain(self) -> bool:
        """Whether it is the model's own law: nothing divided, cut off or penalised.

        >>> SamplingLaw(max_tokens=9).is_plain, SamplingLaw(max_tokens=9, top_p=0.9).is_plain
        (True, False)
        """
        return self == SamplingLaw(max_tokens=self.max_tokens, stop=self.stop)

    def options(self, server: ServerKind) -> dict[str, Any]:
        """The fields of a request by which a server draws from this law.

        Raises:
          ValueError: the server has no name for something that is switched on.

        Example:
          >>> SamplingLaw(max_tokens=9).options("vllm")["top_k"]
          0
          >>> SamplingLaw(max_tokens=9, top_k=5).options("openai")
          Traceback (most recent call last):
          ValueError: top_k must be 0 for a server of the kind openai, got 5
        """
        names, options = _names(server), {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names.fields:
                options[names.fields[field.name]] = value
            elif value != field.default:
                raise ValueError(
                    f"{field.name} must be {field.default} for a server of the kind {server}, "
                    f"got {value!r}"
                )
        stop = list(options.pop("stop"))
        options |= names.off
        if names.packed:
            # Its temperature does not say whether anything is drawn, and 0 is none of it.
            options["do_sample"] = self.temperature > 0
            options["temperature"] = self.temperature or 1.0
            options = {names.packed: json.dumps(options)}
        return {**options, **({"stop": stop} if stop else {})}


def log_prob_options(server: ServerKind) -> dict[str, Any]:
    """The fields of a request by which a server says log-probabilities.

    Raises:
      ValueError: it says none.

    >>> log_prob_options("vllm"), log_prob_options("llama_cpp")
    ({'logprobs': True}, {'logprobs': True, 'top_logprobs': 1})
    """
    options = _names(server).log_probs
    if options is None:
        raise ValueError(
            f"log_probs must be false for a server of the kind {server} (it says none), got true"
        )
    return dict(options)


def _names(server: ServerKind) -> _Names:
    check_choice("server", server, _SERVERS)
    return _SERVERS[server]
