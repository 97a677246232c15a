"""Writing many replies at once; rows join when others end, so that the batch stays full."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from evaluation.jobs import Job, Written
from evaluation.models import LanguageModel
from evaluation.reader import PromptStore, Reader
from evaluation.step import Live, choose_tokens

NUM_ROWS = 64
MAX_NEW_TOKENS = 80


class Decoder:
    """Writes replies.

    The jobs of one call share speaking model, base, reward variant and the model of the reference;
    all are drawn or none is.

    Args:
        store: where prompts are kept from one call to the next.
        num_rows: replies written at a time.
        max_new_tokens: most tokens of a reply.
    """

    def __init__(
        self,
        store: PromptStore,
        num_rows: int = NUM_ROWS,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self._store = store
        self._num_rows = num_rows
        self._max_new_tokens = max_new_tokens

    def write(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Written]]:
        """Yield each reply when it is done, with the number of its job.

        Raises:
            ValueError: a prompt leaves no room for a reply.
        """
        readers = self._readers(jobs)
        waiting = iter(enumerate(jobs))
        live: list[Live] = []
        while True:
            while len(live) < self._num_rows and (item := next(waiting, None)) is not None:
                live.append(_open(*item, readers))
            if not live:
                return
            tokens = choose_tokens(live)
            for reply, token in zip(live, tokens, strict=True):
                reply.token_ids.append(token)
            done = [reply for reply in live if self._is_done(reply)]
            live = [reply for reply in live if not self._is_done(reply)]
            for reply in done:
                for read, row in reply.rows.items():
                    readers[read.model.weights].close(row)
                yield reply.number, self._result(reply)
            if live:
                _advance(live, readers)

    def _readers(self, jobs: Sequence[Job]) -> dict[str, Reader]:
        """Return a reader for each model, with room for the rows of as many jobs as run at once."""
        models: dict[str, LanguageModel] = {}
        most_rows: dict[str, int] = defaultdict(int)
        longest: dict[str, int] = defaultdict(int)
        for job in jobs:
            counts: dict[str, int] = defaultdict(int)
            for read in job.charged | {job.plain}:
                weights = read.model.weights
                models[weights] = read.model
                counts[weights] += 1
                longest[weights] = max(longest[weights], len(read.token_ids))
            for weights, count in counts.items():
                most_rows[weights] = max(most_rows[weights], count)
        readers = {}
        for weights, model in models.items():
            context = longest[weights] + self._max_new_tokens
            if context > model.context_length:
                rule = f"must fit in {model.context_length} tokens with its reply"
                raise ValueError(
                    f"prompt: {rule} of {self._max_new_tokens}, has {longest[weights]}"
                )
            rows = most_rows[weights] * min(self._num_rows, len(jobs))
            readers[weights] = Reader(model, rows, context, self._store)
        return readers

    def _is_done(self, reply: Live) -> bool:
        return _has_ended(reply) or len(reply.token_ids) == self._max_new_tokens

    def _result(self, reply: Live) -> Written:
        num_tokens = len(reply.token_ids)
        return Written(
            token_ids=reply.token_ids,
            ended=_has_ended(reply),
            kl_per_token=reply.kl / num_tokens,
            prompt_seconds=reply.prompt_seconds,
            seconds=reply.prompt_seconds + reply.seconds,
            model_tokens=reply.job.num_model_tokens(num_tokens),
        )


def _has_ended(reply: Live) -> bool:
    return reply.token_ids[-1] in reply.job.speaker.model.tokenizer.end_of_turn_ids


def _open(number: int, job: Job, readers: dict[str, Reader]) -> Live:
    reply = Live(number, job)
    charged = job.charged
    for read in sorted(
        charged | {job.plain}, key=lambda read: (read.model.weights, read.token_ids)
    ):
        keep = read == job.plain or job.guide is not None
        row, state, seconds = readers[read.model.weights].open(read, keep=keep)
        reply.rows[read], reply.states[read] = row, state
        reply.prompt_seconds += seconds if read in charged else 0.0
    return reply


def _advance(live: Sequence[Live], readers: dict[str, Reader]) -> None:
    """Run the token chosen last through every model that a reply needs."""
    for weights, reader in readers.items():
        places = [
            (reply, read) for reply in live for read in reply.rows if read.model.weights == weights
        ]
        if not places:
            continue
        rows = [reply.rows[read] for reply, read in places]
        states, seconds = reader.decode(rows, [reply.token_ids[-1] for reply, _ in places])
        for (reply, read), state in zip(places, states, strict=True):
            reply.states[read] = state
            reply.seconds += seconds if read in reply.job.charged else 0.0
