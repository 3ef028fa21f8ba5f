"""Facts about benchmarks of a policy that the user names; here it is the tiny one, which is foreign enough."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from experiments.bench import beam, foreign, orchestration
from experiments.bench.foreign import subject_of
from experiments.bench.tiny import TINY
from experiments.doctor import TINY_POLICY, TINY_PRM
from orchestrator.core.checkpoints import read_checkpoint_config
from orchestrator.core.errors import UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint

WORD = "random-mamba2-130m"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    sizes = {"width": 32, "num_layers": 1, "inner": 32, "head_dim": 32, "state_dim": 16}
    monkeypatch.setattr(foreign, "RANDOM", {WORD: replace(foreign.LARGE, **sizes)})


def test_the_random_verifier_has_the_sizes_that_its_word_says(monkeypatch):
    monkeypatch.undo()
    sizes = foreign.RANDOM[WORD]
    assert (sizes.width, sizes.num_layers, sizes.inner, sizes.state_dim) == (768, 24, 1536, 128)


def test_the_random_verifier_reads_the_tokens_of_the_policy():
    vocab = AutoTokenizer.from_pretrained(TINY_POLICY).get_vocab()
    with subject_of(str(TINY_POLICY), WORD, 2) as subject:
        config = read_checkpoint_config(subject.verifier.model, "verifier")
    assert config["tokenizer_fingerprint"] == tokenizer_fingerprint(vocab)
    assert config["vocab_size"] == max(vocab.values()) + 1
    assert [config["step_delimiter"]] == subject.steps.delimiters


def test_questions_come_alone_and_every_repeat_has_its_own():
    with subject_of(str(TINY_POLICY), None, 3) as subject:
        first, second = subject.problems(3, 0), subject.problems(3, 3)
    assert [len(problem.messages) for problem in first] == [1, 1, 1]
    assert len({problem.messages[-1].content for problem in (*first, *second)}) == 6


def test_without_a_policy_it_is_the_tiny_pair():
    with subject_of(None, None, 16) as subject:
        assert subject is TINY


def test_a_verifier_of_the_user_is_taken_as_it_is():
    with subject_of(str(TINY_POLICY), str(TINY_PRM), 2) as subject:
        assert subject.verifier.model == str(TINY_PRM)


@pytest.mark.parametrize(
    ("policy", "verifier", "message"),
    [
        ("/nowhere", None, "no folder /nowhere"),
        (str(TINY_POLICY), "random-mamba", f"got 'random-mamba', wanted the folder of a streaming PRM, or {WORD}"),
        (str(TINY_POLICY), str(TINY_POLICY), "holds the architecture LlamaForCausalLM"),
    ],
)
def test_what_can_not_be_measured_is_refused_with_the_reason(policy, verifier, message):
    with pytest.raises(UserError, match=message), subject_of(policy, verifier, 2):
        pass


async def test_beam_search_wants_a_verifier():
    with subject_of(str(TINY_POLICY), None, 2) as subject:
        with pytest.raises(UserError, match="verifier is missing"):
            await beam.measure(subject, repeats=1, on_repeat=print)


@pytest.mark.engines
async def test_both_benchmarks_measure_a_foreign_policy():
    with subject_of(str(TINY_POLICY), WORD, 2) as subject:
        searched = await beam.measure(subject, repeats=1, on_repeat=print)
        sampled = await orchestration.measure(subject, repeats=1, on_repeat=print)
    assert searched.details["tokens"].keys() == {"best_of_n at 2", "beam at 2"}
    assert all(counts["verifier"] >= counts["generated"] > 0 for counts in searched.details["tokens"].values())
    assert searched.goal == "<= 1.10" and sampled.goal == ">= 0.98"
    assert sampled.details["tokens"]["pools"] == sampled.details["tokens"]["bare engine"]
