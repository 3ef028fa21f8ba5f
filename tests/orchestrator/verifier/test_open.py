"""Facts about opening verifiers by name that need no Ray: those that write, and ensembles of them."""

from contextlib import AsyncExitStack

import pytest

from orchestrator.core.config import VerifierConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import ScoreRequest, Solution
from orchestrator.verifier.open import open_verifier
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import resolve
from tests.fakes import ScriptedPolicy

TEMPLATE = "{problem}|{solution}#"
READING = ScoreRequest(
    token_ids=(1,),
    boundaries=(1,),
    solution=Solution(problem=Problem.from_prompt("p", "Q"), steps=("a",), asked=(0,)),
)


class Policy(ScriptedPolicy):
    """The run's own."""

    model, num_ready = "policy", 2


def judge(name: str, **fields: object) -> dict[str, object]:
    return {"name": name, "options": {"template": TEMPLATE, "chains": 1}, **fields}


@pytest.mark.parametrize("model", ["", "policy"])
async def test_a_judge_without_a_model_or_with_the_policys_has_the_policy_write(model: str) -> None:
    policy = Policy({"#": ["Rating: \\boxed{6}"]})
    async with AsyncExitStack() as stack:
        verifier = await open_verifier(stack, resolve(VerifierConfig(**judge("llm_judge", model=model))), policy=policy)
        [verdict] = await verifier.score([READING])
        assert (verdict.scores[0].mean, verifier.num_ready) == (0.6, 2)
        assert await verifier.stats() == [{"tokens_read": verdict.verifier_tokens}]


async def test_an_ensemble_opens_its_members() -> None:
    policy = Policy({"#": ["Step 1: \\boxed{correct}\nRating: \\boxed{6}"]})
    members = [judge("llm_judge", weight=3.0), judge("generative_prm")]
    config = VerifierConfig(name="ensemble", options={"members": members})
    async with AsyncExitStack() as stack:
        verifier = await open_verifier(stack, resolve(config), policy=policy)
        [verdict] = await verifier.score([READING])
    assert verdict.scores[0].mean == pytest.approx(0.75 * 0.6 + 0.25)
    assert verifier.num_ready == 2 and len(policy.requests) == 2


@pytest.mark.parametrize(
    ("members", "scores_steps"),
    [(["generative_prm", "llm_judge"], True), (["generative_orm"], False), (["llm_judge", "generative_orm"], False)],
)
async def test_what_is_resolved_and_what_is_open_agree_on_whether_steps_are_judged(
    members: list[str], scores_steps: bool
) -> None:
    config = VerifierConfig(name="ensemble", options={"members": [judge(name) for name in members]})
    async with AsyncExitStack() as stack:
        verifier = await open_verifier(stack, resolve(config), policy=Policy({}))
        assert verifier.scores_steps == resolve(config).scores_steps == scores_steps


async def test_a_judge_opens_its_server_and_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"url": "http://127.0.0.1:1/v1", "flops_per_token": 1.0}
    async with AsyncExitStack() as stack:
        verifier = await open_verifier(
            stack, resolve(VerifierConfig(name="llm_judge", model="m", options=options)), policy=Policy({})
        )
        client = verifier._writer._client
        assert verifier.num_ready == 1 and not client.is_closed()
    assert client.is_closed()


async def test_a_pool_is_not_opened_for_what_is_not_hosted() -> None:
    with pytest.raises(ValueError, match="wanted one that replicas can host, got llm_judge"):
        async with VerifierPool.open(resolve(VerifierConfig(name="llm_judge"))):
            pass
