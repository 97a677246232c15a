"""How long a replica may owe rewards, from how long it took before."""

MARGIN = 4  # times what is usual at most
SMOOTHING = 0.1  # share of the newest answer
MIN_SHARE = 0.5  # of the full time, however fast the replica was before


class Patience:
    """Knows a replica's usual answer time, as TCP knows that of a round trip (RFC 6298)."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    def note(self, seconds: float) -> None:
        """An answer took this long."""
        if self._mean_s is None:
            self._mean_s, self._deviation_s = seconds, seconds / 2
            return
        error = seconds - self._mean_s
        self._mean_s += SMOOTHING * error
        self._deviation_s += SMOOTHING * (abs(error) - self._deviation_s)

    def limit_s(self, full_s: float) -> float:
        """Return after how long it is given up where another replica can take over.

        The full time where nothing is known yet; never under half of it, as a false alarm costs
        all its sessions a prefill.
        """
        if self._mean_s is None:
            return full_s
        usual_s = MARGIN * (self._mean_s + 4 * self._deviation_s)
        return min(full_s, max(MIN_SHARE * full_s, usual_s))
