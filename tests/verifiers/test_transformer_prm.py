"""Against references that follow each model's published usage, one whole sequence at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Qwen2Config,
    Qwen2Model,
)

from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Solution
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import resolve
from tests.verifiers.reward_checkpoints import CHECKPOINTS
from verifiers import VERIFIERS
from verifiers.contract import Answer, HostSettings, Read, Run, Unreadable
from verifiers.transformer_prm import TransformerHost

QUESTION = "Janet has 3 apples and 4 pears. How many?"
PROBLEM = Problem(id="p", messages=(Message(role="user", content=QUESTION),))
STEPS = ("So 3 + 4 = 7 \\(\\frac{7}{1}\\)\n\n", "Of caf\u00e9s \U0001f34f: 0.\n\n", "The answer is: 7")
Whole = Callable[[Path, str, Sequence[str]], list[float]]


# references


@cache
def tokenizer_of(folder: Path):
    return AutoTokenizer.from_pretrained(folder)


@cache
def model_of(cls: type, folder: Path):
    return cls.from_pretrained(folder, dtype=torch.float32).eval()


@cache
def qwen2_of(folder: Path) -> tuple[Qwen2Model, dict[str, Tensor]]:
    weights = load_file(folder / "model.safetensors")
    backbone = Qwen2Model(Qwen2Config.from_pretrained(folder)).eval()
    backbone.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    return backbone, weights


def hidden_states(folder: Path, ids: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
    backbone, weights = qwen2_of(folder)
    return backbone(torch.tensor([ids])).last_hidden_state[0], weights


def chatml(*turns: str) -> str:
    roles = ("system", "user", "assistant") if len(turns) == 3 else ("user", "assistant")
    return "".join(f"<|im_start|>{role}\n{turn}<|im_end|>\n" for role, turn in zip(roles, turns, strict=True))


def qwen_prm(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    answer = "".join(f"{step.strip()}<extra_0>" for step in steps)
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    tokenizer = tokenizer_of(folder)
    ids = tokenizer.encode(chatml(system, question, answer))
    hidden, w = hidden_states(folder, ids)
    logits = torch.relu(hidden @ w["score.0.weight"].T + w["score.0.bias"]) @ w["score.2.weight"].T + w["score.2.bias"]
    marks = torch.tensor(ids) == tokenizer.encode("<extra_0>")[0]
    return logits.softmax(-1)[marks, 1].tolist()


def math_shepherd(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer = tokenizer_of(folder)
    text = question + " " + "\n".join(f"{step.strip()} ки" for step in steps)
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    good, bad = tokenizer.encode("+ -", add_special_tokens=False)
    logits = model_of(AutoModelForCausalLM, folder)(torch.tensor([ids])).logits[0]
    marks = torch.tensor(ids) == tokenizer.encode("ки", add_special_tokens=False)[-1]
    return logits[:, [good, bad]].softmax(-1)[marks, 0].tolist()


def skywork_prm(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer = tokenizer_of(folder)
    newline = tokenizer.encode("\n")[-1]
    ids, ends = tokenizer.encode(tokenizer.bos_token + question + "\n"), []
    for step in steps:
        for line in step.strip().split("\n"):
            ids += [*tokenizer.encode(line), newline]
        ends.append(len(ids) - 1)
    hidden, w = hidden_states(folder, ids)
    values = hidden @ w["v_head.summary.weight"].T + w["v_head.summary.bias"]
    return values[ends, 0].sigmoid().tolist()


def rlhflow_prm(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer, model, scores = tokenizer_of(folder), model_of(AutoModelForCausalLM, folder), []
    plus, minus = tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]
    conversation: list[dict[str, str]] = []
    for number, step in enumerate(steps):
        text = f"{question} {step.strip()}" if number == 0 else step.strip()
        conversation += [{"role": "user", "content": text}, {"role": "assistant", "content": "+"}]
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        scores.append(float(model(torch.tensor([ids])).logits[0, -3, [plus, minus]].softmax(-1)[0]))
    return scores


def two_class_prm(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer = tokenizer_of(folder)
    encode = partial(tokenizer.encode, add_special_tokens=False)
    ids, ends = [tokenizer.bos_token_id, *encode(question)], []
    for step in steps:
        ids += encode(step.strip()) + encode("\n")
        ends.append(len(ids) - 1)
    logits = model_of(AutoModelForTokenClassification, folder)(torch.tensor([ids])).logits[0]
    return logits.softmax(-1)[ends, 1].tolist()


def orm(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    ids = tokenizer_of(folder).encode(chatml(question, "".join(steps)))
    return [float(model_of(AutoModelForSequenceClassification, folder)(torch.tensor([ids])).logits[0, 0].sigmoid())]


REFERENCES: dict[str, Whole] = {
    "qwen_prm": qwen_prm,
    "math_shepherd": math_shepherd,
    "skywork_prm": skywork_prm,
    "rlhflow_prm": rlhflow_prm,
    "two_class_prm": two_class_prm,
    "orm": orm,
}


# what is tested


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {}
    for name, make in CHECKPOINTS.items():
        found[name] = tmp_path_factory.mktemp(name)
        make(found[name])
    return found


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> Callable[..., TransformerHost]:
    """Hosts over models that are loaded once, each with a store of its own."""

    @cache
    def load(name: str) -> TransformerHost:
        options = VERIFIERS[name].options()
        return TransformerHost.load(HostSettings(name=name, model=str(folders[name]), options=options))

    def host(name: str, *, kv_tokens: int = 10_000, batch_tokens: int = 300) -> TransformerHost:
        one = load(name)
        return TransformerHost(name, one.model, one.reader, kv_tokens=kv_tokens, batch_tokens=batch_tokens)

    return host


def run(key: str, steps: Sequence[str], *asked: int, parent: str | None = None, **fields: bool) -> Run:
    return Run(
        key=key,
        token_ids=(0,) * len(steps),
        boundaries=tuple(range(1, len(asked) + 1)),
        parent=parent,
        solution=Solution(problem=PROBLEM, steps=tuple(steps), asked=asked, ended=True),
        **fields,
    )


def scores(answer: Answer) -> list[float]:
    assert isinstance(answer, Read), answer
    return [score.mean for score in answer.scores]


@pytest.mark.parametrize("name", REFERENCES)
def test_scores_are_those_of_the_published_usage(name: str, folders: dict[str, Path], loaded) -> None:
    asked = (0, 1, 2) if VERIFIERS[name].scores_steps else (2,)
    wanted = REFERENCES[name](folders[name], QUESTION, STEPS)
    [answer] = loaded(name).read([run("a", STEPS, *asked)])
    assert scores(answer) == pytest.approx(wanted, abs=1e-5)
    assert len({round(score, 3) for score in wanted}) == len(wanted), "the reference tells steps apart"


@pytest.mark.parametrize("name", [name for name in REFERENCES if VERIFIERS[name].scores_steps])
def test_a_step_costs_its_own_tokens_and_scores_as_if_all_were_read(
    name: str, folders: dict[str, Path], loaded
) -> None:
    host, wanted = loaded(name), REFERENCES[name](folders[name], QUESTION, STEPS)
    [at_once] = loaded(name).read([run("whole", STEPS, 0, 1, 2)])
    answers = [host.read([run(f"{n}", STEPS[: n + 1], n, parent=f"{n - 1}", keep_parent=False)])[0] for n in range(3)]
    assert [score for answer in answers for score in scores(answer)] == pytest.approx(wanted, abs=1e-5)
    assert isinstance(at_once, Read)
    assert sum(a.tokens_read for a in answers if isinstance(a, Read)) == at_once.tokens_read
    assert sum(a.flops for a in answers if isinstance(a, Read)) == at_once.flops
    assert len(host.store) == 1, "parents that nobody will fork from are gone"


def test_siblings_are_read_in_one_call_and_do_not_disturb_each_other(folders: dict[str, Path], loaded) -> None:
    host = loaded("math_shepherd")
    host.read([run("root", STEPS[:1], 0)])
    tails = ["One.", "It takes two, or three, or more words to say so.\n\n", "ки", "4 - 3 = 1\n\n"]
    runs = [run(f"c{i}", [STEPS[0], tail], 1, parent="root") for i, tail in enumerate(tails)]
    grandchildren = [run(f"g{i}", [STEPS[0], tail, "So what?"], 2, parent=f"c{i}") for i, tail in enumerate(tails)]
    for family, last in ((runs, []), (runs, []), (grandchildren, ["So what?"]), (runs, [])):
        for answer, tail in zip(host.read(family), tails, strict=True):
            if tail == "ки":  # which the reference would take for a mark
                assert scores(answer)
                continue
            wanted = math_shepherd(folders["math_shepherd"], QUESTION, [STEPS[0], tail, *last])
            assert scores(answer) == pytest.approx(wanted[-1:], abs=1e-5)


def test_candidates_of_one_problem_read_their_prompt_once(loaded) -> None:
    host = loaded("qwen_prm")
    answers = host.read([run(f"{i}", [f"{i} pears."], 0) for i in range(8)])
    read = [answer.tokens_read for answer in answers if isinstance(answer, Read)]
    assert len(read) == 8 and all(tokens < read[0] / 4 for tokens in read[1:])


def test_a_score_that_was_not_asked_before_is_there_without_reading(loaded) -> None:
    host = loaded("qwen_prm")
    host.read([run("a", STEPS, 2)])
    [later] = host.read([run("b", STEPS, 0, 1, 2, parent="a")])
    [fresh] = loaded("qwen_prm").read([run("b", STEPS, 0, 1, 2)])
    assert isinstance(later, Read) and later.tokens_read == 0
    assert scores(later) == pytest.approx(scores(fresh), abs=1e-5)


def test_a_place_that_was_read_past_without_a_score_is_read_again(loaded) -> None:
    """The same tokens, cut into other steps: Skywork's are lines."""
    host = loaded("skywork_prm")
    host.read([run("a", ["One.\nTwo.\n\n", "Three."], 0, 1)])
    cut = ["One.", "Two.\n\n", "Three."]
    [answer] = host.read([run("b", cut, 0, 1, 2, parent="a")])
    [fresh] = loaded("skywork_prm").read([run("b", cut, 0, 1, 2)])
    assert scores(answer) == pytest.approx(scores(fresh), abs=1e-5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    kv_tokens=st.integers(0, 300),
    batch_tokens=st.integers(1, 400),
    moves=st.lists(st.sampled_from(["advance", "advance", "fork", "release"]), min_size=1, max_size=8),
)
def test_eviction_costs_time_and_never_changes_a_score(
    folders: dict[str, Path], loaded, seed: int, kv_tokens: int, batch_tokens: int, moves: list[str]
) -> None:
    rng = Random(seed)
    host = loaded("qwen_prm", kv_tokens=kv_tokens, batch_tokens=batch_tokens)
    texts: dict[str | None, list[str]] = {None: []}
    for number, move in enumerate(moves):
        parent = rng.choice(sorted(texts, key=str))
        if move == "release":
            host.release([parent or "unknown"])
            continue
        runs = []
        for child in range(1 if move == "advance" else 3):
            key = f"{number}.{child}"
            new = [f"{rng.choice('abc')} {'= 7 ' * rng.randint(0, 5)}\n\n" for _ in range(rng.randint(1, 2))]
            texts[key] = texts[parent] + new
            asked = range(len(texts[parent]), len(texts[key]))
            runs.append(run(key, texts[key], *asked, parent=parent, keep_parent=move == "fork"))
        for one, answer in zip(runs, host.read(runs), strict=True):
            assert one.solution is not None
            wanted = qwen_prm(folders["qwen_prm"], QUESTION, one.solution.steps)
            assert scores(answer) == pytest.approx([wanted[i] for i in one.solution.asked], abs=1e-5)
        assert host.store.num_tokens <= kv_tokens


def test_a_solution_beyond_the_context_is_unreadable_and_spoils_no_other(loaded) -> None:
    answers = loaded("qwen_prm").read([run("a", ["7 = 7 " * 600], 0), run("b", STEPS[:1], 0)])
    assert isinstance(answers[0], Unreadable) and "the verifier reads at most 1024" in answers[0].reason
    assert isinstance(answers[1], Read)


def test_a_score_that_is_not_finite_is_an_error_and_no_score(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["qwen_prm"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["score.2.bias"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = HostSettings(name="qwen_prm", model=str(tmp_path), options=VERIFIERS["qwen_prm"].options())
    host = TransformerHost.load(settings)
    [answer] = host.read([run("a", STEPS, 0)])
    assert isinstance(answer, Unreadable) and "not a finite number" in answer.reason
    assert len(host.store) == 0


@pytest.mark.parametrize("name", REFERENCES)
def test_a_checkpoint_of_another_architecture_is_refused_before_it_is_loaded(
    name: str, folders: dict[str, Path]
) -> None:
    check_verifier(resolve(VerifierConfig(name=name, model=str(folders[name]))))
    other = folders["orm" if name != "orm" else "qwen_prm"]
    with pytest.raises(UserError, match=f"holds the architecture .*, {name} wants"):
        check_verifier(resolve(VerifierConfig(name=name, model=str(other))))


@pytest.mark.parametrize(
    ("weights", "config", "reason"),
    [
        ({"score.2.bias": None}, {}, "lacks 1 weights, the first is score.2.bias"),
        ({}, {"architectures": ["MambaModel"]}, "the architecture MambaModel is unknown"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    folders: dict[str, Path], tmp_path: Path, weights: dict[str, None], config: dict[str, object], reason: str
) -> None:
    for file in folders["qwen_prm"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    kept = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if k not in weights}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | config))
    settings = HostSettings(name="qwen_prm", model=str(tmp_path), options=VERIFIERS["qwen_prm"].options())
    with pytest.raises(ValueError, match=reason):
        TransformerHost.load(settings)


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("qwen_prm", "two_class_prm", "there is no chat template"),
        ("math_shepherd", "rlhflow_prm", "'ки' is more than one token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_format_is_refused(
    name: str, other: str, reason: str, folders: dict[str, Path]
) -> None:
    settings = HostSettings(name=name, model=str(folders[other]), options=VERIFIERS[name].options())
    with pytest.raises(ValueError, match=f"the tokenizer does not fit: .*{reason}"):
        TransformerHost.load(settings)
