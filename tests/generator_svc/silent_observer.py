"""What a prompt reader tells, where a test does not ask."""


class SilentObserver:
    """Implements `PromptObserver` where nobody asks."""

    def prompt_tokens(self, source: str, num_tokens: int) -> None:
        pass

    def prefix_cache(self, num_tokens: int, num_bytes: int) -> None:
        pass
