"""Answers that are kept by all that they depend on, so that what was asked once is not asked again.

They lie in a rollout store, a row for each answer, under a hash of address, model, chat, options
and seed. Whatever is asked, candidates or scores, comes through `Answers.of`.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from rsft_jax.interop.endpoints.client import Client, Endpoint, Messages
from rsft_jax.interop.endpoints.errors import RequestRefused
from rsft_jax.interop.endpoints.replies import Answer, Ending
from rsft_jax.rollouts import Drawn, RolloutStore

# So many questions are answered before a part is written: what a crash can lose.
_QUESTIONS_A_PART = 32

OnAnswered = Callable[[int], None]
"""Called with how many questions more are answered, kept ones too."""


class Question(NamedTuple):
    """A chat to which so many answers are wanted.

    Attributes:
      messages: the chat.
      options: fields of the request, but for `n` and `seed`.
      seed: of the first answer; answer k has seed + k, so the seeds of two questions about one chat
        must lie at least `num` apart.
      num: of answers.
      most_tokens: of one answer.
    """

    messages: Messages
    options: Mapping[str, Any]
    seed: int
    num: int
    most_tokens: int

    def name(self, endpoint: Endpoint) -> str:
        """32 hexadecimal digits, of all that the answers depend on but their number."""
        chat = [[message["role"], message["content"]] for message in self.messages]
        parts = [endpoint.base_url, endpoint.model, chat, dict(self.options), self.seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Answered(NamedTuple):
    """What became of a question.

    Attributes:
      answers: as many as were wanted; none where it was refused.
      refused: what the server said where it did not answer this one; else "".
    """

    answers: list[Answer]
    refused: str = ""


class Answers:
    """Answers of an endpoint, kept ones first.

    Args:
      client: asks.
      store: where answers are looked up and kept; None keeps none.
      kind: the `arm` of the rows, such as "judge".
    """

    def __init__(self, client: Client, store: RolloutStore | None, *, kind: str):
        self.client, self.store, self._kind = client, store, kind

    def of(
        self, questions: Sequence[Question], on_answered: OnAnswered | None = None
    ) -> list[Answered]:
        """Answers questions, those that are not kept by asking; equal ones are asked once.

        Raises:
          EndpointError, BudgetSpent: of the first request that fails. What was answered before, or
            was on its way, is kept all the same.
        """
        tell = on_answered or (lambda count: None)
        names = [question.name(self.client.endpoint) for question in questions]
        wanted = dict(zip(names, questions))
        for name, question in zip(names, questions):  # of equal ones the one that wants most
            wanted[name] = max(wanted[name], question, key=lambda q: q.num)
        found = {name: Answered(answers) for name, answers in self._kept(wanted).items()}
        missing = {n: q for n, q in wanted.items() if len(_had(found, n)) < q.num}
        tell(len(wanted) - len(missing))
        for name, answered in self._asked(missing, found, tell):
            found[name] = answered
        return [
            found[name]._replace(answers=found[name].answers[: question.num])
            for name, question in zip(names, questions)
        ]

    def _asked(
        self, missing: Mapping[str, Question], found: Mapping[str, Answered], tell: OnAnswered
    ) -> Iterable[tuple[str, Answered]]:
        """Yields what is asked for, and keeps it, whatever happens."""
        fresh: list[tuple[str, Question, list[Answer]]] = []
        pool, stop = ThreadPoolExecutor(self.client.endpoint.concurrency), threading.Event()
        running: dict[Future[str], tuple[str, list[Answer]]] = {}
        for name, question in missing.items():
            answers = list(_had(found, name))
            work = pool.submit(self._complete, name, question, answers, stop)
            running[work] = (name, answers)
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for work in done:
                    name, answers = running[work]
                    refused = work.result()
                    del running[work]
                    if not refused:
                        fresh.append((name, missing[name], answers))
                    tell(1)
                    yield name, Answered([] if refused else answers, refused)
                if len(fresh) >= _QUESTIONS_A_PART:
                    self._keep(fresh)
                    fresh = []
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            # Those that had not come to an end; a part of the answers is worth keeping, too.
            fresh += [(name, missing[name], had) for name, had in running.values() if had]
            self._keep(fresh)

    def _complete(
        self, name: str, question: Question, answers: list[Answer], stop: threading.Event
    ) -> str:
        """Adds to the answers until there are enough; what the server says where it refuses.

        Servers may give fewer than they are asked for, and some give one whatever `n` is.
        """
        while (left := question.num - len(answers)) > 0:
            options = {**question.options, "n": left, "seed": question.seed + len(answers)}
            most = left * question.most_tokens
            try:
                reply = self.client.ask(
                    question.messages,
                    options,
                    most_tokens=most,
                    name=f"{name} {len(answers)}",
                    stopped=stop.is_set,
                )
            except RequestRefused as error:
                return str(error)
            answers += reply.answers[:left]
        return ""

    def _kept(self, wanted: Mapping[str, Question]) -> dict[str, list[Answer]]:
        if self.store is None or not wanted:
            return {}
        most = max(question.num for question in wanted.values())
        drawn = self.store.find_longest(wanted, most)
        return {name: _answers(rows) for name, rows in drawn.items()}

    def _keep(self, fresh: Sequence[tuple[str, Question, list[Answer]]]) -> None:
        if self.store is None or not fresh:
            return
        rows: dict[str, list[Any]] = {}
        for name, question, answers in fresh:
            for number, answer in enumerate(answers):
                for column, value in self._row(name, question, number, answer).items():
                    rows.setdefault(column, []).append(value)
        self.store.append(rows)

    def _row(self, name: str, question: Question, number: int, answer: Answer) -> dict[str, Any]:
        return {
            "round": 0,
            "arm": self._kind,
            "prompt_id": name,
            "candidate": number,
            "prompt": json.dumps([dict(m) for m in question.messages], ensure_ascii=False),
            "completion": answer.text,
            "tokens": [],
            "log_probs": [],
            "finished": answer.ending == "stop",
            "reward": math.nan,
            "judge": math.nan,
            "draw": name,
            "policy": self.client.endpoint.where,
            "law": json.dumps(dict(question.options), sort_keys=True),
            "key": str(question.seed + number),
            "place": 0,
            "failed": answer.ending == "other",
            "log_prob": answer.log_prob,
        }


def _had(found: Mapping[str, Answered], name: str) -> list[Answer]:
    return found[name].answers if name in found else []


def _answers(drawn: Drawn) -> list[Answer]:
    endings: list[Ending] = [
        "other" if failed else "stop" if finished else "length"
        for finished, failed in zip(drawn.finished, drawn.failed)
    ]
    return [Answer(*row) for row in zip(drawn.texts, endings, map(float, drawn.log_prob))]
