from experiments.data.sets import data_config


def test_a_prompt_shows_worked_examples_as_a_chat_and_ends_with_the_question():
    first, second = data_config({"name": "word_problems", "num_problems": 2}).load().examples
    assert [message.role for message in first.problem.messages] == ["user", "assistant"] * 4 + ["user"]
    assert first.problem.messages[:-1] == second.problem.messages[:-1]
    assert first.problem.messages[-1] != second.problem.messages[-1]
    assert first.problem.id == "word-0-0000"


def test_the_answer_is_the_last_number_of_a_reply():
    config = data_config({"name": "word_problems"})
    assert config.answer_format.extract("13 - 9 = 4") == "4"
    assert len(config.load().examples) == 200
