"""Answers a file of requests: JSON Lines in, JSON Lines out; started again, it goes on.

    pip install ./client
    python examples/batch.py requests.jsonl answers.jsonl --concurrency 16

A request is an object with `id`, `prompt` or `messages`, and any of `user_id`, `preferences`
(texts), `max_tokens` and the other fields of `pad_client.GenerateOptions`:

    {"id": "1", "messages": [{"role": "user", "content": "Find me a hotel."}], "user_id": "alice"}

An answer is written as soon as it is there, in whatever order: `{"id": "1", "text": ...}`, or
`{"id": "1", "error": ...}` for a request that can never succeed. What failed for lack of a server,
of room or of the user's profile is not written, and asked for again by the next run.
"""

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pad_client import (
    AsyncGeneratorClient,
    GenerateOptions,
    InvalidRequestError,
    ModelMismatchError,
    NotFoundError,
    PadError,
    Priority,
)

MAX_ATTEMPTS = 8
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0
# What asking again cannot change.
REFUSALS = (InvalidRequestError, ModelMismatchError)


def main() -> int:
    """Run the job; the status is 1 if requests are left, or were refused."""
    arguments = _parser().parse_args()
    num_requests = check_requests(arguments.requests)
    done = answered(arguments.answers)
    _say(f"{num_requests} requests, {len(done)} answered before")
    with arguments.answers.open("a", encoding="utf-8") as answers:
        job = Job(answers)
        try:
            asyncio.run(_run(job, arguments, done))
        except KeyboardInterrupt:
            _say("Stopped; the same command goes on.")
            return 130
        except PadError as error:
            sys.exit(f"{error}\nhint: {error.hint}")
    _say(f"{job.num_answered} answered, {job.num_refused} refused, {job.num_left} left")
    return 1 if job.num_left or job.num_refused else 0


async def _run(job: "Job", arguments: argparse.Namespace, done: set[str]) -> None:
    async with AsyncGeneratorClient(
        arguments.server, timeout_s=arguments.timeout, token_file=arguments.token_file
    ) as client:
        await job.run(client, pending(arguments.requests, done), arguments.concurrency)


class Job:
    """Asks for answers and writes them down."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self.num_answered = 0
        self.num_refused = 0
        self.num_left = 0

    async def run(
        self, client: AsyncGeneratorClient, requests: Iterator[dict[str, Any]], concurrency: int
    ) -> None:
        """Answer all requests, at most `concurrency` at a time; they are read as they go."""
        await client.server_info()  # a wrong address or token is told once, not for each request
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(self._work(client, requests))

    async def _work(self, client: AsyncGeneratorClient, requests: Iterator[dict[str, Any]]) -> None:
        for request in requests:  # shared by all workers: each takes the next
            try:
                self._write(request["id"], await ask(client, request))
                self.num_answered += 1
            except REFUSALS as error:
                self._write(request["id"], {"error": str(error)})
                self.num_refused += 1
            except PadError as error:
                if isinstance(error, NotFoundError):  # else it would be left for ever, unexplained
                    _say(f"{request['id']}: left: {error}")
                self.num_left += 1

    def _write(self, request_id: str, values: dict[str, Any]) -> None:
        line = json.dumps({"id": request_id, **values}, ensure_ascii=False)
        self._answers.write(f"{line}\n")
        self._answers.flush()  # a job that is killed loses nothing that was written


async def ask(client: AsyncGeneratorClient, request: dict[str, Any]) -> dict[str, Any]:
    """Return an answer; ask again while the server is full or away, later each time."""
    options: Any = {"priority": Priority.BATCH, **request}
    del options["id"]
    for attempt in range(MAX_ATTEMPTS):
        try:
            completion = await client.complete(**options)
            break
        except PadError as error:
            if not error.retryable or attempt == MAX_ATTEMPTS - 1:
                raise
            # By chance, so that those that were refused together do not come back together.
            pause_s = min(FIRST_PAUSE_S * 2**attempt, MAX_PAUSE_S) * random.uniform(0.5, 1.0)
            await asyncio.sleep(max(pause_s, error.retry_after_s or 0.0))
    summary = completion.summary
    return {
        "text": completion.text,
        "finish_reason": summary.finish_reason,
        "num_tokens": summary.num_tokens,
        "num_changed_tokens": summary.num_changed_tokens,
        "seed": summary.seed,
    }


def check_requests(path: Path) -> int:
    """Return the number of requests; end the program where one is none, before any is sent."""
    seen: dict[str, int] = {}
    for number, request in _lines(path):
        request_id = request.get("id") if isinstance(request, dict) else None
        if not isinstance(request_id, str) or not request_id:
            sys.exit(f"{path}:{number}: must be an object with a text `id`")
        if request_id in seen:
            sys.exit(f"{path}:{number}: id {request_id!r} stands in line {seen[request_id]} too")
        if unknown := set(request) - {"id", *GenerateOptions.__annotations__}:
            sys.exit(f"{path}:{number}: unknown fields: {', '.join(sorted(unknown))}")
        seen[request_id] = number
    return len(seen)


def answered(path: Path) -> set[str]:
    """Return the ids that an earlier run answered; a line that it left unfinished is removed."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return {answer["id"] for _, answer in _lines(path)}


def pending(path: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the requests that are not answered yet."""
    return (request for _, request in _lines(path) if request["id"] not in done)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    sys.exit(f"{path}:{number}: must be JSON: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Answer a file of requests.")
    parser.add_argument("requests", type=Path, help="JSON Lines")
    parser.add_argument("answers", type=Path, help="JSON Lines; is added to")
    parser.add_argument("--server", default=os.environ.get("PAD_SERVER", "127.0.0.1:50051"))
    parser.add_argument("--token-file", type=Path, default=os.environ.get("PAD_TOKEN_FILE"))
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one answer")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
