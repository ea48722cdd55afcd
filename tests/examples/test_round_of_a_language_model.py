"""The first program that a researcher will copy runs, and does what it says."""

import numpy as np

from rsft_jax.experiments.examples import round_of_a_language_model as example


def test_two_rounds_accept_the_shortest_words_and_change_the_policy(capsys):
    first, second = example.main()
    for report in (first, second):
        rewards = np.asarray(report.collected.candidates.rewards)
        accepted = np.asarray(report.collected.selection.accepted)
        assert (accepted.sum(axis=1) == 2).all()
        for row, taken in zip(rewards, accepted):  # the two best of each prompt
            assert np.nanmin(row[taken]) >= np.nanmax(row[~taken])
        assert report.gap < 1e-4
        assert report.metrics["steps"] == 2
        # The record is of these candidates.
        texts = report.info.score.texts
        again = example.short_words(None, texts)
        np.testing.assert_array_equal(again.astype(np.float32), rewards)
    assert int(second.state.step) == 4
    lines = capsys.readouterr().out.splitlines()
    assert [line[:7] for line in lines[::2]] == ["round 1", "round 2"]
    assert "KL to the start 0.00" in lines[0]
    assert "KL to the start 0.00" not in lines[2]
