"""The operator's guidelines: what stands before preferences in the base model's prompt."""

from pathlib import Path

from svc_common.errors import InvalidRequestError
from svc_common.lm.tokenizer import Tokenizer
from svc_common.settings import SettingsError

MAX_CHARACTERS = 4000
_VARIABLE = "GENERATOR_GUIDELINES_FILE"


def read_guidelines(path: str, tokenizer: Tokenizer) -> str:
    """Return the text of the file, less blanks around it; empty where none is named.

    Raises:
        SettingsError: It cannot be read, is blank or too long, or holds a control token.
    """
    if not path:
        return ""
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(4 * MAX_CHARACTERS).strip()  # of whatever somebody named by mistake
        tokenizer.check_text(_VARIABLE, text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_VARIABLE}={path}: must be a text file in UTF-8: {error}") from error
    except InvalidRequestError as error:
        raise SettingsError(str(error)) from error
    if not 1 <= len(text) <= MAX_CHARACTERS:
        rule = f"must hold 1..{MAX_CHARACTERS} characters"
        raise SettingsError(f"{_VARIABLE}={path}: {rule}, got {len(text)}")
    return text
