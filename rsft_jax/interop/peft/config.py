"""adapter_config.json of PEFT, read whole: every field is computed with, known to change nothing,
or refused.

PEFT itself leaves out what it does not find: a target that no module matches, beside one that
some do, and tensors for which there is no place. Here both are errors.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rsft_jax.interop.formats.text_files import read_json
from rsft_jax.interop.peft.names import CONFIG, ends_with

# What changes nothing that an adapter, once it is trained, computes.
_SILENT = {"auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout"}
# PEFT sets it by the kind of the module, whatever is said.
_SILENT |= {"fan_in_fan_out"}
_SILENT |= {"megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config"}
# The values with which the model computes what is computed here; null is always the default.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none", None),
    # Other ways to begin take the beginning out of the base model's weights, when it is loaded.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),
}
_OFF: tuple[Any, ...] = (None, False, {}, [], "")
_ALL_LINEAR = "all-linear"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter computes, and of which modules.

    Attributes:
      path: the file, for errors.
      r: rank of a module that `rank_pattern` does not name.
      lora_alpha: of a module that `alpha_pattern` does not name.
      use_rslora: whether B A is scaled by alpha / sqrt(r) (rank-stabilized) and not by alpha / r.
      rank_pattern, alpha_pattern: regular expressions of the ends of names -> r and alpha.
      target_modules: ends of names; or a regular expression of whole names, or "all-linear".
      layers_to_transform: numbers of layers, or None for all.
      layers_pattern: regular expressions of what stands before the number of a layer.

    References:
      Kalajdzievski 2023, "rsLoRA", https://arxiv.org/abs/2312.03732, section 3.
      peft 0.21.2, `check_target_module_exists`, `get_pattern_key`, `LoraLayer.update_layer`.
    """

    path: Path
    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: tuple[str, ...] | str
    layers_to_transform: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]

    def chosen(self, modules: Collection[str], num_layers: int) -> list[str]:
        """Those of these modules that are adapted.

        Raises:
          ValueError: a target, a layer or a pattern names none of them.
        """
        targets = self.target_modules
        for layer in self.layers_to_transform or ():
            if not 0 <= layer < num_layers:
                self._fail("layers_to_transform", layer, f"from 0 to {num_layers - 1}")
        if isinstance(targets, str):
            found = [name for name in modules if self._is_meant(targets, name)]
            if not found:
                self._fail("target_modules", targets, "a pattern of linear maps of a layer")
        else:
            for target in targets:
                if not any(self._is_meant(target, name) for name in modules):
                    self._fail("target_modules", target, "the name of a linear map of a layer")
            found = [name for name in modules if any(self._is_meant(t, name) for t in targets)]
        for field in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, field):
                if not any(_matches(pattern, name) for name in found):
                    self._fail(field, pattern, "a pattern of a module that is adapted")
        return found

    def rank(self, module: str) -> int:
        """r of a module."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """What the product B A of a module is multiplied by."""
        alpha, r = _by_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    def _is_meant(self, target: str, name: str) -> bool:
        """Whether a target means a module, as `check_target_module_exists` of PEFT has it."""
        if isinstance(self.target_modules, str):
            return target.lower() == _ALL_LINEAR or re.fullmatch(target, name) is not None
        if name == target or self.layers_to_transform is None:
            return ends_with(name, target)  # a whole name is meant whatever its layer
        return ends_with(name, target) and self._layer(name) in self.layers_to_transform

    def _layer(self, name: str) -> int | None:
        """The first number between dots, behind the pattern of layers where there is one."""
        patterns = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(\d+)\."]:
            if match := re.match(pattern, name):
                return int(match[1])
        return None

    def _fail(self, field: str, value: Any, allowed: str) -> None:
        raise ValueError(f"{self.path}: {field}: must be {allowed}, got {value!r:.80}")


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Reads and checks adapter_config.json.

    Raises:
      ValueError: a field has a value that is not computed here; the message has both.
      FileNotFoundError: there is no such file.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; is {folder} an adapter of PEFT?")
    raw = read_json(path)

    def fail(field: str, allowed: str) -> None:
        raise ValueError(f"{path}: {field}: must be {allowed}, got {raw.get(field)!r:.80}")

    fields = {field.name for field in dataclasses.fields(AdapterConfig)} - {"path"}
    for name, allowed in _ONLY.items():
        if not _is_one_of(raw.get(name), allowed):
            fail(name, " or ".join(map(repr, allowed)))
    for name, value in raw.items():
        if name not in fields | _SILENT | set(_ONLY) and not _is_one_of(value, _OFF):
            fail(name, "off (null or false), as it is not computed here")
    found: dict[str, Any] = {name: raw.get(name) for name in fields}
    for name, value in found.items():
        if not _CHECKS[name][0](value):
            fail(name, _CHECKS[name][1])
    targets = found["target_modules"]
    if isinstance(targets, str) and found["layers_to_transform"] is not None:
        fail("layers_to_transform", "null where target_modules is a pattern")
    if found["layers_pattern"] and found["layers_to_transform"] is None:
        fail("layers_pattern", "null without layers_to_transform")
    layers = found["layers_to_transform"]
    return AdapterConfig(
        path=path,
        r=found["r"],
        lora_alpha=float(found["lora_alpha"]),
        use_rslora=bool(found["use_rslora"]),
        rank_pattern=found["rank_pattern"] or {},
        alpha_pattern=found["alpha_pattern"] or {},
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        layers_to_transform=None if layers in (None, []) else tuple(_listed(layers)),
        layers_pattern=tuple(_listed(found["layers_pattern"] or [])),
    )


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_pattern(value: Any) -> bool:
    """Whether it is a regular expression, of no more than a person writes."""
    try:
        return _is_text(value) and len(value) <= 2000 and bool(re.compile(value))
    except (re.error, RecursionError, OverflowError):
        return False


def _are_patterns(value: Any, is_right: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(_is_pattern(k) and is_right(v) for k, v in value.items())


def _are_targets(value: Any) -> bool:
    if isinstance(value, str):
        return _is_pattern(value)
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# Of each field: whether a value is right, and what is.
_CHECKS = {
    "r": (_is_rank, "an integer, at least 1"),
    "lora_alpha": (_is_alpha, "a number"),
    "use_rslora": (lambda v: v in (None, False, True), "true or false"),
    "rank_pattern": (lambda v: _are_patterns(v, _is_rank), "patterns of names, each with its r"),
    "alpha_pattern": (
        lambda v: _are_patterns(v, _is_alpha),
        "patterns of names, each with its alpha",
    ),
    "target_modules": (_are_targets, "names of modules, or a pattern"),
    "layers_to_transform": (
        lambda v: v is None or all(type(i) is int for i in _listed(v)),
        "numbers of layers, or null",
    ),
    "layers_pattern": (
        lambda v: v is None or all(map(_is_pattern, _listed(v))),
        "patterns of names, or null",
    ),
}


def _is_one_of(value: Any, allowed: Collection[Any]) -> bool:
    """Membership that tells 0 and 1 from false and true."""
    return any(type(value) is type(other) and value == other for other in allowed)


def _matches(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a name."""
    return next((value for key, value in patterns.items() if _matches(key, name)), default)
