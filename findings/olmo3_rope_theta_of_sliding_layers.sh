#!/usr/bin/env bash
# OLMo 3 in transformers 5: `rope_theta` of a config.json is not the base of the sliding layers.
#
# Believed: `rope_theta`, the key that transformers 4 wrote and read, is the base of the rotary
#   positions of all layers of an OLMo 3 model, as it is in transformers 4 (4.57.1 builds both of its
#   rotary embeddings from config.rope_theta); version 5 reads older files alike.
# Seen: the full layers get `rope_theta`, the sliding ones (three of four) get 500000, whatever the
#   file says: the key is popped for the full layers, and the second pop falls back to the default.
#   Nothing is said. With `rope_parameters` for each type of layer both are as stated.
# Version: transformers 5.24.0 (and 4.57.1 for what it was before), 2026-11-29.
# Why it matters: a model with another base, such as one that was trained on from an OLMo 3 with a
#   larger rope_theta for longer texts, is another model in version 5 than in version 4, in most of
#   its layers. Write `rope_parameters` beside `rope_theta`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cat > "$work/show.py" <<'PY'
from transformers import Olmo3Config

base = 8_000_000.0
older = Olmo3Config.from_dict({"model_type": "olmo3", "rope_theta": base})
bases = {kind: rope["rope_theta"] for kind, rope in older.rope_parameters.items()}
print("rope_theta alone:", bases)
both = {kind: {"rope_type": "default", "rope_theta": base} for kind in bases}
newer = Olmo3Config.from_dict({"model_type": "olmo3", "rope_theta": base, "rope_parameters": both})
stated = {kind: rope["rope_theta"] for kind, rope in newer.rope_parameters.items()}
print("rope_parameters beside it:", stated)
assert bases == {"sliding_attention": 500_000.0, "full_attention": base}, "it has changed"
assert set(stated.values()) == {base}, "it has changed"
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
