"""Models that somebody else serves in the style of OpenAI: as proposal and as judge.

    POST base_url/chat/completions        client.py    one bounded, checked, retried request
                                          answers.py   the answers that are wanted, kept ones first
                                          completions.py, judge.py   candidates, scores
                                          budget.py    the most that it may cost

The package `openai` (the extra `rsft_jax[endpoints]`) is imported when something is asked. The key
is the one that it reads by itself, from OPENAI_API_KEY.
"""

from rsft_jax.interop.endpoints.answers import Answered, Answers, OnAnswered, Question
from rsft_jax.interop.endpoints.budget import Budget
from rsft_jax.interop.endpoints.client import Client, Endpoint, Messages
from rsft_jax.interop.endpoints.completions import SEED_BLOCK, Completer, first_seed
from rsft_jax.interop.endpoints.errors import BudgetSpent, EndpointError, RequestRefused
from rsft_jax.interop.endpoints.judge import TEMPLATE, Judge, read_score
from rsft_jax.interop.endpoints.laws import SamplingLaw, ServerKind, log_prob_options
from rsft_jax.interop.endpoints.replies import Answer, BadReply, Ending, Reply, read_reply
from rsft_jax.interop.endpoints.waits import back_off, retry_after

__all__ = [
    "SEED_BLOCK",
    "TEMPLATE",
    "Answer",
    "Answered",
    "Answers",
    "BadReply",
    "Budget",
    "BudgetSpent",
    "Client",
    "Completer",
    "Ending",
    "Endpoint",
    "EndpointError",
    "Judge",
    "Messages",
    "OnAnswered",
    "Question",
    "Reply",
    "RequestRefused",
    "SamplingLaw",
    "ServerKind",
    "back_off",
    "first_seed",
    "log_prob_options",
    "read_reply",
    "read_score",
    "retry_after",
]
