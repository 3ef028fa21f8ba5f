from experiments.config import PROJECT_ROOT, load_yaml, make_strategies
from experiments.judging.run import JudgeConfig, plan_judging
from experiments.labelling.config import LabelConfig
from experiments.labelling.run import plan_label
from experiments.replay.run import ReplayConfig
from experiments.running.run import plan_run
from experiments.smollm2.convert import OUT
from experiments.training.prm_plan import TrainConfig
from strategies.adaptive_consistency import AdaptiveConsistency

CONFIGS = PROJECT_ROOT / "configs"
TINY_POLICY, TINY_PRM = "experiments/tinymath/models/policy", "experiments/tinymath/models/prm"


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


def test_the_prm_is_judged_on_problems_that_it_was_not_trained_on():
    policy = f"policy.model={TINY_POLICY}"
    trained = plan_label(CONFIGS / "label_smollm2.yaml", [policy])
    judged = plan_judging(CONFIGS / "verifiers_smollm2.yaml", [policy, f"verifiers.streaming_prm.model={TINY_PRM}"])
    questions = {problem.messages[-1].content for problem in trained.problems}
    assert trained.problems and len(judged.dataset.examples) >= 100
    assert not questions & {example.problem.messages[-1].content for example in judged.dataset.examples}


def test_the_prm_goes_from_the_labels_to_the_judging_by_the_same_folders():
    labels, _ = load_yaml(CONFIGS / "label_smollm2.yaml", LabelConfig)
    training, _ = load_yaml(CONFIGS / "train_prm_smollm2.yaml", TrainConfig)
    judging, _ = load_yaml(CONFIGS / "verifiers_smollm2.yaml", JudgeConfig)
    assert training.data.train == f"{labels.results_dir}/{labels.name}"
    assert training.tokenizer == labels.policy.model == judging.policy.model == str(OUT)
    assert training.model.step_delimiter in judging.steps.delimiters and judging.steps == labels.steps
    assert judging.verifiers["streaming_prm"].model == training.out
    assert (judging.sampling, judging.policy) == (labels.sampling, labels.policy)
