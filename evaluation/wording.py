"""Text measures that need no fitting: syllables, names and numbers, question word order."""

import re

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
VOWEL_GROUP = re.compile(r"[aeiouy]+")
WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*")
NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")  # a price, time or telephone number counts once
# A capital letter that no full stop, question or exclamation mark stands before; I is no name.
NAME = re.compile(
    r"(?:[A-Z][\w&'\u2019.-]*\w|[A-Z](?=\s))(?:\s+(?:[A-Z][\w&'\u2019.-]*\w|[A-Z]\b))*"
)
PRONOUN = re.compile(r"\bI\b(?:['\u2019]\w+)?")

_PRONOUN = r"(?:i|you|u|we|they|he|she|it|this|that|these|those|there)"
_SUBJECT = rf"(?:{_PRONOUN}|the|a|an|your|my|any\w*|some\w*)"
_HELPER = (
    r"(?:do|does|did|is|are|was|were|am|can|could|will|would|shall|should|may|might"
    r"|isn't|aren't|don't|doesn't|didn't|won't|wouldn't|can't|couldn't|shouldn't)"
)
_AUXILIARY = rf"(?:{_HELPER}|have|has|had)"
_WH = r"(?:what|which|who|whom|whose|where|when|why|how)"
_WH_NOUN = r"(?:\s+(?!(?:you|we|i|it|they|that)\b)[\w'-]+){0,3}"
_ALWAYS = r"(?:how|what) about\b|anything else\b|(?:correct|right)[?.! ]*$"
_OPENER = (
    r"(?:(?:ok|okay|sure|great|alright|well|so|and|but|or|also|yes|no|then|now|hi|hey|please|sorry"
    r"|cool|perfect|good|excellent|certainly|absolutely|of course|no problem|got it)\b[\s,]*)*"
)
QUESTION = re.compile(
    rf"{_OPENER}(?:{_AUXILIARY}\s+{_SUBJECT}\b"
    rf"|(?:in |at |on |for |from |to |by |with |of )?{_WH}{_WH_NOUN}(?:\s+{_AUXILIARY}|'s|'re)\b"
    rf"|any (?:other|preference|particular|specific)\b|{_ALWAYS})"
)
# Behind a comma or a conjunction, "which is" and "has a" are no questions: a pronoun must follow.
CLAUSE_QUESTION = re.compile(
    rf"{_OPENER}(?:{_HELPER}\s+{_PRONOUN}\b|{_WH}{_WH_NOUN}\s+{_HELPER}\s+{_PRONOUN}\b|{_ALWAYS})"
)
CLAUSE = re.compile(r"[,;:]\s+|\s+(?:and|but|so|or)\s+")


def sentences(text: str) -> list[str]:
    """Return the sentences of `text`, cut behind `.`, `!` and `?`."""
    return [part for part in SENTENCE_END.split(text.strip()) if part]


def word_syllables(word: str) -> int:
    """Estimate the syllables of one word: groups of vowels, a silent final e left out."""
    lowered = word.lower()
    groups = len(VOWEL_GROUP.findall(lowered))
    if lowered.endswith("e") and not lowered.endswith(("le", "ee", "ye", "oe")) and groups > 1:
        groups -= 1
    if lowered.endswith("ed") and not lowered.endswith(("ted", "ded", "eed")) and groups > 1:
        groups -= 1
    return max(1, groups)


def syllables(text: str) -> float:
    """Estimate the syllables of a reply; every digit counts as one."""
    return float(sum(map(word_syllables, WORD.findall(text))) + sum(map(str.isdigit, text)))


def names_and_numbers(text: str) -> float:
    """Return how many names (runs of capitalised words) and numbers stand inside the sentences.

    A sentence's first word is capitalised anyway and counts for nothing.
    """
    total = 0
    for sentence in sentences(text):
        rest = PRONOUN.sub("", sentence)
        first = rest.split(maxsplit=1)
        inside = first[1] if len(first) > 1 else ""
        total += len(NAME.findall(inside)) + len(NUMBER.findall(sentence))
    return float(total)


def question_sentences(text: str) -> float:
    """Return how many sentences have the word order of a question, whatever mark ends them."""
    return float(sum(_asks(sentence) for sentence in sentences(text)))


def _asks(sentence: str) -> bool:
    lowered = sentence.lower().replace("\u2019", "'").strip(" \"'(")
    clauses = CLAUSE.split(lowered)[1:]
    return bool(QUESTION.match(lowered)) or any(map(CLAUSE_QUESTION.match, clauses))


def grade(text: str) -> float:
    """Return the Flesch-Kincaid reading grade of a reply."""
    words = WORD.findall(text)
    if not words:
        return 0.0
    per_word = sum(map(word_syllables, words)) / len(words)
    return 0.39 * len(words) / len(sentences(text)) + 11.8 * per_word - 15.59
