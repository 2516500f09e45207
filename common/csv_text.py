"""Texts in CSV files: no spreadsheet takes one for a formula, and each comes back as it was.

The one rule for every CSV file that the kit writes. A part that a spreadsheet could begin to compute gets a ' before
it: the start of a text, and what follows a semicolon, at which Excel cuts a line in many countries whatever quotes are
around. Numbers stay as they are, also negative ones.

Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import re

# Also the full-width signs that Excel takes in Chinese and Japanese; spaces and quotes before them do not help.
_FORMULA = re.compile(r"[\s'\"]*[=+\-@|\uff1d\uff0b\uff0d\uff20]|'*[\t\r]")
_NUMBER = re.compile(r"\s*[-+]?[\d.,]+(?:[eE][-+]?\d+)?%?\s*")
_QUOTED = re.compile(r"[\",;\t\r\n]|^\s|\s$")


def csv_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula when it opens the CSV file; numbers stay as they are.

    A text that begins with a ' and such a mark itself gets one more, so that ``from_csv_text`` gives each text back.

    >>> csv_text("=1+1"), csv_text("a;@b"), csv_text("-5"), csv_text("'=x")
    ("'=1+1", "a;'@b", '-5', "''=x")
    """
    return ";".join(f"'{part}" if _is_formula(part) else part for part in text.split(";"))


def from_csv_text(text: str) -> str:
    """The text that ``csv_text`` was given."""
    return ";".join(part[1:] if part[:1] == "'" and _is_formula(part[1:]) else part for part in text.split(";"))


def csv_cell(value: object) -> str:
    """A value as a line of a CSV file has it: None is empty, numbers are bare, texts quoted where they need it.

    Semicolons and tabs are quoted too, which other programs may take for the end of a cell.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = csv_text(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _is_formula(part: str) -> bool:
    return bool(_FORMULA.match(part)) and not _NUMBER.fullmatch(part)
