"""What `pad profile import` does with each profile of a file, many at once."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from pad_client.aio import AsyncGeneratorClient
from pad_client.cli.profile_lines import LineError, Record
from pad_client.errors import (
    AccessDeniedError,
    ConflictError,
    DamagedProfileError,
    NotFoundError,
    PadError,
    UnavailableError,
)
from pad_client.types import Profile

MAX_TRIES = 6  # of one profile while the server is full, or somebody else writes the same one
FIRST_PAUSE_S = 0.1  # and twice as long each time


class OnConflict(StrEnum):
    """What happens to a user whose stored profile says something else."""

    FAIL = "fail"
    SKIP = "skip"
    REPLACE = "replace"


class Outcome(StrEnum):
    """What became of a profile."""

    CREATED = "created"
    REPLACED = "replaced"
    SAME = "already the same"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass
class Importer:
    """Writes profiles through `num_workers` calls at once.

    Args:
        client: Where to.
        on_conflict: For users whose stored profile says something else.
        is_dry_run: Only look.
        on_error: Told the line and what is wrong with it.
        on_done: Told each line that is done with.
    """

    client: AsyncGeneratorClient
    on_conflict: OnConflict
    is_dry_run: bool
    on_error: Callable[[int, str], None]
    on_done: Callable[[], None]
    counts: Counter[Outcome] = field(default_factory=Counter)
    _stopped: PadError | None = None

    async def run(
        self, records: Iterator[Record | tuple[int, LineError]], num_workers: int
    ) -> None:
        """Work until there is no record left.

        Raises:
            PadError: It is of no use to go on: no server, or no right to write.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(num_workers):
                group.create_task(self._work(records))
        if self._stopped is not None:
            raise self._stopped

    async def _work(self, records: Iterator[Record | tuple[int, LineError]]) -> None:
        for record in records:
            if isinstance(record, tuple):
                outcome = self._fail(record[0], str(record[1]))
            else:
                try:
                    outcome = await self._store(record)
                except (AccessDeniedError, UnavailableError) as error:
                    self._stopped = error
                except PadError as error:
                    outcome = self._fail(record.line, str(error))
            if self._stopped is not None:
                return
            self.counts[outcome] += 1
            self.on_done()

    def _fail(self, line: int, reason: str) -> Outcome:
        self.on_error(line, reason)
        return Outcome.FAILED

    async def _store(self, record: Record) -> Outcome:
        """Store a profile; what the server's state hinders is tried again.

        Doing it twice is as good as once: whatever is there already is left as it is.
        """
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, MAX_TRIES + 1):
            try:
                return await (self._look(record) if self.is_dry_run else self._write(record))
            except PadError as error:
                if attempt == MAX_TRIES or not (
                    error.retryable or isinstance(error, ConflictError)
                ):
                    raise
                await asyncio.sleep(max(pause_s, error.retry_after_s or 0.0))
                pause_s *= 2
        raise AssertionError("unreachable")

    async def _look(self, record: Record) -> Outcome:
        try:
            stored = await self.client.get_profile(record.user_id)
        except NotFoundError:
            return Outcome.CREATED
        except DamagedProfileError:
            return self._settle(record, None)
        return self._settle(record, stored)

    async def _write(self, record: Record) -> Outcome:
        """Create the profile, as most have none yet, else look at the one that is there."""
        try:
            await self._put(record, 0)
        except ConflictError:
            stored: Profile | None = await self.client.get_profile(record.user_id)
        except DamagedProfileError:
            stored = None
        else:
            return Outcome.CREATED
        outcome = self._settle(record, stored)
        if outcome is Outcome.REPLACED:
            await self._put(record, None if stored is None else stored.revision)
        return outcome

    def _settle(self, record: Record, stored: Profile | None) -> Outcome:
        """Say what is to be done where there is a profile; None: a damaged one."""
        if stored is not None and record.is_same(stored):
            return Outcome.SAME
        if self.on_conflict is OnConflict.FAIL:
            state = "a damaged profile" if stored is None else "another profile"
            return self._fail(record.line, f"user_id: has {state} already; see --on-conflict")
        return Outcome.SKIPPED if self.on_conflict is OnConflict.SKIP else Outcome.REPLACED

    async def _put(self, record: Record, expected_revision: int | None) -> None:
        await self.client.put_profile(
            record.user_id,
            record.preferences,
            beta=record.beta,
            expected_revision=expected_revision,
        )
