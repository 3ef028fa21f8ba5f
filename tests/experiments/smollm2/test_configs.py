from experiments.config import PROJECT_ROOT, load_yaml, make_strategies
from experiments.replay.run import ReplayConfig
from experiments.running.run import plan_run
from experiments.smollm2.convert import OUT
from strategies.adaptive_consistency import AdaptiveConsistency

CONFIGS = PROJECT_ROOT / "configs"
TINY_POLICY = "experiments/tinymath/models/policy"


def test_the_run_passes_every_check_once_the_model_is_there():
    plan = plan_run(CONFIGS / "smollm2.yaml", [f"policy.model={TINY_POLICY}"])
    assert len(plan.jobs) == 2 * 200
    assert plan.verifier is None and not plan.warnings


def test_the_run_reads_what_the_conversion_writes():
    assert f"model: {OUT}," in (CONFIGS / "smollm2.yaml").read_text(encoding="utf-8")


def test_the_replay_draws_no_more_samples_than_the_run_recorded():
    run = plan_run(CONFIGS / "smollm2.yaml", [f"policy.model={TINY_POLICY}"])
    [recorded] = [named.strategy.n for named in run.strategies if named.name == "self_consistency"]
    config, _ = load_yaml(CONFIGS / "smollm2_replay.yaml", ReplayConfig)
    strategies = [named.strategy for named in make_strategies(config.strategies)]
    assert max(strategy.n for strategy in strategies) == recorded
    assert any(isinstance(strategy, AdaptiveConsistency) for strategy in strategies)
