"""Who asks what in `pad demo`: edit this file to change the demonstration."""

from dataclasses import dataclass

from pad_client.types import Message, Preference


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A user and the wishes of their profile."""

    user_id: str
    preferences: tuple[Preference, ...]


@dataclass(frozen=True, slots=True)
class DemoPrompt:
    """A conversation; the last turn is the user's."""

    messages: tuple[Message, ...]


DEMO_USERS = (
    DemoUser("alice", (Preference("Be brief."),)),
    DemoUser("ben", (Preference("Be friendly and chat with me a little."),)),
    DemoUser("carla", (Preference("I love exclamation marks!"),)),
    DemoUser("dev", (Preference("Be formal and polite."),)),
    DemoUser("eve", (Preference("Talk casually."), Preference("Ask me questions.", 0.5))),
)

DEMO_PROMPTS = (
    DemoPrompt(
        (
            Message("user", "I want to find a restaurant in San Jose."),
            Message("assistant", "What kind of food do you like?"),
            Message("user", "Italian, please."),
        )
    ),
    DemoPrompt((Message("user", "What is the weather like in Seattle today?"),)),
    DemoPrompt((Message("user", "Thanks a lot, that is all I need."),)),
)
