# ruff: noqa: RUF001 - lookalikes are what this is about
"""What the text of a preference may not hold: it stands within a prompt, and is data there.

Checked by both services, whatever model they run; what the loaded tokenizer reads as control tokens
`Tokenizer.check_text` finds. Nothing is removed in silence: a text is taken as it is, or refused.
"""

import re
import unicodedata

from svc_common.errors import InvalidRequestError

# Controls (line breaks, tabs), invisible format characters (bidi overrides, zero-width spaces,
# tags), lone surrogates, private use, line and paragraph separators.
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Co", "Zl", "Zp"])
_JOINERS = "\u200c\u200d"  # scripts such as Persian, and emoji, cannot be written without

_MARKS = {
    "a mark of the prompt it stands in ([Guidelines], [Principles], [Instruction])": re.compile(
        r"\[/?(guideiines?|principies?|instructions?)\]"  # as _fold writes them
    ),
    "a control token of chat models": re.compile(
        r"<\|[^<>]{1,64}>|<[^<>]{1,64}\|>|</?s>|<(bos|eos|pad|unk)>|<(start|end)ofturn>"
        r"|\[/?inst\]|<</?sys>>|##+(instruction|response|input|system|user|assistant|human):"
    ),
}
_OPENERS = "[<#"
_KEPT = frozenset("[]<>|/#:")  # all that marks are made of beside letters and digits
_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("【〔〖〘〚⟦⦋⁅❲⟬「『", "["),
        **dict.fromkeys("】〕〗〙〛⟧⦌⁆❳⟭」』", "]"),
        **dict.fromkeys("‹〈⟨《«❬❮❰˂", "<"),
        **dict.fromkeys("›〉⟩》»❭❯❱˃", ">"),
        **dict.fromkeys("¦│┃∣❘ǀ‖丨", "|"),
        **dict.fromkeys("⁄∕", "/"),
        # Letters of the marks, and what is drawn like them in Cyrillic and Greek or as digits.
        **dict(zip("асԁеіӏорѕτυսլ", "acdeiiopstuui", strict=True)),
        **dict(zip("αεικνορστυ", "aeiknopstu", strict=True)),
        **dict(zip("l1ı0", "iiio", strict=True)),
    }
)


def check_preference_text(field: str, text: str) -> None:
    """Refuse text that could be read as anything but a preference; the error never repeats it.

    Raises:
        InvalidRequestError: It holds a character that cannot be seen or begins a line, or a mark
            of a prompt, in whatever case, spacing or spelling.
    """
    for place, character in enumerate(text):
        if unicodedata.category(character) in _HIDDEN and character not in _JOINERS:
            raise InvalidRequestError(
                f"{field}: must be one line of visible characters,"
                f" got U+{ord(character):04X} at character {place}"
            )
    mark = _find_mark(text)
    if mark is not None:
        name, place = mark
        raise InvalidRequestError(f"{field}: must not hold {name}, got one at character {place}")


def _find_mark(text: str) -> tuple[str, int] | None:
    """Return what mark of a prompt stands in a text, and where."""
    folded = _fold(text)
    if not any(opener in folded for opener in _OPENERS):
        return None  # nearly always
    skeleton = _skeleton(folded)
    for name, pattern in _MARKS.items():
        if found := pattern.search(skeleton):
            return name, _place(text, found.start())
    return None


def _skeleton(folded: str) -> str:
    return "".join(letter for letter in folded if letter.isalnum() or letter in _KEPT)


def _place(text: str, index: int) -> int:
    """Return which character of a text gave the letter at `index` of its skeleton."""
    num_letters = 0
    for place, character in enumerate(text):
        num_letters += len(_skeleton(_fold(character)))
        if num_letters > index:
            return place
    raise AssertionError("a skeleton has no letter that is of no character")


def _fold(text: str) -> str:
    """Return text in which what looks the same is the same."""
    # Lookalikes first: NFKD splits some of them into other characters.
    plain = unicodedata.normalize("NFKD", text.casefold().translate(_LOOKALIKES))
    return plain.casefold().translate(_LOOKALIKES)
