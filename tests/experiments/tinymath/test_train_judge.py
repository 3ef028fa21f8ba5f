"""What the tiny generative PRM learns to write is what exact labels say, in tokens that it knows."""

import random
from itertools import islice
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

import experiments.tinymath
from experiments.config import PROJECT_ROOT, load_yaml
from experiments.judging.run import JudgeConfig
from experiments.labelling.config import LabelConfig
from experiments.tinymath.corruptions import corrupt, corrupt_steps
from experiments.tinymath.task import generate, step_labels
from experiments.tinymath.tokenizer import prompt_ids
from experiments.tinymath.train_judge import (
    JUDGE,
    batches,
    chain,
    first_errors_found,
    from_policy,
    judge_tokenizer,
    question,
    result_of,
    steps_of,
)
from orchestrator.verifier.resolve import resolve
from verifiers.generative import correct_steps
from verifiers.generative_options import Question

CONFIGS = PROJECT_ROOT / "configs"
POLICY = Path(experiments.tinymath.__file__).parent / "models" / "policy"
TOKENIZER = judge_tokenizer()


def test_a_chain_finds_the_first_error_that_exact_labels_find() -> None:
    rng = random.Random(0)
    for problem in generate("train", 60):
        for solution in (
            problem.solution,
            corrupt(problem.solution, rng),
            corrupt_steps(problem.solution, 0.4, rng),
            problem.solution.rpartition("\n\n")[0],  # no answer
            f"{problem.solution}\n\nKim: 1 + 1 = 2",  # a step too many
        ):
            written, labels = chain(problem, solution), step_labels(problem, solution)
            assert correct_steps(written, len(labels)) == sum(labels)
            asked = Question(prompt="", asked=tuple(range(len(labels))), num_steps=len(labels))
            assert JUDGE.values(asked, written) == tuple(map(float, labels))


def test_questions_and_chains_are_in_the_judges_tokens_and_fit_its_limit() -> None:
    rng = random.Random(0)
    for problem in generate("train", 60):
        solution = corrupt_steps(problem.solution, 0.5, rng)
        ids = TOKENIZER.encode(chain(problem, solution), add_special_tokens=False)
        assert TOKENIZER.decode(ids) == chain(problem, solution)
        assert TOKENIZER.unk_token_id not in [*ids, *prompt_ids(TOKENIZER, question(problem, solution))]
        assert len(ids) < JUDGE.max_tokens
    assert result_of("Kim: 3 + 4 = 7") == result_of("Answer: 7") == "7"


def test_configurations_ask_the_judge_as_it_was_trained() -> None:
    asked = [load_yaml(CONFIGS / "label_judge.yaml", LabelConfig)[0].verifier]
    asked += load_yaml(CONFIGS / "verifiers.yaml", JudgeConfig)[0].verifiers.values()
    judges = [resolve(one).options for one in asked if one is not None and one.name == "generative_prm"]
    assert len(judges) == 3
    assert {(judge.template, judge.max_tokens) for judge in judges} == {(JUDGE.template, JUDGE.max_tokens)}


@pytest.mark.parametrize(("rate", "wrong"), [(0.0, 0.0), (0.5, 0.46), (1.0, 0.925)])
def test_steps_are_corrupted_each_for_itself(rate: float, wrong: float) -> None:
    rng = random.Random(0)
    kept = [
        got == wanted
        for problem in generate("train", 1000)
        for got, wanted in zip(
            steps_of(corrupt_steps(problem.solution, rate, rng)), steps_of(problem.solution), strict=True
        )
    ]
    assert 1 - sum(kept) / len(kept) == pytest.approx(wrong, abs=0.02)  # a slip in 13 hits upon the right step


def test_only_the_chain_is_learnt_and_the_policys_words_are_kept() -> None:
    problem = generate("train", 1)[0]
    policy = LlamaForCausalLM.from_pretrained(POLICY)
    judge = from_policy(policy, TOKENIZER)
    words = policy.get_input_embeddings().weight
    assert judge.get_input_embeddings().weight[: len(words)].equal(words)
    [(ids, targets)] = islice(batches(TOKENIZER, [(problem, problem.solution)]), 1)
    for row, learnt in zip(ids, targets, strict=True):
        text = TOKENIZER.decode(row[1:][learnt[:-1] != -100])
        assert text.startswith("Step 1:") and text.endswith("<eos>")
        assert text.count("Step") == TOKENIZER.decode(row).count("Step") / 2


def test_what_is_measured_tells_unread_chains_from_errors_found() -> None:
    policy = LlamaForCausalLM.from_pretrained(POLICY)
    problems = generate("dev", 4)
    solutions = [(p, p.solution) for p in problems] + [(p, "Answer: 0") for p in problems]
    untrained = first_errors_found(from_policy(policy, TOKENIZER), TOKENIZER, solutions)
    assert untrained == {"dev_found_in_wrong": 0.0, "dev_found_in_right": 0.0, "dev_unread": 1.0}
