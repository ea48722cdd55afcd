"""The report of a run: its numbers, its words, what it leaves out, and what no page may do."""

import functools
import html
import html.parser
import json
import math
import re
import shutil

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from rsft_jax.experiments.kinds.language import report
from rsft_jax.experiments.language.coins import coins_of
from rsft_jax.experiments.report import write_report
from rsft_jax.experiments.report.comparisons import compare, headline
from rsft_jax.experiments.report.load import load_run
from rsft_jax.experiments.report.run import figures
from rsft_jax.experiments.report.run.samples import candidate_tables, without_template
from rsft_jax.experiments.report.run.slice_tables import (
    heldout_slices_table,
    selection_slices_table,
)
from rsft_jax.experiments.report.run.tables import rounds_table, speed_table
from rsft_jax.experiments.report.text import interval, number, percent, signed
from rsft_jax.metrics import paired_difference_interval
from rsft_jax.rollouts import read_rollouts, write_rollouts
from tests.experiments.browser import CHROMIUM, look_at
from tests.experiments.stored_run import write_stored_run
from tests.experiments.synthetic_run import NASTY, write_synthetic_gaussian, write_synthetic_run

LANGUAGE_FIGURES = {
    "effects", "reward-by-round", "judge-by-round", "reward-against-kl", "reward-histograms",
    "accepted-by-reward", "acceptance", "diversity", "kl-by-round", "seconds-by-stage",
    "tokens-by-round",
}  # fmt: skip
GAUSSIAN_FIGURES = {
    "densities", "relative-to-target", "distances", "acceptance", "loss-target", "loss-train",
}  # fmt: skip


class Page(html.parser.HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.labels = [], [], [], {}
        self.tables, self._cell, self._open, self.words = {}, None, None, []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    @property
    def figures(self):
        return {i.removeprefix("figure-") for i in self.ids if re.fullmatch("figure-[a-z-]+", i)}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if "id" in attributes:
            self.ids.append(attributes["id"])
            if attributes["id"].startswith("table-"):
                self._open = self.tables.setdefault(attributes["id"].removeprefix("table-"), [])
            if attributes["id"].startswith("figure-") and tag == "figure":
                self._figure = attributes["id"].removeprefix("figure-")
        if tag == "svg":
            self.labels[self._figure] = attributes["aria-label"]
        if tag == "tr" and self._open is not None:
            self._open.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            if self._open:
                self._open[-1].append("".join(self._cell).strip())
            self._cell = None
        if tag == "table":
            self._open = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)


def _page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def _headline(folder):
    run = load_run(folder)
    return headline(run, compare(run))


def _events(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_synthetic_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run):
    return _page(run)


def test_report_has_every_figure_on_the_page_and_as_png(run, page):
    assert page.figures == LANGUAGE_FIGURES
    assert set(page.labels) == LANGUAGE_FIGURES
    images = {path.stem: path.read_bytes() for path in (run / "figures").glob("*.png")}
    assert set(images) == LANGUAGE_FIGURES
    tables = {path.stem: path.read_text() for path in (run / "figures").glob("*.csv")}
    assert set(tables) == LANGUAGE_FIGURES
    assert all(table.count("\n") > 1 for table in tables.values())
    assert all(image.startswith(b"\x89PNG") for image in images.values())
    assert (run / "report.html").stat().st_size < 3_000_000


def test_report_asks_for_nothing_from_elsewhere(run, page):
    assert not {"script", "img", "link", "iframe", "object", "embed", "image"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ("href", "xlink:href", "src", "srcset", "data", "action", "poster"):
            assert value.startswith("#"), (tag, name, value)
        assert not name.startswith(("on", "xmlns")), (tag, name)
    text = (run / "report.html").read_text()
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_report_ids_are_unique_and_every_reference_has_its_target(run, page):
    assert len(page.ids) == len(set(page.ids))
    wanted = {value[1:] for _, name, value in page.attributes if name == "href"}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", (run / "report.html").read_text()))
    assert wanted <= set(page.ids)


def test_model_text_is_shown_and_never_markup(page):
    assert "".join(NASTY.split()) in "".join(page.text.split())
    assert "alert" not in "".join(value for _, _, value in page.attributes)


def test_evaluation_table_has_the_numbers_of_the_metrics(run, page):
    rows = {(row[0], row[1]): row for row in page.tables["evaluations"][1:]}
    events = _events(run, "evaluation")
    assert len(rows) == len(events) == 7
    for e in events:
        row = rows[str(e["round"]), e["arm"] if e["round"] else "base"]
        for cell, name in zip(row[2:5], ("reward", "judge", "kl")):
            ends = interval(e[f"{name}_low"], e[f"{name}_high"])
            assert cell == f"{number(e[f'{name}_mean'])} {ends}"
        assert row[5] == number(e["distinct_1"])
        assert row[8] == number(e["length_mean"], 1)


def test_round_tables_and_labels_have_the_numbers_of_the_metrics(run, page):
    rows = {(row[0], row[1]): row for row in page.tables["rounds"][1:]}
    for e in _events(run, "round"):
        row = rows[str(e["round"]), e["arm"]]
        assert row[2:6] == [
            str(e[key]) for key in ("num_prompts", "num_candidates", "num_scored", "num_accepted")
        ]
        assert row[6] == f"{number(e['reward_proposed'])} → {number(e['reward_accepted'])}"
        assert f"{e['round']}: {number(e['acceptance_rate'])}" in page.labels["acceptance"]
    speed = {(row[0], row[1]): row for row in page.tables["speed"][1:]}
    e = _events(run, "round")[0]
    assert speed["1", "policy"][3] == number(e["generated_tokens"] / e["seconds"]["generate"], 0)


def test_reasons_are_counted_from_the_candidates(run, page):
    data = read_rollouts(run / "rollouts" / "round-002-policy.parquet")
    head, *rows = page.tables["reasons"]
    place = head.index("policy, round 2")
    found = {row[0]: row[place] for row in rows}
    for reason in set(data["reason"]):
        count = data["reason"].count(reason)
        assert found[reason] == f"{count} ({percent(count / data.num_rows)})"
    assert rows[0][0] == "accepted"


def test_headline_pairs_the_policies_prompt_by_prompt(run, page):
    def means(round_, arm):
        data = read_rollouts(run / "evaluations" / f"round-{round_:03d}-{arm}.parquet")
        values = data["reward"].reshape(-1, 2)
        assert data["prompt_id"][::2] == [f"heldout-{i:03d}" for i in range(60)]
        return np.nanmean(values, axis=1)

    rows = {(row[0], row[1]): row for row in page.tables["comparisons"][1:]}
    for name, other in (("base", means(0, "policy")), ("control", means(3, "control"))):
        trained = means(3, "policy")
        mean, low, high = paired_difference_interval(trained, other)
        assert mean == pytest.approx(float(np.mean(trained - other)))
        row = rows[f"policy − {name}", "reward"]
        assert row[2:7] == [
            "better", signed(mean), interval(low, high), number(float(trained.mean())),
            number(float(other.mean())),
        ]  # fmt: skip
        assert f"{signed(mean)} (95 % interval {signed(low)} to {signed(high)})" in page.text
    assert "The trained policy beats the base model and the random control" in page.text
    assert "which training never saw, agrees" in page.text


def test_pairing_goes_by_prompt_id_and_leaves_out_what_one_side_lacks(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    path = folder / "evaluations" / "round-003-policy.parquet"
    columns = read_rollouts(path).columns
    kept = [i for i, prompt in enumerate(columns["prompt_id"]) if prompt != "heldout-005"][::-1]
    write_rollouts(path, {name: [values[i] for i in kept] for name, values in columns.items()})
    after, before = compare(load_run(folder))[0], compare(load_run(run))[0]
    assert (before.num_prompts, after.num_prompts) == (60, 59)
    assert abs(after.mean - before.mean) < 0.03


def test_pairing_does_not_depend_on_the_order_of_a_file(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for name in ("round-000-policy", "round-003-control"):
        path = folder / "evaluations" / f"{name}.parquet"
        columns = read_rollouts(path).columns
        write_rollouts(path, {key: list(values)[::-1] for key, values in columns.items()})
    original, turned = compare(load_run(run)), compare(load_run(folder))
    pairs = [(a, b) for a, b in zip(original, turned) if a.first == "policy"]
    assert len(pairs) == 4
    for a, b in pairs:
        assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high), abs=1e-12)


@pytest.mark.parametrize("arm", ["policy", "control"])
def test_lines_and_bands_are_drawn_at_the_numbers_of_the_metrics(run, arm):
    loaded = load_run(run)
    plots = {
        "reward": figures.score_by_round(loaded, "reward"),
        "judge": figures.score_by_round(loaded, "judge"),
        "kl": figures.kl_by_round(loaded),
        "acceptance": figures.acceptance(loaded),
    }
    for name, plot in plots.items():
        kind = "round" if name == "acceptance" else "evaluation"
        mean = "acceptance_rate" if name == "acceptance" else f"{name}_mean"
        wanted = [
            e
            for e in _events(run, kind)
            if e["arm"] == arm or (kind, e["round"]) == ("evaluation", 0)
        ]
        (axes,) = plot.figure.axes
        (line,) = [line for line in axes.lines if line.get_label() == arm]
        assert line.get_xydata().tolist() == [[e["round"], e[mean]] for e in wanted]
        drawn = {
            (x, low, high)
            for lines in axes.collections
            if isinstance(lines, LineCollection)
            for (x, low), (_, high) in lines.get_segments()
        }
        assert {(e["round"], e[f"{name}_low"], e[f"{name}_high"]) for e in wanted} <= drawn


@pytest.mark.parametrize(
    ("options", "title", "sentence"),
    [
        ({"gain": 0.0, "judge_gain": 0.0}, "No change from the base model", "does not decide"),
        ({"gain": -0.3}, "is worse than the base model", ", a loss."),
        ({"judge_gain": -0.2}, ", but the second judge fell", "the mark of over-optimisation"),
        ({"control": False}, "The trained policy beats the base model", "No random control was"),
    ],
)
def test_headline_says_what_the_data_say(tmp_path, options, title, sentence):
    folder = write_synthetic_run(tmp_path, rounds=2, num_prompts=8, seed=1, **options)
    found = _headline(folder)
    assert title in found.title
    assert sentence in " ".join(found.sentences)
    assert ("control" in found.title) == ("judge_gain" in options and "gain" not in options)


def test_control_that_does_as_well_is_not_beaten(tmp_path):
    folder = write_synthetic_run(tmp_path, rounds=1, num_prompts=8)
    for name in ("rollouts", "evaluations"):
        source = folder / name / "round-001-policy.parquet"
        columns = dict(read_rollouts(source).columns)
        columns["arm"] = ["control"] * len(columns["arm"])
        write_rollouts(folder / name / "round-001-control.parquet", columns)
    found = _headline(folder)
    assert found.title == "Better than the base model, not shown to beat the random control"
    assert "is undecided: 0.000" in found.sentences[1]


def test_candidates_that_two_arms_share_have_no_speed_of_their_own(tmp_path):
    folder = write_synthetic_run(tmp_path, rounds=1, num_prompts=8)
    columns = dict(read_rollouts(folder / "rollouts" / "round-001-policy.parquet").columns)
    columns["arm"] = ["control"] * len(columns["arm"])
    write_rollouts(folder / "rollouts" / "round-001-control.parquet", columns)
    table = speed_table(load_run(folder))
    assert table is not None
    assert [row[3] == "shared" for row in table.rows] == [False, True]


def test_tokens_that_early_stop_saved_are_shown_where_it_stopped(tmp_path):
    folder = write_synthetic_run(tmp_path, rounds=2, num_prompts=8)
    table = speed_table(load_run(folder))
    assert table is not None
    assert "tokens saved" not in table.columns
    path = folder / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == "round" and event["round"] == 2 and event["arm"] == "policy":
            event["generation"] = {"tokens": 300, "slot_use": 0.5, "tokens_saved": 100}
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    table = speed_table(load_run(folder))
    assert table is not None
    place = table.columns.index("tokens saved")
    assert {row[:2]: row[place] for row in table.rows if row[place]} == {
        ("2", "policy"): "100 (25 %)"
    }
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert "without early stop" in table.caption


def test_run_without_control_has_no_control_anywhere(tmp_path):
    page = _page(write_synthetic_run(tmp_path, control=False, rounds=2, num_prompts=8))
    assert page.figures == LANGUAGE_FIGURES
    assert all("control" not in label for label in page.labels.values())
    assert [row[0] for row in page.tables["comparisons"][1:]] == ["policy − base"] * 2


def test_run_that_has_not_trained_yet_gets_a_page(tmp_path):
    folder = write_synthetic_run(tmp_path, rounds=0, status="running")
    page = _page(folder)
    assert "Not trained yet" in page.text
    assert "The run is not finished" in page.text
    assert not page.figures & {"effects", "acceptance", "reward-histograms", "tokens-by-round"}
    assert "comparisons" not in page.tables


@pytest.mark.parametrize("status", ["failed", "interrupted", "no data", "running"])
def test_run_that_ended_early_says_so(tmp_path, status):
    folder = write_synthetic_run(tmp_path, rounds=1, status=status, num_prompts=8)
    (folder / "evaluations" / "round-001-policy.parquet").unlink()
    (folder / "evaluations" / "round-001-control.parquet").unlink()
    page = _page(folder)
    assert status in page.text
    assert "beats" not in page.text


def test_empty_folder_gets_a_page_that_names_what_is_missing(tmp_path):
    page = _page(tmp_path)
    assert "No result yet" in page.text
    for name in ("config.yaml", "run.json", "metrics.jsonl"):
        assert f"{name} is missing" in page.text
    assert not page.figures
    with pytest.raises(FileNotFoundError, match="no run folder at"):
        write_report(tmp_path / "nowhere")


def test_broken_files_are_named_and_the_rest_is_used(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[4] = lines[4][:40]
    lines.append("[1, 2]")
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    cut = folder / "rollouts" / "round-002-policy.parquet"
    cut.write_bytes(cut.read_bytes()[:-30])
    (folder / "rollouts" / "notes.parquet").write_bytes(b"x")
    page = _page(folder)
    assert "metrics.jsonl line 5 is not JSON, skipped" in page.text
    assert f"metrics.jsonl line {len(lines)} is not an event, skipped" in page.text
    assert "rollouts/round-002-policy.parquet skipped: is damaged" in page.text
    assert "rollouts/notes.parquet is not named round-ROUND-ARM, skipped" in page.text
    assert page.figures == LANGUAGE_FIGURES
    assert "round 2 policy" not in page.labels["reward-histograms"]
    assert "round 2 control" in page.labels["reward-histograms"]


def test_fields_of_another_type_or_missing_are_left_out(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        event["kl_mean"] = None
        event["acceptance_rate"] = "high"
        event.pop("self_bleu", None)
        event["seconds"] = math.nan
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
    page = _page(folder)
    missing = {"kl-by-round", "reward-against-kl", "acceptance", "seconds-by-stage"}
    assert page.figures == LANGUAGE_FIGURES - missing
    assert "self-BLEU:" not in page.labels["diversity"]


def test_last_of_two_events_of_a_round_counts(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    again = {**_events(folder, "round")[0], "num_accepted": 7}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    table = rounds_table(load_run(folder))
    assert table is not None
    assert [row[5] for row in table.rows if row[:2] == ("1", "policy")] == ["7"]


def test_report_depends_on_the_folder_alone(run, tmp_path):
    first = write_report(run).read_bytes()
    moved = shutil.copytree(run, tmp_path / "elsewhere")
    before = {p: p.read_bytes() for p in moved.rglob("*") if p.is_file()}
    assert write_report(moved).read_bytes() == first
    after = {p: p.read_bytes() for p in moved.rglob("*") if p.is_file()}
    assert before == after  # the figures too, and nothing else was made


def test_gaussian_report_has_its_own_figures(tmp_path):
    folder = write_synthetic_gaussian(tmp_path)
    page = _page(folder)
    assert page.figures == GAUSSIAN_FIGURES
    assert "Only the exact rule samples the target" in page.text
    assert "Every rule samples the law it states." in page.text
    rows = {row[0]: row for row in page.tables["laws"][1:]}
    for e in _events(folder, "law"):
        assert rows[e["arm"]][2:7] == [
            number(e[key], 4)
            for key in ("acceptance_rate", "acceptance_exact", "tv_own", "tv_target",
                        "tv_target_exact")
        ]  # fmt: skip


def test_gaussian_report_of_a_wrong_sampler_says_so(tmp_path):
    folder = write_synthetic_gaussian(tmp_path)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "law" and event["arm"] == "exact":
            event["tv_own"] = event["tv_target"] = 0.05
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
    text = _page(folder).text
    assert "No rule samples the target" in text
    assert "Samples outside the gate of their own law: exact." in text


def test_what_all_prompts_share_is_cut_at_line_ends_only():
    same = ["A cat sat.", "A cow sat."]
    assert without_template(same) == same
    assert without_template(["one"]) == ["one"]
    chat = [f"<|system|>\nBe kind.\n<|user|>\n{text}<|end|>\n<|go|>\n" for text in same]
    assert without_template(chat) == same


def test_repeat_line_gives_the_same_settings(tmp_path):
    import dataclasses

    from rsft_jax.experiments.runs.folder import close_run, open_run_folder
    from rsft_jax.experiments.runs.repeat import settings_of
    from rsft_jax.experiments.settings.compose import load_config

    config = load_config(["experiment=smoke", "seed=5", "sampling.temperature=0.7"])
    with open_run_folder(tmp_path / "run", config, resume=False) as folder:
        close_run(folder, "finished")
    text = write_report(tmp_path / "run").read_text()
    line = re.search(r"<pre>(rsft run --from .*?)</pre>", text)[1]
    assert line == "rsft run --from FOLDER output_dir=NEW_FOLDER"
    again, changed = settings_of(tmp_path / "run", ["output_dir=NEW_FOLDER"])
    assert dataclasses.replace(again, output_dir=config.output_dir) == config
    assert changed == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [375, 1280])
def test_page_fits_its_width_in_a_browser_without_an_error(run, tmp_path, width):
    found = look_at(write_report(run), width, tmp_path)
    assert found["errors"] == []
    assert found["figures"] == len(LANGUAGE_FIGURES)
    assert found["scroll"] <= found["inner"] <= width
    assert found["smallest"] > 100


def _slices(shift):
    groups = {
        g: {"mean": m + shift, "low": m + shift - 0.1, "high": m + shift + 0.1, "num_prompts": 9}
        for g, m in (("boys", 0.25), ("<b>girls</b>", 0.5))
    }
    groups["few"] = {"mean": 0.125, "low": None, "high": None, "num_prompts": 1}
    gap = {"best": "<b>girls</b>", "worst": "boys", "mean": 0.25, "low": 0.0625, "high": 0.4375}
    return {"group": {"reward": {"groups": groups, "gap": gap}}}


def test_figures_by_group_are_tables_of_the_page(tmp_path):
    folder = write_synthetic_run(tmp_path / "run", rounds=1)
    path = folder / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        event["slices"] = _slices(0.1 * event["round"])
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    run = load_run(folder)
    heldout, selection = heldout_slices_table(run), selection_slices_table(run)
    assert heldout.columns == (
        "column", "group", "reward, base", "reward, policy, round 1", "reward, control, round 1",
    )  # fmt: skip
    assert [row[:2] for row in heldout.rows] == [
        ("group", "boys"), ("group", "<b>girls</b>"), ("group", "few"), ("group", "gap"),
    ]  # fmt: skip
    assert heldout.rows[0][2:4] == ("0.250 [0.150, 0.350]", "0.350 [0.250, 0.450]")
    assert heldout.rows[2][2] == "0.125"
    assert heldout.rows[3][2].endswith("<b>girls</b> over boys")
    assert selection.columns[2:] == ("reward, policy, round 1", "reward, control, round 1")
    page = write_report(folder).read_text()
    assert "Held-out prompts by group" in page
    assert "Training prompts by group" in page
    assert "<b>girls</b>" not in page


def test_without_slices_there_is_no_table_of_them(tmp_path):
    run = load_run(write_synthetic_run(tmp_path / "run", rounds=1))
    assert heldout_slices_table(run) is None
    assert selection_slices_table(run) is None


def test_candidates_show_their_draws_and_what_these_must_be_below(tmp_path):
    rso = ("selection.beta=0.3", "selection.max_reward=1.0", "selection.budget=2")
    folder = write_stored_run(tmp_path / "run", *rso, prompts=4, rounds=1)
    drawn = coins_of(folder, 1, "policy")
    groups = candidate_tables(load_run(folder), functools.partial(coins_of, folder))
    assert groups[0].columns[-3:] == ("P(accept)", "u", "u below")
    assert "offensive ×\u00a0−1" in groups[0].columns
    data = read_rollouts(folder / "rollouts" / "round-001-policy.parquet")
    known = 0
    for group in groups:
        own = [i for i, name in enumerate(data["prompt_id"]) if name == group.prompt_id]
        reward = np.asarray(data["reward"])[own]
        order = np.asarray(own)[np.argsort(-np.nan_to_num(reward, nan=-9.0), kind="stable")]
        for row, shown in zip(order, group.rows, strict=True):
            coin = drawn.of.get((group.prompt_id, int(data["candidate"][row])))
            wanted = ("", "") if coin is None else tuple(f"{value:.4f}" for value in coin)
            assert shown.numbers[-2:] == wanted
            assert (shown.reason == "not scored") == (coin is None)
            if coin is not None:
                known += 1
                assert (coin[0] < coin[1]) == ("statistical" not in shown.reason)
    assert known > 20
    page = report(folder).read_text()
    assert (
        "Draws: u: the coin of statistical_rejection(beta=0.3, max_reward=1), drawn again" in page
    )
    assert groups[0].rows[0].numbers[-2] in page
    assert ">u below<" not in write_report(folder).read_text()


def test_a_round_whose_draws_cannot_be_shown_says_why(tmp_path):
    folder = write_synthetic_run(tmp_path / "run", rounds=1)
    found = coins_of(folder, 1, "policy")  # its settings are no run's
    assert not found.of
    assert found.note.startswith("the draws cannot be shown: ")
    assert found.note in html.unescape(report(folder).read_text())
