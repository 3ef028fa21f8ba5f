import re

from experiments.smollm2.word_problems import generate, worked_examples


def test_the_solution_is_the_equation_of_the_question_and_ends_with_the_answer():
    for problem in generate(300):
        left, symbol, right, result = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", problem.solution).groups()
        assert re.findall(r"\d+", problem.question) == [left, right]
        assert int(result) == int(left) + int(symbol + right) > 0
        assert result == problem.answer


def test_problems_are_distinct_and_none_is_an_example():
    questions = [problem.question for problem in generate(300)]
    assert len(set(questions)) == 300
    assert not set(questions) & {example.question for example in worked_examples()}


def test_fewer_problems_are_a_prefix_of_more_and_another_seed_gives_others():
    assert generate(10) == generate(40)[:10]
    assert generate(10, seed=1) != generate(10)
