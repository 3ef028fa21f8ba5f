"""Scores kept beside a prefix cache; and vLLM's pooling in the actor of a pool, against the transformers host."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import torch

from orchestrator.core.config import VerifierConfig
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import ScoreRequest, Solution
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.pooling_host import PoolingHost
from orchestrator.verifier.resolve import resolve
from tests.verifiers.reward_checkpoints import CHECKPOINTS, qwen_prm
from verifiers import VERIFIERS
from verifiers.contract import Answer, HostSettings, Read, Run, Unreadable
from verifiers.formats import format_of
from verifiers.solution_reader import SolutionReader
from verifiers.transformer_options import PooledOptions
from verifiers.transformer_prm import TransformerHost

PROBLEM = Problem.from_prompt("p", "Janet has 3 apples and 4 pears. How many are they together?")
ROOT = ("So 3 + 4 = 7.\n\n", "That is \\(\\frac{14}{2}\\), as she can count.\n\n")


def solution(*steps: str, asked: tuple[int, ...]) -> Solution:
    return Solution(problem=PROBLEM, steps=steps, asked=asked, ended=True)


class BlockPooler:
    """A model whose logits tell how many tokens it has seen, with a prefix cache of blocks of 8 that is never read to
    its end."""

    shape = ModelShape(weights_per_token=1, head_weights=0, num_layers=0, attention_width=0)

    def __init__(self) -> None:
        self._blocks: set[tuple[int, ...]] = set()

    def logits(self, prompts: Sequence[Sequence[int]], *, read_cache: bool) -> list[list[list[float]]]:
        rows = []
        for prompt in map(tuple, prompts):
            cached = 0
            while read_cache and cached + 8 < len(prompt) and prompt[: cached + 8] in self._blocks:
                cached += 8
            self._blocks |= {prompt[:end] for end in range(8, len(prompt) + 1, 8)}
            rows.append([[0.0, seen / 50] for seen in range(cached + 1, len(prompt) + 1)])
        return rows


@pytest.mark.parametrize("max_scores", [0, 1, 100])
def test_a_score_whose_tokens_are_cached_is_remembered_or_read_again(tmp_path: Path, max_scores: int) -> None:
    qwen_prm(tmp_path)
    reader = SolutionReader.load(str(tmp_path), format_of("qwen_prm"), context_length=500, vocab_size=1000)
    host = PoolingHost("qwen_prm", BlockPooler(), reader, model_hash="", max_scores=max_scores)
    total = 0
    for asked in ((0,), (1,), (0, 1), (0,)):
        one = solution(*ROOT, asked=asked)
        [answer] = host.read([Run(key="a", token_ids=(), solution=one)])
        places = reader.read(one).asked
        assert isinstance(answer, Read)
        wanted = [1 / (1 + math.exp(-(place + 1) / 50)) for place in places]
        assert [score.mean for score in answer.scores] == pytest.approx(wanted)
        assert answer.flops == 2 * answer.tokens_read
        total += answer.tokens_read
    first, second = reader.read(solution(*ROOT, asked=(0, 1))).asked
    if max_scores == 100:
        assert total <= second + 1 + 8, "each token once, and those of a block that was not full"
    if max_scores == 0:
        assert total > second + 1 + first, "a dropped score is read again"


def test_a_run_that_can_t_be_read_spoils_no_other(tmp_path: Path) -> None:
    qwen_prm(tmp_path)
    reader = SolutionReader.load(str(tmp_path), format_of("qwen_prm"), context_length=120, vocab_size=1000)
    host = PoolingHost("qwen_prm", BlockPooler(), reader, model_hash="")
    runs = [solution("7 " * 200, asked=(0,)), solution(ROOT[0], asked=(0,)), solution(ROOT[0], asked=())]
    answers = host.read([Run(key=f"{i}", token_ids=(), solution=one) for i, one in enumerate(runs)])
    assert isinstance(answers[0], Unreadable) and "reads at most 120" in answers[0].reason
    assert isinstance(answers[1], Read) and len(answers[1].scores) == 1
    assert answers[2] == Read(scores=(), tokens_read=0, flops=0.0)


@pytest.mark.timeout(600)  # the engine takes half a minute to start, more on a busy machine
async def test_vllm_s_pooling_gives_the_scores_of_transformers_and_reads_its_prefix_cache(
    local_ray: object, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    qwen_prm(tmp_path)
    options = VERIFIERS["qwen_prm"].options()
    host = TransformerHost.load(HostSettings(name="qwen_prm", model=str(tmp_path), options=options))
    calls = [
        [solution(*ROOT, asked=(0, 1))],
        [solution(*ROOT, f"{n} pears.\n\n", asked=(2,)) for n in range(3)],
        [solution(*ROOT, "1 pears.\n\n", "The answer is: 7", asked=(0, 3))],
        [solution(*ROOT, "1 pears.\n\n", asked=(2,))],
    ]
    config = VerifierConfig(
        name="qwen_prm",
        model=str(tmp_path),
        options={"engine": "vllm", "kv_cache_gib": 0.05},
        start_timeout_s=400,
        stall_timeout_s=300,
    )
    read = []
    async with VerifierPool.open(resolve(config)) as pool:
        for number, call in enumerate(calls):
            answers = host.read([Run(key=f"{number}.{i}", token_ids=(), solution=one) for i, one in enumerate(call)])
            ends = [tuple(range(1, len(one.asked) + 1)) for one in call]
            verdicts = await pool.score(
                [
                    ScoreRequest(token_ids=(0,) * 9, boundaries=end, solution=one)
                    for end, one in zip(ends, call, strict=True)
                ]
            )
            for verdict, answer in zip(verdicts, answers, strict=True):
                assert isinstance(answer, Read)
                wanted = [score.mean for score in answer.scores]
                assert [score.mean for score in verdict.scores] == pytest.approx(wanted, abs=1e-4)
            read.append([verdict.verifier_tokens for verdict in verdicts])
    prompt = read[0][0]
    assert prompt > 64
    assert all(0 < tokens < prompt - 32 for tokens in read[1] + read[2]), (
        "whole blocks of the prefix are not read again"
    )
    assert read[3] == [0], "a score that is known costs nothing"


@pytest.mark.engines
@pytest.mark.timeout(600)
def test_every_format_that_vllm_serves_has_the_scores_of_transformers(local_ray: object, tmp_path: Path) -> None:
    """One process for all of their engines: importing vLLM is what takes long."""
    kinds = [name for name, entry in VERIFIERS.items() if issubclass(entry.options, PooledOptions)]
    assert kinds == ["qwen_prm", "math_shepherd", "rlhflow_prm", "two_class_prm", "orm"]
    settings, calls = [], []
    for kind in kinds:
        torch.manual_seed(0)
        CHECKPOINTS[kind](tmp_path / kind)
        options = VERIFIERS[kind].options(kv_cache_gib=0.05)
        settings.append(HostSettings(name=kind, model=str(tmp_path / kind), options=options))
        texts = [(*ROOT, f"{n} pears.\n\n") for n in range(3)]
        asked = (0, 1, 2) if VERIFIERS[kind].scores_steps else (2,)
        calls.append([[Run(key=f"{n}", token_ids=(), solution=solution(*t, asked=asked))] for n, t in enumerate(texts)])

    @ray.remote(num_cpus=1)
    def read(settings: list[HostSettings], calls: list[list[list[Run]]]) -> list[list[Answer]]:
        from orchestrator.verifier.pooling_host import PoolingHost

        hosts = [PoolingHost.load(one) for one in settings]  # at once: an engine that goes takes vLLM's groups along
        return [[host.read(call)[0] for call in own] for host, own in zip(hosts, calls, strict=True)]

    for kind, one, own, found in zip(kinds, settings, calls, ray.get(read.remote(settings, calls)), strict=True):
        host = TransformerHost.load(one)
        wanted = [host.read(call)[0] for call in own]
        assert all(isinstance(answer, Read) for answer in (*found, *wanted)), kind
        for ours, theirs in zip(found, wanted, strict=True):
            means = [score.mean for score in theirs.scores]
            assert [score.mean for score in ours.scores] == pytest.approx(means, abs=1e-4), kind
        assert found[0].flops >= wanted[0].flops, f"{kind}: vLLM computes the head at every token"
        assert 0 < found[1].tokens_read < found[0].tokens_read - 32, f"{kind}: whole blocks are not read again"
