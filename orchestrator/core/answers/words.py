"""How an answer is announced, in the languages that models are asked in. Regular expressions that ignore case."""

import re

_LABELS = (
    r"(?:(?:the|my|our|your|so|final|correct|short|numerical|numeric|exact)\s+){0,3}(?:answers?|ans\.?)",
    r"final\s+(?:result|solution|value)",
    r"(?:正确|最终|最后|标准|參考|参考|最終)?(?:的)?(?:答案|答)",
    r"(?:最終的な)?(?:答え|解答|回答)",
    r"(?:최종\s*)?(?:정답|답변|답)",
    r"(?:правильный\s+|окончательный\s+|итоговый\s+)?ответ",
    r"(?:(?:la|una)\s+)?respuesta(?:\s+(?:final|correcta))?",
    r"(?:(?:la)\s+)?réponse(?:\s+(?:finale|correcte))?",
    r"(?:(?:die)\s+)?(?:richtige\s+|endgültige\s+)?(?:antwort|endergebnis|lösung)",
    r"(?:(?:a)\s+)?resposta(?:\s+(?:final|correta))?",
    r"(?:(?:la)\s+)?risposta(?:\s+(?:finale|corretta))?",
    r"(?:het\s+)?antwoord",
    r"odpowiedź",
    r"(?:đáp\s+án|đáp\s+số|trả\s+lời)",
    r"(?:cevap|yanıt)",
    r"jawaban",
    r"svar(?:et)?",
    r"(?:ال)?(?:إجابة|اجابة|جواب)(?:\s+(?:النهائية|النهائي|الصحيحة))?",
    r"(?:अंतिम\s+|सही\s+)?उत्तर",
    r"คำตอบ",
    r"উত্তর",
    r"پاسخ(?:\s+نهایی)?",
    r"відповідь",
    r"απάντηση",
    r"תשובה",
)
ANSWER = rf"(?:{'|'.join(_LABELS)})"

_ENGLISH_IS = (
    r"\b(?:answers?|ans|final\s+(?:value|result)|(?:option|choice)(?=[\s*_]+is[\s*_:]+(?:option\s+)?[(\\{$textbfrm]*[A-J]\b))\b"
    r"(?:\s+(?:to|for|of|in)\s+[^.:\n$\\]{1,80}?|\s*\([^()\n]{1,40}\)|,[^,.\n]{1,60},)?[\s*_]*(?:is|are|was|should\s+be|must\s+be|would\s+be|will\s+be|equals|becomes|comes\s+(?:out\s+)?to|turns\s+out\s+to\s+be)\b"
)
_OTHER_IS = (
    r"(?:答案|答)(?:应该|應該|就|便)?(?:是|为|為|等于|等於)",
    r"(?:答え|解答)は",
    r"(?:정답|답)[은는이]\s",
    r"ответ(?:ом)?\s*(?:является|равен|[-—–])",
    r"respuesta(?:\s+\w+)?\s+es\b",
    r"réponse(?:\s+\w+)?\s+est\b",
    r"(?:antwort|lösung)\s+(?:ist|lautet)\b",
    r"resposta(?:\s+\w+)?\s+é\b",
    r"risposta(?:\s+\w+)?\s+è\b",
    r"antwoord\s+is\b",
    r"(?:đáp\s+án|đáp\s+số)\s+là\b",
    r"(?:الإجابة|الجواب)\s+(?:هي|هو)",
    r"उत्तर\s+(?=\S+\s+है)",
)
ANSWER_IS = (
    rf"(?:{_ENGLISH_IS}|{'|'.join(_OTHER_IS)})"
    r"(?:\s*(?:therefore|thus|then|simply|just|hence|indeed|approximately|about|exactly|clearly|equal\s+to|given\s+by|option|choice)\b)*"
    r"[\s*_]*[:=]?[\s*_]*"
)

_STEMS = (
    *("ans", "final", "option", "choice", "答", "답", "ответ", "відповідь", "odpowiedź", "απάντηση", "תשובה"),
    *("respuesta", "réponse", "resposta", "risposta", "antwort", "endergebnis", "lösung", "antwoord", "svar"),
    *("đáp", "trả", "cevap", "yanıt", "yanit", "jawaban", "جابة", "جواب", "پاسخ", "उत्तर", "উত্তর", "คำตอบ"),
)
_LONGEST_BEFORE = 60  # characters of an announcement before its stem: "the final numerical answer"


def first_announcement(text: str) -> int | None:
    """No announcement begins before there; None where there is none in the text. Much faster than looking for one:
    every `ANSWER` and `ANSWER_IS` holds one of a few stems."""
    lower = text.lower()
    first = min((at for stem in _STEMS if (at := lower.find(stem)) >= 0), default=None)
    if first is None or len(lower) != len(text):  # a letter that is two in lower case
        return None if first is None else 0
    return max(0, first - _LONGEST_BEFORE)


IS_AT_END = r"です|である|だ|となります|になります|입니다|이다|이에요|예요|है"
"""Verbs that end a sentence after its answer."""

_IS = r"(?:(?i:\s+(?:is|are|option|choice|must be|should be|therefore|thus|hence|\w+ly))|[是为為])*[\s:：=*_(\[{$\\]*"
_LETTER = r"(?:(?:text|mathrm|textbf|boxed)\{)*\(?([A-J])(?![A-Za-z'’])"

CHOICES = (
    re.compile(
        rf"(?i:answer|(?:correct|right|best)\s+(?:option|choice)|choose|pick|select|答案|选|選)(?!项|項){_IS}{_LETTER}"
        r"|boxed\{(?:\\text\w*\{)?\(?([A-J])\b"
    ),
    re.compile(rf"(?i:option|choice|选项|選項){_IS}{_LETTER}"),
    re.compile(r"\(([A-J])\)|(?<![\w(])([A-J])\)|(?:^|\n)[ \t*_>]*([A-J])(?=[ \t*_]*(?:[.):]|$|\n))"),
)
"""How a choice letter stands in a text, the likeliest to be its answer first: called so, named as a choice, alone."""
