"""One function for each kind of instruction: from an answer and the parameters to whether it is kept.

What IFEval leaves to nltk and langdetect is done by rules here, so that English and Chinese count alike and nothing has
to be installed: a sentence ends at . ! ? or 。！？ before white space, an end or a Chinese character (not after a known
abbreviation, not between digits); a word is a run of letters or digits, or one Chinese character; the language is that
of most letters' script, and for Latin script that of the most function words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{HAN}]|(?:(?![{HAN}])[^\W_])+(?:['’-](?:(?![{HAN}])[^\W_])+)*")
ABBREVIATIONS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Ltd|Co|vs|etc|e\.g|i\.e|a\.m|p\.m|No|Fig)\.$", re.I)
END = re.compile(rf"[.!?…]+[\"'”’)\]]*(?=\s|$|[{HAN}])|[。！？…]+[\"'”’」』）]*")
BULLET = re.compile(r"^[ \t]*(?:[*•](?!\*)|-(?!-))[ \t]*\S", re.MULTILINE)
PARAGRAPH, STARS = re.compile(r"\s?\*\*\*\s?"), re.compile(r"\*\*([^*\n]+)\*\*|\*([^*\n]+)\*")
TITLE = re.compile(r"<<[^\n<>]+>>|《[^\n》]+》")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]|【[^【】\n]+】")
CHOICES = (
    *("My answer is yes.", "My answer is no.", "My answer is maybe."),
    *("我的答案是：是", "我的答案是：否", "我的答案是：不确定", "我的回答是是。", "我的回答是否。", "我的回答是可能。"),
)
QUOTES = {'"': '"', "“": "”", "「": "」", "『": "』", "«": "»"}

_SCRIPTS = {
    "ja": r"[\u3040-\u30ff]",
    "zh": rf"[{HAN}]",
    "ko": r"[\uac00-\ud7af]",
    "ru": r"[\u0400-\u04ff]",
    "ar": r"[\u0600-\u06ff]",
    "he": r"[\u0590-\u05ff]",
    "hi": r"[\u0900-\u097f]",
    "bn": r"[\u0980-\u09ff]",
    "pa": r"[\u0a00-\u0a7f]",
    "gu": r"[\u0a80-\u0aff]",
    "ta": r"[\u0b80-\u0bff]",
    "te": r"[\u0c00-\u0c7f]",
    "kn": r"[\u0c80-\u0cff]",
    "ml": r"[\u0d00-\u0d7f]",
    "th": r"[\u0e00-\u0e7f]",
    "el": r"[\u0370-\u03ff]",
    "latin": r"[A-Za-zÀ-ɏ]",
}
SCRIPTS = {name: re.compile(pattern) for name, pattern in _SCRIPTS.items()}
SAME_SCRIPT = {"zh-cn": "zh", "zh-tw": "zh", "uk": "ru", "bg": "ru", "mr": "hi", "ne": "hi", "fa": "ar", "ur": "ar"}
FUNCTION_WORDS = {
    "en": "the of and to in is that it for was on are with as be this have from or not you",
    "de": "der die das und ist nicht ein eine zu den mit auf für von im sich des auch wird ich",
    "fr": "le la les des et est une dans que pour qui pas sur au avec ce il sont plus du",
    "es": "el la los las de y es en que un una por con para no se del como su más",
    "it": "il di che la e un una per non sono con del della gli è nel anche come più le",
    "pt": "o a os as de que e do da em um uma para com não é no na por mais",
    "nl": "de het een van en is dat op te in voor met niet zijn er aan ook die was wordt",
    "fi": "ja on ei se että oli mutta kun hän olla tai ovat myös kuin jos niin sen joka mitä voi",
    "sv": "och att det som en på är av för med den till inte om ett han men var jag har",
    "pl": "i w nie na się z do jest to że jak po co tak ale od za o przez dla",
    "tr": "ve bir bu da de için ile çok ne daha gibi olarak ama o var kadar en sonra ben değil",
    "vi": "là của và có không được cho một trong người các đã với này những để khi như cũng từ",
    "sw": "na ya wa kwa ni katika la za kuwa hii yake cha si au lakini kama pia hiyo sana ili",
}


def words(text: str) -> list[str]:
    """Words of a text: runs of letters and digits; each Chinese character is one."""
    return WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences of a text; what has no end at its end is one too."""
    found, start = [], 0
    for end in END.finditer(text):
        if ABBREVIATIONS.search(text[start : end.end()]):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in (*found, text[start:].strip()) if words(sentence)]


def language_of(text: str) -> str:
    """The language of a text as ISO 639-1: by the script of most letters, in Latin script by the function words."""
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPTS.items()}
    if counts["ja"] and counts["ja"] * 4 > counts["zh"]:  # Japanese is written with Chinese characters too
        counts["ja"] += counts["zh"]
    script = max(counts, key=counts.__getitem__)
    if script != "latin" or not counts[script]:
        return script if counts[script] else ""
    there = [word.lower() for word in words(text)]
    hits = {name: sum(word in known for word in there) for name, known in _FUNCTION_SETS.items()}
    return max(hits, key=hits.__getitem__) if any(hits.values()) else "en"


_FUNCTION_SETS = {name: frozenset(text.split()) for name, text in FUNCTION_WORDS.items()}


def _counts(number: int, wanted: Any, relation: str | None) -> bool:
    if relation is None or relation in ("at least", "至少"):
        return number >= int(wanted)
    if relation in ("less than", "少于"):
        return number < int(wanted)
    if relation in ("at most", "至多", "最多"):
        return number <= int(wanted)
    if relation in ("exactly", "equal", "正好", "等于"):
        return number == int(wanted)
    raise TypeError(f"relation {relation!r}; there are at least, less than, at most, exactly")


def _occurrences(text: str, keyword: str) -> int:
    """How often a keyword stands in a text as a word; Chinese has no spaces between words."""
    if re.search(f"[{HAN}]", keyword):
        return text.count(keyword)
    return len(re.findall(rf"(?<!\w){re.escape(keyword)}(?!\w)", text, re.IGNORECASE))


def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(_occurrences(text, keyword) for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str | None = None) -> bool:
    return _counts(_occurrences(text, keyword), frequency, relation)


def _forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_occurrences(text, word) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str | None = None) -> bool:
    return _counts(text.lower().count(letter.lower()), let_frequency, let_relation)


def _response_language(text: str, language: str) -> bool:
    wanted = SAME_SCRIPT.get(language.lower(), language.lower())
    if wanted not in SCRIPTS and wanted not in FUNCTION_WORDS:
        raise TypeError(f"language {language!r} is not known; there are {', '.join((*SCRIPTS, *FUNCTION_WORDS))}")
    return language_of(text) == wanted


def _number_sentences(text: str, num_sentences: int, relation: str | None = None) -> bool:
    return _counts(len(sentences(text)), num_sentences, relation)


def _number_words(text: str, num_words: int, relation: str | None = None) -> bool:
    return _counts(len(words(text)), num_words, relation)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = PARAGRAPH.split(text)
    inner = parts[1:-1] if len(parts) > 2 else []
    return all(part.strip() for part in inner) and sum(bool(part.strip()) for part in parts) == int(num_paragraphs)


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) != int(num_paragraphs) or not 1 <= int(nth_paragraph) <= len(parts):
        return False
    start = parts[int(nth_paragraph) - 1].strip().lstrip("\"'“‘「*").lower()
    wanted = first_word.strip().lower()
    follows = start[len(wanted) : len(wanted) + 1]
    return start.startswith(wanted) and (bool(re.search(f"[{HAN}]", wanted)) or not follows.isalnum())


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(PLACEHOLDER.findall(text)) >= int(num_placeholders)


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = r"\s*".join(re.escape(part) for part in postscript_marker.replace(" ", ""))
    return bool(re.search(rf"(?:^|\n|(?<=[.!?。！？\s])){marker}\s*\S", text, re.IGNORECASE))


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    return len(BULLET.findall(text)) == int(num_bullets)


def _constrained_response(text: str) -> bool:
    return any(choice in text for choice in CHOICES)


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    found = [one or two for one, two in STARS.findall(text)]
    return sum(bool(part.strip()) for part in found) >= int(num_highlights)


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    heads = re.findall(rf"{re.escape(section_spliter.strip())}\s?[\d一二三四五六七八九十]+", text)
    return len(heads) >= int(num_sections)


def _json_format(text: str) -> bool:
    body = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(found.strip("<>《》 ") for found in TITLE.findall(text))


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return len(filled) == 2 and all(parts[1:-1]) and filled[0] != filled[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"”」').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and QUOTES.get(text[0]) == text[-1]


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str | None = None) -> bool:
    return _counts(sum(word.isupper() for word in words(text)), capital_frequency, capital_relation)


def _english_capital(text: str) -> bool:
    return text.isupper() and language_of(text.lower()) == "en"


def _english_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


def _no_comma(text: str) -> bool:
    return not re.search("[,，、]", text)


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}
