#!/usr/bin/env bash
# JAX's persistent compilation cache: an entry that was cut is never written again.
#
# Believed: entries appear whole or not at all; and one that cannot be read is compiled again, with a
#   warning, and replaced, so that a kill or a full disk costs one compilation.
# Seen: an entry is written in place under its last name, so that a process killed while it writes
#   leaves half of it; a process that cannot read it warns, compiles, and then writes nothing, because
#   a file of that name is there. So does every later process, for as long as the folder is kept.
# Version: jax 0.10.2, 2026-11-29 (read there and in what writes it: `LRUCache.put` returns when the
#   path exists and else calls `write_bytes`).
# Why it matters: the largest programs take longest to write and to compile; a job that is preempted
#   while it keeps its training step pays for compiling that step in every start that follows. Remove files that are smaller than those beside them
#   from a machine that finished, or keep one folder per job and copy it when the job is done.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2
cat > "$work/start.py" <<'PY'
import collections
import sys
import warnings

import jax
import jax.numpy as jnp

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
x = jnp.ones((8, 8))
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    jax.jit(lambda rows: jnp.tanh(rows @ rows).sum())(x).block_until_ready()
print("hits", counts["cache_hits"], "misses", counts["cache_misses"], "warnings", len(told))
PY
start() { JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/start.py" "$work/cache"; }
entry() { ls "$work"/cache/jit__lambda*; }
echo "first:  $(start)"
echo "second: $(start)"
truncate --size=500 "$(entry)"  # what a kill in the middle of the write leaves
for number in 1 2 3; do
    seen=$(start)
    echo "start $number after the cut: $seen; the entry has $(stat --format=%s "$(entry)") bytes"
    [[ "$seen" == "hits 0 misses 1 warnings 1" ]] || { echo "it has changed"; exit 1; }
done
[[ $(stat --format=%s "$(entry)") == 500 ]] || { echo "it has changed"; exit 1; }
echo "as described"
