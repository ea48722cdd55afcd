"""Composition, typing and ranges of settings, and sweeps; every error is one line."""

import dataclasses

import pytest

from rsft_jax.experiments.settings.axes import expand_sweep
from rsft_jax.experiments.settings.compose import compose, from_dict, load_config
from rsft_jax.experiments.settings.groups import COMMAND_OF, GROUPS, group_options
from rsft_jax.experiments.settings.paths import absolute
from rsft_jax.experiments.settings.rules.best_of_n import BestOfN
from rsft_jax.experiments.settings.rules.top_k import TopK
from rsft_jax.experiments.settings.schema import GaussianConfig, LanguageConfig, Lora
from rsft_jax.experiments.settings.stored import differences, read_config, save_config
from rsft_jax.experiments.settings.typed import build, field_paths, to_dict
from rsft_jax.experiments.terminal.errors import ConfigError


def refusal(overrides, config_dir=None):
    """Returns the error of settings that must be refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, config_dir)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", group_options()["experiment"])
def test_every_experiment_composes_and_opens_with_its_purpose(name):
    config = load_config([f"experiment={name}"])
    assert config.name == name
    from importlib import resources

    text = (resources.files("rsft_jax.configs") / "experiment" / f"{name}.yaml").read_text()
    for heading in ("# What it shows:", "# Command:", "# Time:"):
        assert heading in text


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g in GROUPS if g not in ("experiment", *COMMAND_OF) for o in group_options()[g]],
)
def test_every_option_of_every_group_composes(group, option):
    overrides = [f"{group}={option}"]
    if option in ("local", "jsonl"):  # the two whose path is the user's to give
        assert "path: missing" in refusal(overrides)
        overrides.append(f"{group}.path=somewhere")
    if option == "learned":
        assert "reward.learned.path: missing" in refusal(overrides)
        overrides.append(f"{group}.learned.path=somewhere")
    if option == "endpoint":
        assert "base_url: missing" in refusal(overrides)
        overrides += [f"{group}.base_url=http://127.0.0.1/v1", f"{group}.model=m"]
    if option == "balanced":
        assert "by: missing" in refusal(overrides)
        assert "inner: missing" in refusal([*overrides, f"{group}.by=level"])
        inner = "{rule: threshold, minimum: 0.5, budget: 2}"
        overrides += [f"{group}.by=level", f"{group}.inner={inner}"]
    if option == "chain":
        assert "stages: missing" in refusal(overrides)
        overrides.append(f"{group}.stages=[finished,unique]")
    if option == "rising_threshold":
        assert "minimums: missing" in refusal(overrides)
        overrides.append(f"{group}.minimums=[0.1,0.2]")
    if option == "own":
        assert "function: missing" in refusal(overrides)
        overrides += [f"{group}.function=mylab.own.make", "allow_packages=[mylab]"]
    assert isinstance(load_config(overrides), LanguageConfig)


def test_group_choice_brings_the_fields_of_its_class():
    config = load_config(["selection=top_k", "selection.k=3", "training/part=lora"])
    assert config.selection == TopK(rule="top_k", k=3)
    assert isinstance(config.training.part, Lora)
    assert load_config(["selection=best_of_n"]).selection == BestOfN(rule="best_of_n")


def test_values_take_the_type_of_their_field():
    config = load_config(["training.learning_rate=1e-5", "data.path='a, b=c'", "reward.length=1"])
    assert config.training.learning_rate == 1e-5
    assert config.data.path == "a, b=c"
    weight = config.reward.terms["length"].weight
    assert (weight, type(weight)) == (-1.0, float)
    assert config.training.part.targets == ("all",)  # a tuple, so the config stays frozen
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


def test_config_survives_a_round_trip_through_yaml(tmp_path):
    for name in group_options()["experiment"]:
        folder = tmp_path / "odd: name"
        folder.mkdir(exist_ok=True)
        config = load_config([f"experiment={name}", "seed=7", f"output_dir='{folder}'"])
        save_config(config, folder / "config.yaml")
        stored = from_dict(absolute(to_dict(config)))  # a relative path is kept absolute
        assert read_config(folder / "config.yaml") == stored
        assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["training.learning_rat=1"], ["training.learning_rat:", "mean training.learning_rate?"]),
        (["learning_rate=1"], ["learning_rate: unknown", "did you mean training.learning_rate?"]),
        (["sed=1"], ["sed: unknown field", "did you mean seed?"]),
        (
            ["selection=top_k", "selection.beta=1"],
            ["selection.beta: unknown", "known here: rule, k"],
        ),
        (["training.learning_rate=abc"], ["training.learning_rate: 'abc' is not a number"]),
        (["training.epochs=1.5"], ["training.epochs: 1.5 is not an integer"]),
        (["seed=true"], ["seed: true is not an integer"]),
        (["seed=null"], ["seed: null is not an integer"]),
        (["control=1"], ["control: 1 is not true or false"]),
        (["control=null"], ["control: null is not true or false"]),
        (["policy.dtype=fp8"], ["policy.dtype: 'fp8' is not one of float32, bfloat16"]),
        (["training.part.targets=query"], ["training.part.targets: 'query' is not a list"]),
        (["training.part.targets=[query,foo]"], ["training.part.targets[1]: 'foo' is not one of"]),
        (["selection=topk"], ["selection: 'topk' is not one of", "did you mean top_k?"]),
        (["experiment=storis"], ["experiment: 'storis'", "did you mean stories?"]),
        (
            ["reward=null"],
            ["reward: null is not one of answer, gym_answer, learned, liked, math_answer, safety"],
        ),
        (["sampling=3"], ["sampling: 3 is not one of default"]),
        (["policy=local"], ["policy.path: missing", "policy.path=VALUE"]),
        (["data.banned=never", "training.clip_ratio=0.2"], ["data.banned: 'never'", "clip_ratio"]),
        (["data.banned=never", "candidates=."], ["data.banned: 'never'", "null with candidates"]),
        (
            [
                "data.banned=never",
                "selection=top_k",
                "proposal=endpoint",
                "proposal.model=m",
                "proposal.base_url=http://h",
            ],
            ["data.banned: 'never'", "which knows no tokens"],
        ),
        (["experiment=gaussian", "selection=top_k"], ["selection: this experiment has no such"]),
        (["selection.rule=top_k"], ["selection.rule: 'top_k'", "choose it with selection=top_k"]),
        (["training.part=all"], ["training.part: 'all'", "training/part=NAME"]),
        (["seed.x=1"], ["seed.x: seed is a single value"]),
        (["+algo.new=1"], ["+algo.new: fields can be neither added nor removed"]),
        (["++seed=1"], ["++seed: fields can be neither added nor removed"]),
        (["~reward"], ["~reward: fields can be neither added nor removed"]),
        (["stories"], ["'stories': is not key=value; did you mean experiment=stories?"]),
        (["=3"], ["'=3': is not key=value"]),
        (["data.path=[a"], ["data.path: cannot read '[a'"]),
        (["hydra.verbose=true"], ["hydra.verbose:", "not used"]),
        (["hydra/launcher=joblib"], ["hydra/launcher:", "not used"]),
        (["seed=0", "seed=1"], ["seed: given twice"]),
        (["seed=0,1"], ["seed: '0,1' is a sweep; add -m"]),
    ],
)
def test_malformed_settings_are_refused_with_field_value_and_remedy(overrides, parts):
    text = refusal(overrides)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("training.learning_rate=-1", "above 0"),
        ("training.learning_rate=nan", "above 0"),
        ("training.learning_rate=inf", "finite"),
        ("training.warmup_steps=-1", "at least 0"),
        ("training.epochs=0", "at least 1"),
        ("training.batch_size=0", "at least 1"),
        ("training.clip_norm=0", "above 0"),
        ("training.weight_decay=-0.1", "at least 0"),
        ("training.part.rank=0", "at least 1"),
        ("training.part.alpha=0", "above 0"),
        ("training.part.targets=[]", "at least one"),
        ("training.part.targets=[up,up]", "each once"),
        ("sampling.num_candidates=0", "at least 1"),
        ("sampling.max_new_tokens=-5", "at least 1"),
        ("sampling.temperature=-0.1", "at least 0"),
        ("sampling.temperature=nan", "at least 0"),
        ("sampling.top_k=-1", "at least 0"),
        ("sampling.top_p=0", "above 0 and at most 1"),
        ("sampling.top_p=1.1", "above 0 and at most 1"),
        ("sampling.min_p=1.1", "from 0 to 1"),
        ("sampling.batch_size=0", "at least 1"),
        ("selection.beta=0", "above 0"),
        ("selection.beta=nan", "above 0"),
        ("selection.budget=0", "from 1 to sampling.num_candidates = 8"),
        ("selection.budget=9", "from 1 to sampling.num_candidates = 8"),
        ("selection.max_reward=nan", "finite"),
        ("reward.offensive=-1", "at least 0"),
        ("reward.length.max_words=3", "at least reward.length.min_words = 20"),
        ("rounds.num_rounds=0", "at least 1"),
        ("rounds.prompts_per_round=0", "at least 1"),
        ("evaluation.num_prompts=0", "at least 1"),
        ("evaluation.confidence=1", "between 0 and 1"),
        ("checkpoint.keep=0", "at least 1"),
        ("data.heldout_split=train", "another split"),
        ("data.max_train_prompts=0", "at least 1"),
        ("seed=-1", "from 0 to 4294967295"),
        ("seed=4294967296", "from 0 to 4294967295"),
        ("output_dir=''", "the path of a folder"),
        ("name=../x", "letters, digits"),
        ("name=/x", "letters, digits"),
        ("name=a/b", "letters, digits"),
        ("name=-rf", "letters, digits"),
        ("name=..", "letters, digits"),
        (f"name={'a' * 300}", "letters, digits"),
        ("name='\N{PILE OF POO}'", "letters, digits"),
        ("name='a\0b'", "letters, digits"),
    ],
)
def test_value_outside_its_range_is_refused(override, allowed):
    text = refusal([override])
    assert text.startswith(override.partition("=")[0] + ":")
    assert allowed in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["selection=top_k", "selection.k=9"], "selection.k: 9"),
        (["selection=random_control", "selection.k=0"], "selection.k: 0"),
        (["selection=threshold", "selection.minimum=nan"], "selection.minimum: nan"),
        (["training/part=last_layers", "training.part.num_layers=0"], "training.part.num_layers"),
        (["policy.path=x"], "policy.path: 'x' with policy.asset"),
        (["policy.asset=null"], "policy.path: null with policy.asset: null"),
        (["experiment=gaussian", "problem.deviation=1"], "problem.deviation: 1.0"),
        (["experiment=gaussian", "problem.num_inputs=1"], "problem.num_inputs: 1"),
        (["experiment=gaussian", "law.num_samples=100"], "law.num_samples: 100"),
        (["experiment=gaussian", "training.learning_rate=0"], "training.learning_rate: 0.0"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(overrides, field):
    assert refusal(overrides).startswith(field)


@pytest.mark.parametrize(
    "override",
    [
        "data.path=${oc.env:HOME}",
        "data.path=${oc.env:HOME,x}",
        "data.path='a ${oc.create:1}'",
        "training.part.targets=['${oc.env:HOME}']",
        "_target_=os.system",
        "policy._target_=posix.system",
        "policy={_target_: os.system}",
    ],
)
def test_settings_that_reach_out_are_refused(override):
    assert "not allowed" in refusal([override])


def test_field_may_refer_to_another_but_not_in_a_circle():
    config = load_config(["evaluation.num_candidates=${sampling.num_candidates}"])
    assert config.evaluation.num_candidates == 8
    text = refusal(
        ["training.epochs=${training.batch_size}", "training.batch_size=${training.epochs}"]
    )
    assert "training" in text


def test_own_folder_adds_options_and_experiments(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "calm.yaml").write_text(
        "defaults: [sentiment, _self_]\nsentiment: 0.5\n"
    )
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [stories, override /selection: top_k, override /reward: calm, _self_]\n"
        "name: mine\nselection: {k: 4}\n"
    )
    config = load_config(["experiment=mine", "seed=3"], tmp_path)
    assert (config.name, config.seed, config.reward.terms["sentiment"].weight) == ("mine", 3, 0.5)
    assert config.selection == TopK(rule="top_k", k=4)
    assert "reward: 'calm'" in refusal(["reward=calm"])  # not there without the folder


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sentiment: 1\nsentiment: 2\n", "duplicate"),
        ("a: !!python/object/apply:os.system ['false']\n", "tag"),
        ("a: &a [1, 1]\nb: [*a, *a]\n", "aliases"),
        ("a: [1\n", "mine.yaml"),
        ("\x00\x01", "mine.yaml"),
        ("sentiment: ${oc.env:HOME}\n", "not allowed"),
        ("sentimen: 1.0\n", "did you mean reward.sentiment?"),
        ("- a\n", ""),
        ("", "reward"),
        ("a: " + "x" * 1_100_000, "larger than"),
        ("defaults: [nothing_here]\n", "nothing_here"),
    ],
)
def test_bad_yaml_in_the_own_folder_is_refused(tmp_path, text, part):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text(text)
    assert part in refusal(["reward=mine"], tmp_path)


def test_own_folder_must_exist_and_not_hide_shipped_options(tmp_path):
    assert "is not a folder" in refusal([], tmp_path / "none")
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "sentiment.yaml").write_text("sentiment: 0\n")
    assert "name yours otherwise" in refusal([], tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "kind: missing"), ("[1]", "mapping"), ("\x00", "config.yaml"), ("kind: x", "kind: 'x'")],
)
def test_stored_config_that_is_damaged_is_refused(tmp_path, text, part):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
        read_config(tmp_path / "config.yaml")
    assert part in str(caught.value)


def test_sweep_is_the_product_of_its_axes_in_order():
    jobs = expand_sweep(["seed=range(2)", "selection=best_of_n,top_k", "control=false"])
    assert jobs == [
        ["seed=0", "selection=best_of_n", "control=false"],
        ["seed=0", "selection=top_k", "control=false"],
        ["seed=1", "selection=best_of_n", "control=false"],
        ["seed=1", "selection=top_k", "control=false"],
    ]


def test_sweep_reads_choices_and_globs_and_drops_equal_jobs():
    assert expand_sweep(["seed=choice(1,1,2)"]) == [["seed=1"], ["seed=2"]]
    swept = expand_sweep(["selection=glob([random_*,top_*],exclude=*_fraction)"])
    assert swept == [["selection=random_control"], ["selection=top_k"]]
    assert expand_sweep(["training.learning_rate=1e-5,1e-4"])[1] == [
        "training.learning_rate=0.0001"
    ]


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["seed=0"], "nothing to sweep"),
        (["seed=range(0)"], "seed: the sweep is empty"),
        (["selection=glob(nothing*)"], "selection: the sweep is empty"),
        (["seed=range(1000000000)"], "sweep: at least 1000000000 jobs"),
        (["seed=range(100)", "rounds.num_rounds=range(1,100)"], "sweep: at least 9900 jobs"),
        (["seed=interval(0,1)"], "seed: an interval"),
        (["seed=glob(*)"], "seed: glob() is for groups"),
        (["output_dir=a,b"], "output_dir: cannot be swept"),
    ],
)
def test_sweep_that_cannot_be_run_is_refused(overrides, part):
    with pytest.raises(ConfigError) as caught:
        expand_sweep(overrides)
    assert part in str(caught.value)


def test_differences_name_the_fields_that_changed():
    old = load_config(["experiment=gaussian"])
    new = load_config(["experiment=gaussian", "seed=1", "problem.mean=2.0"])
    assert differences(old, new) == ["seed: 0 -> 1", "problem.mean: 1.0 -> 2.0"]
    assert differences(old, old) == []


def test_every_field_of_the_gaussian_experiment_is_stated_in_yaml():
    data = compose(["experiment=gaussian"])
    stated = {
        f"{group}.{name}"
        for group, values in data.items()
        if isinstance(values, dict)
        for name in values
    }
    stated |= {name for name, value in data.items() if not isinstance(value, dict)}
    fields = set(field_paths(GaussianConfig))
    assert stated == {name for name in fields if not name.startswith("tracker.")} | {"tracker.name"}


def test_build_refuses_an_integer_too_large_for_a_float():
    with pytest.raises(ConfigError, match=r"x: .* is too large"):
        build(float, 10**400, "x")


def test_a_configuration_from_before_a_setting_has_it_switched_off(tmp_path):
    config = load_config(["experiment=smoke", "sampling.temperature=0.7", f"output_dir={tmp_path}"])
    save_config(config, tmp_path / "config.yaml")
    lines = (tmp_path / "config.yaml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "early_stop" not in line and "replay_fraction" not in line]
    assert len(kept) == len(lines) - 2
    (tmp_path / "config.yaml").write_text("".join(kept))
    assert read_config(tmp_path / "config.yaml") == config
    (tmp_path / "config.yaml").write_text("".join(k for k in kept if "temperature" not in k))
    assert read_config(tmp_path / "config.yaml").sampling.temperature == 1.0
