"""Text as a reader sees it: without thinking, HTML tags, odd spaces and other scripts' digits.

What models print that means nothing must not stay in an answer; what means something stays (`<sup>2</sup>` is a power).
"""

import re
import unicodedata

_THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_TAG = re.compile(
    r"</?(?:a|b|i|u|s|p|br|hr|em|strong|span|div|font|center|small|big|mark|code|pre|ul|ol|li|h[1-6]|table|tr|td|th|"
    r"tbody|thead|blockquote|details|summary)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_MOST_OF_A_RUN = 40
_RUNAWAY = re.compile(r"(?<=\S)([ \t])\1{40,}|([\\`*_#])\2{40,}")  # repeated without end, and no part of an answer
_TURN_ENDS = re.compile(
    r"(?<=\S)\s*<(?:\|(?:im_end|eot_id|end_of_text|endoftext|eom_id|return|end)\||end_of_turn|eos)>"
)
_SPECIAL_TOKEN = re.compile(r"<\|[\w-]{1,40}\|>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>")
_LINE_TAG = re.compile(r"<(?:br|p|/p|div|/div|/li|/h[1-6]|hr)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_SUP = re.compile(r"<sup>([^<>\n]{1,80})</sup>", re.IGNORECASE)
_SUB = re.compile(r"<sub>([^<>\n]{1,80})</sub>", re.IGNORECASE)
_ENTITIES = {"&nbsp;": " ", "&lt;": "<", "&gt;": ">", "&amp;": "&", "&minus;": "-", "&times;": "×", "&quot;": '"'}
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u202a\u202b\u202c\u202d\u202e"))
_MINUS = str.maketrans("−‒–﹣－", "-----")
_WIDE_SIGNS = str.maketrans("：＝（），．％＋／；＄＃＊", ":=(),.%+/;$#*")
_ARABIC_SIGNS = str.maketrans("٫٬٪", ".,%")


def without_thinking(text: str) -> str:
    """What a model says: no thinking that ended, none that the prompt began, and none that never ends; one turn."""
    for begin, end in _THINKING:
        if begin in text or end in text:
            text = _outside(text, begin, end)
    said = _TURN_ENDS.split(text.lstrip(), maxsplit=1)
    return said[0] or text


def _outside(text: str, begin: str, end: str) -> str:
    """What stands outside of the blocks; a lone end has its block before it, a lone beginning after it."""
    said, start = [], 0
    while (opens := text.find(begin, start)) >= 0 and (closes := text.find(end, opens)) >= 0:
        said.append(text[start:opens])
        start = closes + len(end)
    said.append(text[start:])
    return "".join(said).rpartition(end)[2].partition(begin)[0]


def cleaned(text: str) -> str:
    """The same text in plain characters, line by line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _RUNAWAY.sub(lambda match: match[0][:_MOST_OF_A_RUN], text)
    if "&" in text:
        for entity, character in _ENTITIES.items():
            text = text.replace(entity, character)
    if "<" in text:
        text = _SPECIAL_TOKEN.sub("", text)
        text = _SUP.sub(r"^{\1}", _SUB.sub(r"_{\1}", text))
        text = _TAG.sub("", _LINE_TAG.sub("\n", text))
    if text.isascii():
        return text
    text = text.translate(_INVISIBLE).translate(_MINUS).translate(_WIDE_SIGNS).translate(_ARABIC_SIGNS)
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if "\uff21" <= character <= "\uff5a":  # full-width Latin letters
        return unicodedata.normalize("NFKC", character)
    return character
