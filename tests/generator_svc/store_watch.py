"""What the tests of the profile store watch it by."""

from contextlib import asynccontextmanager

from generator_svc.profiles import ProfileStore, StoreOptions, connect

# The tests' machine may be busy; how fast silence is noticed is tested by itself.
PATIENT = StoreOptions(timeout_s=5.0, quick_s=5.0)


class Watch:
    """Remembers what a store tells its observer, and of which users it has caches cleared."""

    def __init__(self):
        self.sources = []
        self.failures = []
        self.states = []
        self.num_gaps = 0
        self.forgotten = []
        self.noted = []

    def profile_lookup(self, source):
        self.sources.append(source)

    def store_failure(self, kind):
        self.failures.append(kind)

    def store_is_up(self, is_up):
        self.states.append(is_up)

    def changes_missed(self):
        self.num_gaps += 1

    async def forget(self, subject):
        self.forgotten.append(subject)

    def note_erasure(self, subject):
        self.noted.append(subject)

    def note_gap(self):
        """Counted by `changes_missed`."""


def watched(client, options):
    watch = Watch()
    store = ProfileStore(client, options, watch, watch)
    store.watch, store.sources = watch, watch.sources
    return store


@asynccontextmanager
async def opened(url, options=PATIENT):
    async with watched(connect(url, options.timeout_s), options) as store:
        yield store
