"""A run of a sweep that takes a moment and imports nothing: writes what a run writes.

    fake_job.py FOLDER BEHAVIOUR KEY=VALUE ...

Behaviours: ok, raise, kill, hang, memory, flaky (fails once), long, slow, silent (no figures),
refuse (its settings), rounds (takes long after round 1 where the others take a moment).
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

folder, behaviour, *settings = sys.argv[1:]
path = Path(folder)
path.mkdir(parents=True, exist_ok=True)
with (path.parent / "started.txt").open("a") as started:
    started.write(path.name + "\n")
(path / "run.json").write_text(json.dumps({"status": "running"}))
if behaviour == "raise":
    raise ValueError("this run fails")
if behaviour == "refuse":
    print("rsft: error: selection.k: 3; must be at most 2", file=sys.stderr)
    sys.exit(2)
if behaviour == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "long":
    time.sleep(100)
if behaviour == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
if behaviour == "memory":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    bytearray(2**33)
if behaviour == "flaky" and not (path / "tried").exists():
    (path / "tried").touch()
    sys.exit(1)
values = dict(setting.split("=", 1) for setting in settings if "=" in setting)
beta = float(values.get("selection.beta", "0.1"))
with (path / "metrics.jsonl").open("w") as file:
    for round_ in range(0 if behaviour == "silent" else 4):
        score = round_ / 3 * math.exp(-abs(math.log(beta / 0.3)))
        event = {"event": "evaluation", "arm": "policy", "round": round_, "reward_mean": score}
        file.write(json.dumps(event) + "\n")
        file.flush()
        slow = behaviour == "slow" or (behaviour == "rounds" and round_ == 1)
        time.sleep(1.0 if slow else 0.02)
(path / "run.json").write_text(json.dumps({"status": "finished"}))
