"""What the page offers to begin with: opposite wishes to slide between, and prompts.

The bundled reward model was trained on these six pairs of wishes, among other wordings of them
(models/demo-persrm); any model reads them, as they are plain words.
"""

from typing import Any

# name: what the left end of the slider wishes, and what the right end does.
_AXES = {
    "Length": (("Brief", "Be brief."), ("Long", "I like longer answers.")),
    "Manner": (
        ("Businesslike", "Stick to business."),
        ("Friendly", "Be friendly and chat with me a little."),
    ),
    "Register": (("Casual", "Talk casually."), ("Formal", "Be formal and polite.")),
    "Energy": (
        ("Calm", "Stay calm, no exclamation marks."),
        ("Excited", "I love exclamation marks!"),
    ),
    "Questions": (("Telling", "Don't ask me questions."), ("Asking", "Ask me questions.")),
    "Detail": (("General", "Keep it general."), ("Specific", "Give me specific details.")),
}

AXES: list[dict[str, Any]] = [
    {
        "name": name,
        "poles": [{"label": label, "wish": wish} for label, wish in poles],
    }
    for name, poles in _AXES.items()
]

PROMPTS: list[dict[str, Any]] = [
    {"label": label, "messages": [{"role": role, "content": text} for role, text in turns]}
    for label, turns in (
        ("Weather", [("user", "What is the weather like in Seattle today?")]),
        ("Hotel", [("user", "Can you find me a hotel in Paris?")]),
        (
            "Restaurant",
            [
                ("user", "I want to find a restaurant in San Jose."),
                ("assistant", "What kind of food do you like?"),
                ("user", "Italian, please."),
            ],
        ),
        ("Flight", [("user", "I need a flight to New York next Monday.")]),
        ("Goodbye", [("user", "Thanks a lot, that is all I need.")]),
    )
]
