"""Facts about calls of tools: their one spelling, and calls that are forced."""

from orchestrator.core.tools import Call, CallingReply, ToolChoice, Tools, forced_calls

GIVEN = ({"type": "function", "function": {"name": "f"}},)


def calling(arguments: str, name: str = "f") -> CallingReply:
    return CallingReply(content="", calls=(Call(name=name, arguments=arguments),))


def test_equal_calls_have_one_spelling() -> None:
    assert calling('{"a": 1, "b": "é"}').answer == calling('{"b":"\\u00e9","a":1}').answer
    assert calling("").answer == calling("{}").answer
    assert len({calling('{"a": 1}').answer, calling('{"a": 2}').answer, calling('{"a": 1}', "g").answer}) == 3


def test_arguments_that_are_no_json_are_equal_to_themselves_only() -> None:
    assert calling("{a").answer == calling("{a").answer != calling("{b").answer


def test_forced_calls_that_were_cut_short_are_none() -> None:
    named = Tools(given=GIVEN, choice=ToolChoice.NAMED, name="f")
    assert forced_calls(named, '{"a"') is None
    assert forced_calls(named, ' {"a": 1}\n') == calling('{"a": 1}')
    assert forced_calls(Tools(given=GIVEN, choice=ToolChoice.REQUIRED), '[{"name": "f"') is None


def test_what_a_server_did_not_hold_to_the_schema_is_no_call() -> None:
    required = Tools(given=GIVEN, choice=ToolChoice.REQUIRED)
    for text in ("5", "[]", '[{"name": "f"}]', '{"name": "f", "parameters": {}}', '["f"]'):
        assert forced_calls(required, text) is None, text
    assert forced_calls(required, '[{"name": "f", "parameters": {"a": 1}}]') == calling('{"a": 1}')
