"""Facts about the look at a verifier's configuration before anything is loaded."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Budget
from orchestrator.verifier.check import check_budgets, check_verifier
from orchestrator.verifier.resolve import resolve
from verifiers import VERIFIERS, VerifierEntry

POLICY = str(Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy")
URL = {"url": "http://localhost:8000/v1"}


def check(config: VerifierConfig) -> None:
    check_verifier(resolve(config))


@pytest.fixture
def own(config: VerifierConfig, tmp_path: Path) -> VerifierConfig:
    """A copy of the checkpoint that a test may spoil."""
    shutil.copytree(config.model, tmp_path / "prm")
    return replace(config, model=str(tmp_path / "prm"))


def test_a_good_checkpoint_passes(config: VerifierConfig) -> None:
    check(config)


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest(config: VerifierConfig) -> None:
    with pytest.raises(UserError, match=r"unknown name 'streaming_pmr', valid .*\bstreaming_prm\b.*; did you mean"):
        check(replace(config, name="streaming_pmr"))
    with pytest.raises(UserError, match=r"valid names are .*\bstreaming_prm\b[^;]*$"):
        check(replace(config, name="oracle"))


def test_a_missing_folder_is_named(own: VerifierConfig) -> None:
    with pytest.raises(UserError, match=r"verifier: no folder .*prn"):
        check(replace(own, model=str(Path(own.model).with_name("prn"))))
    with pytest.raises(UserError, match="model must be the folder of a checkpoint, got nothing"):
        check(replace(own, model=""))


def test_a_checkpoint_of_another_architecture_is_refused(own: VerifierConfig) -> None:
    (Path(own.model) / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UserError, match="architecture LlamaForCausalLM, streaming_prm wants HeadraceStreamingPRM"):
        check(own)


def test_a_truncated_checkpoint_is_refused(own: VerifierConfig) -> None:
    weights = Path(own.model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut off"):
        check(own)


def judge(model: str = "", **options: object) -> VerifierConfig:
    return VerifierConfig(name="llm_judge", model=model, options=options)


def ensemble(*members: dict[str, object], **fields: object) -> VerifierConfig:
    return VerifierConfig(name="ensemble", options={"members": list(members)}, **fields)


def test_the_model_of_a_judge_is_the_policy_or_its_own_or_of_a_server() -> None:
    for config in (judge(), judge(POLICY), judge("gpt", **URL)):
        check(config)
    with pytest.raises(UserError, match="verifier: no folder nowhere"):
        check(judge("nowhere"))
    with pytest.raises(UserError, match="model must name a model of the server http://localhost:8000/v1, got nothing"):
        check(judge(**URL))


def test_the_key_of_a_server_is_looked_for_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable JUDGE_KEY is not set"):
        check(judge("gpt", **URL, api_key_env="JUDGE_KEY"))
    monkeypatch.setenv("JUDGE_KEY", "secret")
    check(judge("gpt", **URL, api_key_env="JUDGE_KEY"))


def test_an_engine_of_its_own_has_the_settings_of_a_policy() -> None:
    config = replace(judge(POLICY, engine={"max_num_seqs": 4}), replicas=3, stall_timeout_s=7.0)
    engine = resolve(config).engine("another policy")
    assert (engine.model, engine.replicas, engine.max_num_seqs, engine.stall_timeout_s) == (POLICY, 3, 4, 7.0)
    for engine, message in (
        ({"max_seqs": 4}, r"verifier\.options\.engine: max_seqs: Key 'max_seqs'"),
        ({"max_num_seqs": "many"}, r"verifier\.options\.engine: max_num_seqs"),
        ({"max_num_seqs": 0}, r"verifier\.options\.engine: policy: max_num_seqs must be >= 1, got 0"),
        ({"engine": "openai"}, r"verifier\.options\.engine: wanted vllm \(a server is options\.url\), got openai"),
        ({"engine_args": {"seed": 1}}, "seed can't be set here"),
        ({"replicas": 2, "model": "m"}, r"verifier\.options\.engine: model, replicas must be set in verifier itself"),
    ):
        with pytest.raises(UserError, match=message):
            check(judge(POLICY, engine=engine))
    with pytest.raises(UserError, match="no engine is started where the policy itself writes"):
        check(judge(engine={"max_num_seqs": 4}))


def test_only_what_is_hosted_takes_actors() -> None:
    own = replace(judge(POLICY), replicas=3)
    assert resolve(VerifierConfig(replicas=2)).num_actors(POLICY) == 2
    assert [resolve(config).num_actors(POLICY) for config in (judge(), own, judge("gpt", **URL))] == [0, 0, 0]
    assert resolve(own).num_actors("another policy") == 3
    members = [{"name": "streaming_prm", "replicas": 2}, {"name": "llm_judge", "model": POLICY, "replicas": 3}]
    assert resolve(ensemble(*members)).num_actors("another policy") == 5


def test_a_mistake_in_a_member_is_found_and_says_which() -> None:
    good = {"name": "llm_judge"}
    check(ensemble(good, {"name": "generative_prm", "weight": 2, "options": {"chains": 2}}))
    for member, message in (
        ({"name": "llm_jduge"}, r"members\[1\]: verifier: unknown name 'llm_jduge'.*did you mean llm_judge"),
        ({"name": "llm_judge", "model": "nowhere"}, r"members\[1\]: verifier: no folder nowhere"),
        ({"name": "llm_judge", "options": {"chains": 0}}, r"members\[1\]: verifier\.options: chains must be >= 1"),
        ({"name": "llm_judge", "wieght": 1}, "wieght"),
        ({"name": "llm_judge", "weight": 0}, "weight must be > 0, got 0"),
        ({"name": "ensemble"}, "an ensemble can't be a member of another"),
    ):
        with pytest.raises(UserError, match=message):
            check(ensemble(good, member))
    with pytest.raises(UserError, match="members: wanted at least one, got none"):
        check(ensemble())
    with pytest.raises(UserError, match=r"verifier\.options"):
        check(VerifierConfig(name="ensemble", options={"members": {"name": "llm_judge"}}))
    with pytest.raises(UserError, match="an ensemble has no model but its members', got model m"):
        check(ensemble(good, model="m"))


def test_an_ensemble_judges_steps_if_all_its_members_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERIFIERS, "orm", VerifierEntry(host="orm:Host", scores_steps=False))
    assert resolve(ensemble({"name": "streaming_prm"}, {"name": "llm_judge"})).scores_steps
    assert not resolve(ensemble({"name": "streaming_prm"}, {"name": "orm"})).scores_steps


def test_caps_that_a_written_verdict_or_an_ensemble_could_exceed_are_refused() -> None:
    for config in (judge(), ensemble({"name": "streaming_prm"}, {"name": "streaming_prm"})):
        check_budgets(resolve(config), [Budget(policy_tokens=9, candidates=9, seconds=9)])
        with pytest.raises(
            UserError, match=f"verifier_tokens and flops can't be capped with the verifier {config.name}"
        ):
            check_budgets(resolve(config), [Budget(verifier_tokens=9), Budget(flops=9)])


def test_the_models_of_members_are_resolved_like_any() -> None:
    found = resolve(ensemble({"name": "streaming_prm", "model": "a"}, {"name": "llm_judge"}), "/{}".format)
    assert [member.config.model for member in found.members] == ["/a", ""]
    assert [member.config.model for member in resolve(found.config).members] == ["/a", ""]
    assert resolve(VerifierConfig(model="a"), "/{}".format).config.model == "/a"


def test_the_check_loads_neither_torch_nor_ray() -> None:
    code = "import sys, orchestrator.verifier.check, verifiers; print(*({'torch', 'ray', 'vllm'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []


def test_the_engine_option_says_which_host_serves() -> None:
    assert resolve(VerifierConfig(name="qwen_prm")).entry.host == "verifiers.transformer_prm:TransformerHost"
    config = VerifierConfig(name="qwen_prm", options={"engine": "vllm"})
    assert resolve(config).entry.host == "orchestrator.verifier.pooling_host:PoolingHost"
    with pytest.raises(UserError, match="options of skywork_prm: kv_cache_gib"):
        resolve(VerifierConfig(name="skywork_prm", options={"engine": "vllm"}))
    with pytest.raises(UserError, match="kv_cache_gib must be > 0, got 0"):
        resolve(VerifierConfig(name="orm", options={"kv_cache_gib": 0}))
