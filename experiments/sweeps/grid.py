"""A grid of runs: `rsft run -m`. The launcher says where they run; see `jobs.py`.

ROOT/sweep.json            the jobs, for resuming and for the report of all of them
ROOT/draws/                candidates that the runs share
ROOT/000_seed-0/ ...       a run each
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..runs.folder import (
    check_folder,
    check_output_dir,
    default_output_dir,
    make_folder,
    read_status,
    wait_until_free,
)
from ..runs.repeat import settings_of
from ..settings.axes import expand_sweep
from ..settings.compose import load_config, load_group
from ..settings.overrides import parse_overrides, without_output
from ..settings.schema import LauncherConfig, RunConfig
from ..settings.typed import build, to_dict
from ..terminal.errors import ConfigError, ExitCode, quoted, shown
from ..terminal.failures import attempt
from ..terminal.files import write_whole
from .jobs import Job, check_launcher, describe, launch

_MAX_JOB_NAME = 80
_FEW = 3


def run_command(
    overrides: Sequence[str], folder: Path, config_dir: Path | None, *, extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """The command of one run of a sweep."""
    command = [sys.executable, "-m", "rsft_jax.experiments.cli", "run"]
    command += without_output(overrides)
    command += [f"output_dir={quoted(str(folder))}", "resume=true", *extra]
    return (*command, *(["--config-dir", str(config_dir)] if config_dir else []))


def sweep(
    overrides: list[str],
    config_dir: Path | None,
    make_command: Callable[..., tuple[str, ...]] = run_command,
    source: Path | None = None,
) -> ExitCode:
    """Runs each job of a sweep in a process of its own, so that none can take others along.

    All jobs are checked before the first is run. With `resume=true` and the folder of a sweep,
    finished runs are left as they are and the others go on.

    Args:
      overrides: what all jobs share, and the axes.
      config_dir: the user's own folder of groups, or None.
      make_command: makes the command of a job, as `run_command` does.
      source: the folder of a run whose settings all jobs start from (`--from`), or None.

    Returns:
      `FAILED` if any job failed, else `OK`.

    Raises:
      ConfigError: a job cannot be, or a folder holds something else. Nothing is written.
    """
    data, overrides = load_group("launcher", "basic", overrides, config_dir)
    launcher: LauncherConfig = build(LauncherConfig, data, "launcher")
    launcher.check()
    check_launcher(launcher)
    jobs = expand_sweep(overrides, config_dir)
    base = [] if source is None else ["--from", str(source.resolve())]
    if source is None:
        configs = [load_config(job, config_dir) for job in jobs]
    else:
        configs = [settings_of(source, job, config_dir)[0] for job in jobs]
    given = configs[0].output_dir
    root = Path(given) if given else default_output_dir(f"{configs[0].name}-sweep")
    swept = [o.key_or_group for o in parse_overrides(overrides) if o.is_sweep_override()]
    folders = [root / job_name(number, job, swept) for number, job in enumerate(jobs)]
    check_folder(root, "output_dir")
    for folder, config in zip(folders, configs):
        check_output_dir(folder, resume=config.resume)
    _check_same(root, jobs, source)
    alone = launcher.name == "basic"
    made = []
    for number, (job, folder, config) in enumerate(zip(jobs, folders, configs)):
        job, shared = with_shared_store(job, config, root)
        log = None if alone else root / "logs" / f"{number:03d}.log"
        label = " ".join(text for text in job if text.partition("=")[0] in swept)
        command = make_command(job, folder, config_dir, extra=[*shared, *base])
        made.append(Job(number, command, folder, label, log))
    left = [job for job in made if read_status(job.folder).get("status") != "finished"]
    make_folder(root)

    def run() -> ExitCode:
        if not alone:
            (root / "logs").mkdir(exist_ok=True)
        _write_manifest(root, jobs, folders, launcher, source)
        return _run_left(root, made, left, launcher)

    return attempt(root, run)


def _run_left(root: Path, made: list[Job], left: list[Job], launcher: LauncherConfig) -> ExitCode:
    """Runs the jobs that are not finished yet."""
    if len(left) < len(made):
        print(f"sweep: {len(made) - len(left)} of {len(made)} jobs are finished already")
    for job in left:
        wait_until_free(job.folder)
    return _launch(root, made, left, launcher)


def with_shared_store(
    job: Sequence[str], config: RunConfig, root: Path
) -> tuple[list[str], list[str]]:
    """Gives a run what the runs of its sweep share, such as a store of candidates.

    Returns:
      The overrides that are left, and those that are added.
    """
    shared = config.shared(root)
    kept = [text for text in job if text.partition("=")[0] not in shared]
    return kept, [f"{name}={quoted(value)}" for name, value in shared.items()]


def job_name(number: int, job: Sequence[str], swept: Sequence[str]) -> str:
    """Names a job's folder by its place and its settings: 003_seed-1_selection-top_k.

    The name needs no quotes in a shell nor as the value of `output_dir=`.
    """
    text = "_".join(text for text in job if text.partition("=")[0] in swept).replace("=", "-")
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text)
    return f"{number:03d}_{safe}"[:_MAX_JOB_NAME]


def _launch(root: Path, all_jobs: list[Job], left: list[Job], launcher: LauncherConfig) -> ExitCode:
    total, failed = len(all_jobs), []
    if launcher.name == "basic":  # one at a time: what each prints is under its name
        outcomes = (found for job in left for found in _announced(job, total, launcher))
    else:
        print(f"sweep: {len(left)} jobs by {launcher.name}; {root}", flush=True)
        outcomes = launch(left, launcher)
    for found in outcomes:
        name = f"job {found.job.number + 1} of {total}"
        if found.code:
            failed.append(found)
            again = f" after {found.attempts} attempts" if found.attempts > 1 else ""
            text = f"rsft: error: {name}: {describe(found.code)}{again}; {found.job.folder}"
            print(text, file=sys.stderr, flush=True)
        else:
            print(f"{name}: done in {found.seconds:.1f} s: {found.job.label}", flush=True)
    print(f"sweep: {total - len(failed)} of {total} jobs done; {root}")
    for found in failed:
        print(f"  failed, {describe(found.code)}: {found.job.folder}")
    if failed:
        print("  run the same command with resume=true to go on with them")
    return ExitCode.FAILED if failed else ExitCode.OK


def _announced(job: Job, total: int, launcher: LauncherConfig):
    print(f"job {job.number + 1} of {total}: {job.label}", flush=True)
    yield from launch([job], launcher)


def _check_same(root: Path, jobs: list[list[str]], source: Path | None) -> None:
    """Refuses to go on with another sweep than the one in the folder."""
    path = root / "sweep.json"
    if not path.is_file():
        return
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        old, old_source = [job["overrides"] for job in listed["jobs"]], listed.get("from")
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: is not readable as the list of a sweep's jobs") from None
    new = [without_output(job) for job in jobs]
    if [without_output(job) for job in old] != new:
        raise ConfigError(
            f"output_dir: {shown(str(root))}; holds another sweep ({len(old)} jobs, "
            f"{' '.join(old[0])[:80]} ...), choose another folder"
        )
    if old_source != _source_text(source):
        raise ConfigError(
            f"--from: {shown(_source_text(source))}; the sweep in {shown(str(root))} is from "
            f"{shown(old_source)}, choose another folder"
        )


def _source_text(source: Path | None) -> str | None:
    return None if source is None else str(source.resolve())


def _write_manifest(
    root: Path,
    jobs: list[list[str]],
    folders: list[Path],
    launcher: LauncherConfig,
    source: Path | None,
) -> None:
    listed = [
        {"folder": folder.name, "overrides": without_output(job)}
        for job, folder in zip(jobs, folders)
    ]
    facts = {"launcher": to_dict(launcher), "from": _source_text(source), "jobs": listed}
    text = json.dumps(facts, indent=2) + "\n"
    write_whole(root / "sweep.json", text)
