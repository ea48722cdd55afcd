"""Measures of what was drawn and scored: how sure, how much better, how varied. NumPy alone.

| name | question it answers |
|---|---|
| `bootstrap_interval` | How far can the mean of `[P, N]` scores be off? |
| `paired_difference_interval` | And the mean difference of two policies on the same prompts? |
| `prompt_means`, `compare_paired` | The same from prompt ids and scores as a file holds them |
| `verdict` | Does an interval decide anything? |
| `slice_by` | Which groups of prompts get more than others, and is the gap sure? |
| `slice_by_paired` | And where prompts differ in nothing but their group? |
| `pass_at_k`, `majority_at_k` | Is one of k candidates right, or what most of them say? |
| `last_number` | What do they say? |
| `distinct_n`, `self_bleu` | How different are texts from one another? |
| `pair_accuracy` | In how many pairs is the preferred text ahead? |
| `spearman`, `spearman_interval` | Do scores order texts as people do? |
| `by_group` | Whose rows are alike? |
| `top_items`, `hits_at_k`, `ndcg_at_k` | What is recommended, and how much of it is right? |
| `catalogue_coverage`, `novelty` | How much of a catalogue do lists show, and how little known? |
| `judge_turned` | Has a judge turned down while the reward rose? |
| `Interval`, `PairedComparison`, `Verdict` | In what form do these answer? |
| `Slices`, `Slice`, `Pair` | And what of groups, and of two of them? |

Letters: P prompts, N candidates per prompt. NaN is a score that there is not: it is left out, and
what has nothing to be measured by is NaN.
"""

from rsft_jax.metrics.comparison import (
    PairedComparison,
    Verdict,
    compare_paired,
    prompt_means,
    verdict,
)
from rsft_jax.metrics.diversity import distinct_n, self_bleu
from rsft_jax.metrics.intervals import Interval, bootstrap_interval, paired_difference_interval
from rsft_jax.metrics.passk import last_number, majority_at_k, pass_at_k
from rsft_jax.metrics.preferences import by_group, pair_accuracy, spearman, spearman_interval
from rsft_jax.metrics.ranking import (
    catalogue_coverage,
    hits_at_k,
    ndcg_at_k,
    novelty,
    top_items,
)
from rsft_jax.metrics.slices import Pair, Slice, Slices, slice_by, slice_by_paired
from rsft_jax.metrics.turning import judge_turned

__all__ = [
    "Interval",
    "Pair",
    "PairedComparison",
    "Slice",
    "Slices",
    "Verdict",
    "bootstrap_interval",
    "by_group",
    "catalogue_coverage",
    "compare_paired",
    "distinct_n",
    "hits_at_k",
    "judge_turned",
    "last_number",
    "majority_at_k",
    "ndcg_at_k",
    "novelty",
    "pair_accuracy",
    "paired_difference_interval",
    "pass_at_k",
    "prompt_means",
    "self_bleu",
    "slice_by",
    "slice_by_paired",
    "spearman",
    "spearman_interval",
    "top_items",
    "verdict",
]
