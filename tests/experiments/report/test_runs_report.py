"""The report of several runs: its ranking, its words, what each figure shows, its page."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from rsft_jax.experiments.report import write_runs_report
from rsft_jax.experiments.report.run.differences import new_words
from rsft_jax.experiments.report.runs.expected import gaussian_rate, predicted_rate
from rsft_jax.experiments.report.runs.page import headline
from rsft_jax.experiments.report.runs.summary import summarise
from rsft_jax.experiments.runs.folder import find_runs
from rsft_jax.experiments.settings import schema
from rsft_jax.experiments.settings.typed import build as typed
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.selection import Candidates
from tests.experiments.browser import CHROMIUM, look_at
from tests.experiments.report.test_report import Page
from tests.experiments.synthetic_run import NASTY, write_synthetic_gaussian, write_synthetic_run

FIGURES = {
    "leaderboard", "parallel-coordinates", "score-against-kl", "score-against-cost",
    "acceptance", "acceptance-curve", "diversity",
}  # fmt: skip


def change(folder, **settings):
    """Changes settings in a run's config.yaml, by their dotted names."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for name, value in settings.items():
        *parents, leaf = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    path.write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Four runs of two betas and two seeds; the larger beta gains more."""
    root = tmp_path_factory.mktemp("sweep")
    for number, (beta, seed) in enumerate([(0.3, 0), (0.3, 1), (1.0, 0), (1.0, 1)]):
        folder = write_synthetic_run(
            root / f"{number:03d}", seed=10 * number, rounds=2, num_prompts=8, num_heldout=24,
            gain=0.05 if beta == 0.3 else 0.3,
        )  # fmt: skip
        change(folder, seed=seed, selection__beta=beta, training__part__rank=[4, 8][number % 2])
    return root


@pytest.fixture(scope="module")
def page(sweep):
    return Page(write_runs_report(find_runs([sweep]), sweep).read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_page_has_every_figure_and_each_as_png_and_csv(sweep, page):
    assert page.figures == FIGURES
    for name in FIGURES:
        assert (sweep / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert rows(sweep / "figures" / f"{name}.csv")
    assert {p.stem for p in (sweep / "figures").iterdir()} == FIGURES


def test_page_asks_for_nothing_from_elsewhere_and_ids_are_unique(page):
    assert not {"script", "img", "link", "iframe", "object", "embed"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ("href", "xlink:href", "src", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert len(page.ids) == len(set(page.ids))


def test_leaderboard_ranks_by_the_last_score_and_shows_the_control(sweep, page):
    head, *found = page.tables["leaderboard"]
    assert head[:4] == ["", "beta", "rank", "seed"]
    assert [row[1] for row in found] == ["1", "1", "0.3", "0.3"]
    for row, line in zip(found, rows(sweep / "figures" / "leaderboard.csv")):
        events = [json.loads(e) for e in (sweep / line["run"] / "metrics.jsonl").open()]
        last = [e for e in events if e["event"] == "evaluation" and e["arm"] == "policy"][-1]
        assert float(line["reward"]) == last["reward_mean"]
        assert row[4].startswith(f"{last['reward_mean']:.3f} [")
        assert row[7] == ("better" if float(line["gain_over_control_low"]) > 0 else "undecided")
    assert "picked by the same held-out data" in page.text


def test_seeds_table_has_mean_and_ends(sweep, page, tmp_path):
    assert "seeds" not in page.tables  # each rank has one seed
    root = shutil.copytree(sweep, tmp_path / "sweep")
    for folder in root.glob("0*"):
        change(folder, training__part__rank=8)
    page = Page(write_runs_report(find_runs([root]), tmp_path).read_text(encoding="utf-8"))
    _, *found = page.tables["seeds"]
    assert [row[:2] for row in found] == [["beta=1", "2"], ["beta=0.3", "2"]]
    scores = [float(r["reward"]) for r in rows(tmp_path / "figures" / "leaderboard.csv")]
    assert found[0][2:4] == [f"{np.mean(scores[:2]):.3f}", f"{scores[1]:.3f} to {scores[0]:.3f}"]


def test_curves_are_drawn_at_the_numbers_of_the_metrics(sweep, page):
    lines = rows(sweep / "figures" / "score-against-kl.csv")
    events = [json.loads(e) for e in (sweep / "000" / "metrics.jsonl").open()]
    wanted = [
        (e["kl_mean"], e["reward_mean"])
        for e in events
        if e["event"] == "evaluation" and e["arm"] == "policy"
    ]
    title = "mean reward, held-out prompts"
    found = [
        (float(r["KL to the start, nats per completion"]), float(r[title]))
        for r in lines
        if r["run"] == "000" and r["panel"] == title
    ]
    assert found == wanted
    cost = [
        float(r["tokens drawn to train on"])
        for r in rows(sweep / "figures" / "score-against-cost.csv")
        if r["run"] == "000" and r["tokens drawn to train on"]
    ]
    drawn = [
        e["generated_tokens"] for e in events if e["event"] == "round" and e["arm"] == "policy"
    ]
    assert cost == [0.0, *np.cumsum(drawn)]


def test_samples_stand_side_by_side_with_their_new_words_marked(sweep, page):
    assert page.text.count("before training") >= 6
    assert page.tags.count("mark") > 6
    assert "".join(NASTY.split()) in "".join(page.text.split())


@pytest.mark.parametrize(
    "selection",
    [
        {"rule": "statistical_rejection", "beta": 0.4, "max_reward": None, "budget": 2},
        {"rule": "statistical_rejection", "beta": 0.4, "max_reward": 1.0, "budget": None},
        {"rule": "threshold", "minimum": 0.2, "budget": 1},
        {"rule": "threshold", "minimum": 0.2, "budget": None},
        {"rule": "top_k", "k": 2},
        {"rule": "best_of_n"},
    ],
)
def test_expected_acceptance_is_the_mean_over_the_coins_of_the_rule(selection):
    rewards = np.random.default_rng(0).uniform(-1, 1, (6, 5)).astype(np.float32)
    rewards[2, 3] = np.nan
    rule = typed(schema.SelectionConfig, selection, "selection").whole()
    candidates = Candidates(rewards=rewards, valid=np.isfinite(rewards))
    keys = jax.random.split(jax.random.key(0), 4000)
    accepted = jax.jit(jax.vmap(lambda key: rule.select(key, candidates).accepted.sum()))(keys)
    rate = np.asarray(accepted) / np.isfinite(rewards).sum()
    gap = abs(rate.mean() - predicted_rate(rewards, selection))
    assert gap <= 5 * rate.std() / np.sqrt(len(keys)) + 1e-6


def test_expected_acceptance_counts_the_budget():
    """Two certain candidates and a budget of one: half are accepted, not all."""
    rule = {"rule": "threshold", "minimum": 0.0, "budget": 1}
    assert predicted_rate(np.ones((3, 2)), rule) == 0.5
    assert np.isnan(predicted_rate(np.ones((3, 2)), {"rule": "unknown"}))
    assert np.isnan(predicted_rate(np.full((1, 1), np.nan), rule))


@pytest.mark.parametrize(
    "selection",
    [
        {"rule": "own", "function": "os.system", "options": {}, "budget": None},  # is never called
        {"rule": "statistical_rejection", "beta": 0.4},  # not whole
        {"rule": "top_k", "k": 3},  # of two candidates
        {},
    ],
)
def test_rule_that_cannot_be_asked_has_no_expected_acceptance(selection):
    assert np.isnan(predicted_rate(np.ones((3, 2)), selection))


def test_exact_rate_is_one_over_m_and_unknown_of_half_a_problem():
    problem = {"num_inputs": 10, "mean": 1.0, "deviation": 0.75, "curvature": 1.0, "noise": 0.1}
    z = np.linspace(-20, 20, 400_001)
    ratio = np.exp(z**2 / 2 - ((z - 1.0) / 0.75) ** 2 / 2) / 0.75
    assert gaussian_rate(problem) == pytest.approx(1 / ratio.max())
    assert np.isnan(gaussian_rate({"mean": 1.0}))


def test_acceptance_curve_passes_through_what_each_run_expects(sweep, page):
    lines = rows(sweep / "figures" / "acceptance-curve.csv")
    curve = [(float(r["selection.beta"]), float(r["acceptance"])) for r in lines if not r["run"]]
    assert len(curve) == 80
    assert np.all(np.diff([y for _, y in curve]) > 0)  # a larger beta accepts more
    runs = summarise(find_runs([sweep]))
    expected = [r.predicted for r in runs.runs if r.settings["selection.beta"] == 0.3]
    at = np.interp(np.log(0.3), np.log([x for x, _ in curve]), [y for _, y in curve])
    assert min(expected) - 0.1 < at < max(expected) + 0.1


def test_gaussian_runs_are_held_against_the_exact_rate(tmp_path):
    for number, mean in enumerate([0.5, 1.0]):
        folder = write_synthetic_gaussian(tmp_path / f"{number}", seed=number)
        change(folder, problem__mean=mean)
    page = Page(write_runs_report(find_runs([tmp_path]), tmp_path).read_text(encoding="utf-8"))
    assert page.figures == {"leaderboard", "score-against-cost", "acceptance", "acceptance-curve"}
    lines = rows(tmp_path / "figures" / "acceptance.csv")
    for line in lines:
        mean = float(line["problem.mean"])
        exact = 0.6 * np.exp(-(mean**2) / (2 * (1 - 0.6**2)))
        assert float(line["expected"]) == pytest.approx(exact)
    assert "differ in problem.mean" in page.text


def test_run_without_results_takes_part_with_what_it_has(sweep, tmp_path):
    root = shutil.copytree(sweep, tmp_path / "sweep")
    (root / "002" / "metrics.jsonl").write_text("")
    (root / "002" / "run.json").write_text('{"status": "failed", "kind": "language"}')
    runs = summarise(find_runs([root]))
    assert [run.name for run in runs.runs][-1] == "002"
    page = Page(write_runs_report(find_runs([root]), root).read_text(encoding="utf-8"))
    assert "1 failed" in page.text
    assert [row[-1] for row in page.tables["leaderboard"][1:]].count("failed") == 1


def test_headline_does_not_claim_what_no_interval_shows(sweep, tmp_path):
    root = shutil.copytree(sweep, tmp_path / "sweep")
    for folder in root.glob("0*"):
        for name in ("rollouts", "evaluations"):
            for path in (folder / name).glob("*control*"):
                path.unlink()
        events = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        kept = [e for e in events if e["arm"] != "control"]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in kept))
    found = headline(summarise(find_runs([root])))
    assert found.tone == "open"
    assert "No run has a control" in found.sentences[1]


def test_runs_that_cannot_be_compared_are_refused_and_nothing_is_written(sweep, tmp_path):
    gaussian = write_synthetic_gaussian(tmp_path / "gaussian")
    output = tmp_path / "output"
    with pytest.raises(ConfigError, match="have no figure in common"):
        write_runs_report([sweep / "000", gaussian], output)
    with pytest.raises(ConfigError, match="needs two runs"):
        write_runs_report([gaussian], output)
    assert not output.exists()


def test_runs_are_found_below_a_folder_once_and_links_are_not_followed(sweep, tmp_path):
    (tmp_path / "link").symlink_to(sweep)
    assert find_runs([sweep, sweep / "001"]) == [sweep / f"{n:03d}" for n in range(4)]
    with pytest.raises(ConfigError, match="holds none"):
        find_runs([tmp_path])
    with pytest.raises(ConfigError, match="is not a folder"):
        find_runs([tmp_path / "none"])


def test_new_words_keeps_the_text_whole():
    text, other = "She saw  a red, red rose.\n", "She saw a rose."
    pieces = new_words(text, other)
    assert "".join(piece.text for piece in pieces) == text
    assert "red" in "".join(piece.text for piece in pieces if piece.new)
    assert all(not piece.new for piece in new_words(text, text))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [375, 1280])
def test_page_fits_its_width_in_a_browser_without_an_error(sweep, page, tmp_path, width):
    found = look_at(sweep / "report.html", width, tmp_path)
    assert found["errors"] == []
    assert found["figures"] == len(FIGURES)
    assert found["scroll"] <= found["inner"] <= width
    assert found["smallest"] > 150
    assert found["letters"] > 8  # pixels: words in figures can be read
