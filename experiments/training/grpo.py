"""GRPO (DeepSeekMath, arXiv 2402.03300) by TRL's GRPOTrainer, from a plan to a folder: metrics, pass@1, the policy.

TRL samples by transformers, in this process (TRL 1.16 supports no vLLM as new as the engine's), a group per prompt, and
updates once per batch of groups. A training that is resumed ends as one that never stopped.
"""

import asyncio
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from experiments.analysis.answer_shares import OnAnswer
from experiments.data.datasets import DataConfig, Dataset
from experiments.data.graders import answers_of, grader_of
from experiments.training.grpo_figure import draw
from experiments.training.held_out import HeldOut, Outcome, outcome, read_held_out
from experiments.training.policy_plan import PolicyPlan, TrainPolicyConfig, start_folder
from experiments.training.rewards import Codec, GraderJudge, Rewards, Source, VerifierJudge
from orchestrator.core.errors import UserError

METRICS, FIGURE, POLICY = "metrics.parquet", "training.png", "policy"

# What TRL logs at each step, and the column that it becomes. Those of the rewards come beside these.
COLUMNS = {
    "step": "step",
    "reward": "reward",
    "reward_std": "reward_std",
    "reward_grader": "reward_grader",
    "reward_verifier": "reward_verifier",
    "masked": "share_masked",
    "frac_reward_zero_std": "share_without_signal",
    "kl": "kl",
    "entropy": "entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "completions/mean_length": "mean_tokens",
    "completions/clipped_ratio": "share_truncated",
    "num_tokens": "num_tokens",
    "step_time": "seconds",
}


def train(
    plan: PolicyPlan,
    checkpoint: Path | None,
    *,
    on_stage: Callable[[str], None],
    on_step: Callable[[int, Mapping[str, Any]], None],
    on_answer: OnAnswer,
) -> Outcome | None:
    """Trains from `checkpoint`, or from the start, to the end. None without held-out problems. `on_answer` is told of
    each completion that a grader grades.

    Raises UserError for a policy or a verifier that does not fit, HeadraceError when a batch can't be rewarded.
    """
    config = plan.config
    disable_progress_bar()  # of transformers, for each file of weights
    on_stage("loading the policy")
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    if not tokenizer.chat_template:
        raise UserError(f"model: {config.model} has no chat template, so problems can't become prompts")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    end_ids = _end_ids(model, tokenizer)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        codec = _codec(plan.dataset, config, tokenizer, end_ids)
        sources: dict[str, Source] = {}
        if config.grader_weight > 0:
            sources["grader"] = Source(
                judge=_grader(stack, plan.dataset, config.data, runner, on_answer), weight=config.grader_weight
            )
        if plan.verifier is not None and config.verifier_weight > 0:
            on_stage(f"loading {plan.verifier.name}")
            judge = VerifierJudge.load(plan.verifier, config.steps, tokenizer)
            sources["verifier"] = Source(judge=judge, weight=config.verifier_weight)
        held_out: HeldOut | None = None
        if plan.held_out is not None and config.held_out is not None:
            held_out = HeldOut(
                _codec(plan.held_out, config, tokenizer, end_ids),
                _grader(stack, plan.held_out, config.held_out.data, runner, on_answer),
                sampling=config.sampling,
                num_samples=config.held_out.num_samples,
                rows_at_once=config.completions_per_step,
                seed=config.seed,
            )
        trainer = _trainer(plan, model, tokenizer, codec, Rewards(sources, codec))
        trainer.add_callback(_Watch(plan, held_out, on_stage, on_step))
        if checkpoint is None:
            start_folder(plan)
            if held_out is not None:
                on_stage("measuring pass@1")
                held_out.measure(model, 0, plan.folder)
        on_stage("training")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _write_metrics(trainer.state.log_history, plan.folder)
    _save(model, config.model, plan.folder / POLICY)
    measured = read_held_out(plan.folder)
    figure = draw(pd.read_parquet(plan.folder / METRICS), measured, title=config.name)
    figure.savefig(plan.folder / FIGURE, dpi=120)
    return outcome(measured) if held_out is not None else None


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Tokens that end a completion: all that the checkpoint or its tokenizer names, as TRL has it."""
    named = model.generation_config.eos_token_id
    end_ids = {named} if isinstance(named, int) else set(named or ())
    if tokenizer.eos_token_id is not None:
        end_ids.add(tokenizer.eos_token_id)
    if not end_ids:
        raise UserError(f"model: {model.name_or_path} names no end token, so completions would never end")
    return end_ids


def _codec(dataset: Dataset, config: TrainPolicyConfig, tokenizer: PreTrainedTokenizerFast, end_ids: set[int]) -> Codec:
    """Raises UserError where a prompt leaves too little room for a completion."""
    codec = Codec((example.problem for example in dataset.examples), tokenizer, end_ids)
    context = AutoConfig.from_pretrained(config.model).get_text_config().max_position_embeddings
    longest = max(codec.prompt_ids, key=lambda id: len(codec.prompt_ids[id]))
    wanted = len(codec.prompt_ids[longest]) + config.sampling.max_tokens
    if wanted > context:
        raise UserError(
            f"sampling: max_tokens {config.sampling.max_tokens} after the {len(codec.prompt_ids[longest])} tokens of "
            f"problem {longest!r} makes {wanted}, the model's context is {context}"
        )
    return codec


def _grader(
    stack: ExitStack, dataset: Dataset, data: DataConfig, runner: asyncio.Runner, on_answer: OnAnswer
) -> GraderJudge:
    """A grader that lives on the runner's loop as long as the stack."""
    opened = answers_of(data)
    answers = runner.run(opened.__aenter__())
    stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))
    return GraderJudge(grader_of(dataset, answers), answers, runner, on_answer)


def _trainer(
    plan: PolicyPlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    codec: Codec,
    rewards: Rewards,
) -> Trainer:
    with warnings.catch_warnings():  # of vLLM's version: no vLLM is used here
        warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)
        import datasets
        from huggingface_hub import constants
        from trl import GRPOConfig, GRPOTrainer

    constants.HF_HUB_DISABLE_TELEMETRY = True  # else TRL reports its use to the hub
    config, on_gpu = plan.config, torch.cuda.is_available()
    arguments = GRPOConfig(
        output_dir=str(plan.checkpoints),
        max_steps=config.num_steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.completions_per_step // config.micro_batch,
        num_generations=config.num_generations,
        max_completion_length=config.sampling.max_tokens,
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        top_k=config.sampling.top_k,
        min_p=config.sampling.min_p or None,
        repetition_penalty=config.sampling.repetition_penalty,
        beta=config.beta,
        learning_rate=config.learning_rate,
        loss_type="grpo",  # the paper's; TRL's default is DAPO's
        seed=config.seed,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_steps=config.save_every,
        save_total_limit=2,
        disable_tqdm=True,
        report_to="none",
    )
    rows = [{"prompt": prompt, "problem_id": id} for id, prompt in codec.prompts.items()]
    trainer: Trainer = GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Watch(TrainerCallback):
    """Says what happens, measures pass@1 when it is due, and keeps the metrics beside each checkpoint."""

    def __init__(
        self,
        plan: PolicyPlan,
        held_out: HeldOut | None,
        on_stage: Callable[[str], None],
        on_step: Callable[[int, Mapping[str, Any]], None],
    ) -> None:
        self._plan = plan
        self._held_out = held_out
        self._on_stage = on_stage
        self._on_step = on_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        settings, step = self._plan.config.held_out, state.global_step
        if self._held_out is None or settings is None:
            return
        if step == state.max_steps or (settings.every_steps is not None and step % settings.every_steps == 0):
            self._on_stage("measuring pass@1")
            self._held_out.measure(kwargs["model"], step, self._plan.folder)
            self._on_stage("training")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "reward" in kwargs["logs"]:
            self._on_step(state.global_step, kwargs["logs"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        _write_metrics(state.log_history, self._plan.folder)


def _write_metrics(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """A row per step; the history's other entries sum up the whole training."""
    steps = pd.DataFrame([entry for entry in history if "reward" in entry])
    steps[[name for name in COLUMNS if name in steps]].rename(columns=COLUMNS).to_parquet(folder / METRICS)


def _save(model: PreTrainedModel, source: str, folder: Path) -> None:
    """The trained weights in the data type, and with the configuration and the tokenizer, of the policy as it came."""
    config = AutoConfig.from_pretrained(source)
    model.to(config.dtype or torch.float32).save_pretrained(folder)
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
