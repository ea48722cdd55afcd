"""rsft rescore FOLDER [reward.FIELD=VALUE]: scores old candidates by another reward."""

from pathlib import Path

from ..settings.schema import LanguageConfig, RewardConfig
from ..settings.typed import build
from ..terminal.errors import ExitCode
from ..terminal.parser import Parser
from ._stored_candidates import composed, groups_of, run_of, split_allowed

_COLUMNS = (
    *("part", "candidates", "unscored", "reward before", "after", "correlation"),
    *("judge", "unjudged"),
)


def command(arguments: list[str]) -> ExitCode:
    """Writes a store with the same candidates and another reward, kept beside the first."""
    from ..language.candidates import ENDED_EARLY
    from ..language.reselect import rescore
    from ..terminal.console import Console

    parser = Parser(
        prog="rsft rescore",
        description="score stored candidates by another reward; writes FOLDER/rescored/VERSION, "
        "a store that reselect and candidates= can read",
        epilog="examples:\n"
        "  rsft rescore FOLDER reward.length.weight=-1.0 reward.length.min_words=40",
    )
    parser.add_argument("folder", type=Path, help="the folder of a run, or a store")
    parser.add_argument("overrides", nargs="*", metavar="reward.FIELD=VALUE", help="the reward")
    parser.add_config_dir()
    parsed = parser.parse_intermixed_args(arguments)
    run = run_of(parsed.folder)
    overrides, allowed = split_allowed(parsed.overrides)
    reward = _reward(overrides, parsed.config_dir, run)
    console = Console()
    if run is not None and run.sampling.early_stop:
        console.say(ENDED_EARLY)
    path, rows, problems = rescore(parsed.folder, reward, run, allowed)
    for problem in problems:
        console.say(f"left out: {problem}")
    console.table(f"{parsed.folder}: scored again", _COLUMNS, rows)
    console.say(f"store: {path}")
    return ExitCode.OK


def _reward(
    overrides: list[str], config_dir: Path | None, run: LanguageConfig | None
) -> RewardConfig:
    groups_of(overrides, ("reward",))
    data = composed(overrides, config_dir, run)
    reward: RewardConfig = build(RewardConfig, data["reward"], "reward")
    reward.check()
    return reward
