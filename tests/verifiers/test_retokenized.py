"""A PRM with tokens of its own judges another policy's text: scores are those of its own tokens, step by step."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from experiments.config import PROJECT_ROOT
from experiments.tinymath.task import STEP_DELIMITER, generate
from orchestrator.core.nouns import Problem, Score
from orchestrator.core.protocols import Solution
from verifiers.contract import Answer, HostSettings, Missing, Read, Run, Unreadable
from verifiers.retokenized import RetokenizedHost, StepTokenizer
from verifiers.streaming import StreamingHost
from verifiers.streaming_prm import PRMConfig, StreamingPRM, beta_std

STEPS = (
    "First, \\(x^2 + 1 = \\frac{3}{4}\\).\n\n",
    " leading space, then 12 + 30 = 42\n\n",
    "",
    "naïve ∑ 数学 🧮 e\u0301\u200d\n\n",
    "\n\n",
    "   \\boxed{42}\t",
    "<eos> is what the policy wrote",
)
PROBLEM = Problem.from_prompt("p", "How many: 12 + 30 = ? ∑")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE, whose merges cross steps where they can, and a random PRM over it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["".join(STEPS)] * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    torch.manual_seed(0)
    config = PRMConfig(
        vocab_size=len(tokenizer), width=16, num_layers=1, mlp_width=16, inner=16, head_dim=8, state_dim=4, chunk_len=8
    )
    prm = StreamingPRM(config)
    with torch.no_grad():
        prm.embedding.weight.normal_(std=1.0)
        prm.token_read.weight.normal_(std=1.0)
        prm.head.weight.mul_(4)
    path = tmp_path_factory.mktemp("retokenized")
    prm.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def host(folder: Path, slots: int = 64, host_slots: int = 0) -> RetokenizedHost:
    return RetokenizedHost.load(
        HostSettings(name="retokenized_prm", model=str(folder), options=None, slots=slots, host_slots=host_slots)
    )


@pytest.fixture(scope="module")
def reader(folder: Path) -> RetokenizedHost:
    return host(folder)


def text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Of the text alone: no special token, not even where it is spelt."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == text
    return ids


def written(folder: Path, steps: Sequence[str], ended: bool = False) -> list[list[int]]:
    """The prompt's ids, then each step's, from the tokenizer itself."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": m.role, "content": m.content} for m in PROBLEM.messages]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ids = [prompt, *(text_ids(tokenizer, step) for step in steps)]
    return [*ids[:-1], [*ids[-1], tokenizer.eos_token_id]] if ended else ids


@torch.inference_mode()
def wanted(folder: Path, steps: Sequence[str], asked: Sequence[int], ended: bool = False) -> list[Score]:
    """Scores of the StreamingPRM that reads the ids of all steps at once."""
    ids, prm = written(folder, steps, ended), StreamingPRM.from_pretrained(folder)
    flat = [token for part in ids for token in part]
    output = prm(torch.tensor([flat]), torch.tensor([len(flat)]), prm.initial_state(1))
    mean = output.mean_logit[0].sigmoid()
    std = beta_std(mean, output.concentration[0])
    ends = [sum(map(len, ids[: step + 2])) - 1 for step in asked]
    return [Score(mean=float(mean[end]), std=float(std[end])) for end in ends]


def run(
    key: str,
    steps: Sequence[str],
    asked: Sequence[int],
    *,
    parent: str | None = None,
    ended: bool = False,
    keep_parent: bool = True,
) -> Run:
    """As a pool sends it; the policy's tokens are one for each character."""
    return Run(
        key=key,
        token_ids=(0,) * len("".join(steps)),
        boundaries=tuple(range(1, len(asked) + 1)),
        parent=parent,
        keep_parent=keep_parent,
        solution=Solution(problem=PROBLEM, steps=tuple(steps), asked=tuple(asked), ended=ended),
    )


def assert_same(answer: Answer, scores: Sequence[Score]) -> Read:
    assert isinstance(answer, Read), answer
    assert [s.mean for s in answer.scores] == pytest.approx([s.mean for s in scores], abs=1e-4)
    assert [s.std for s in answer.scores] == pytest.approx([s.std for s in scores], abs=1e-4)
    return answer


def test_scores_of_awkward_text_are_those_of_each_steps_own_tokens(folder: Path, reader: RetokenizedHost) -> None:
    asked = range(len(STEPS))
    for ended in (False, True):
        [answer] = reader.read([run(f"whole {ended}", STEPS, asked, ended=ended)])
        assert_same(answer, wanted(folder, STEPS, asked, ended))
    together = text_ids(PreTrainedTokenizerFast.from_pretrained(folder), "".join(STEPS))
    assert together != [token for step in written(folder, STEPS)[1:] for token in step]  # some would straddle a step


def test_a_step_costs_its_own_tokens_and_the_problem_is_read_once(folder: Path) -> None:
    reader, ids, parent = host(folder), written(folder, STEPS), None
    for step in range(len(STEPS)):
        runs = [run(f"{step}", STEPS[: step + 1], [step], parent=parent)]
        if step == 0:  # a sibling, which pays for no prompt
            runs.append(run("sibling", ["other"], [0]))
        answers = reader.read(runs)
        if STEPS[step]:
            answer = assert_same(answers[0], wanted(folder, STEPS[: step + 1], [step]))
            assert answer.tokens_read == len(ids[step + 1]) + (len(ids[0]) if step == 0 else 0)
            parent = f"{step}"
        else:  # the place of its score is behind the state
            assert answers == [Missing()]
            [again] = reader.read([run(f"{step}", STEPS[: step + 1], [step])])
            assert_same(again, wanted(folder, STEPS[: step + 1], [step]))
        if step == 0:
            assert assert_same(answers[1], wanted(folder, ["other"], [0])).tokens_read == len(
                written(folder, ["other"])[1]
            )
    [late] = reader.read([run("late", ["one more"], [0])])
    assert assert_same(late, wanted(folder, ["one more"], [0])).tokens_read == len(written(folder, ["one more"])[1])


def test_forks_do_not_disturb_each_other_and_an_end_is_read_as_the_end_token(
    folder: Path, reader: RetokenizedHost
) -> None:
    reader.read([run("root", STEPS[:2], [1])])
    tails = ["left\n\n", " right", "", "数"]
    runs = [run(f"fork {t}", [*STEPS[:2], t], [2], parent="root", ended=True) for t in tails]
    for _ in range(2):
        for answer, tail in zip(reader.read(runs), tails, strict=True):
            assert_same(answer, wanted(folder, [*STEPS[:2], tail], [2], ended=True))
    follows = run("after", [*STEPS[:2], "数", "Wait"], [3], parent="fork 数")
    assert reader.read([follows]) == [Missing()]  # nothing follows an end token


def test_a_moved_state_goes_on_where_it_was(folder: Path, reader: RetokenizedHost) -> None:
    reader.read([run("home", STEPS[:2], [1])])
    other = host(folder)
    other.import_(["away"], reader.export(["home"]))
    [answer] = other.read([run("next", STEPS[:4], [3], parent="away")])
    assert assert_same(answer, wanted(folder, STEPS[:4], [3])).tokens_read == len(written(folder, STEPS)[4])


def test_evicted_states_are_reported_and_rebuilt_from_the_text(folder: Path) -> None:
    rng, tight = Random(0), host(folder, slots=2)
    texts: dict[str, list[str]] = {}
    missing = 0
    for number in range(40):
        parent = rng.choice([None, *sorted(texts)])
        steps = [*texts.get(parent or "", []), f"{rng.choice(STEPS)}{number}"]
        one = run(f"{number}", steps, [len(steps) - 1], parent=parent, keep_parent=rng.random() < 0.5)
        [answer] = tight.read([one])
        if isinstance(answer, Missing):
            missing += 1
            [answer] = tight.read([run(one.key, steps, [len(steps) - 1])])
        assert_same(answer, wanted(folder, steps, [len(steps) - 1]))
        texts[one.key] = steps
    assert missing


def test_a_parent_of_another_text_is_never_taken(reader: RetokenizedHost) -> None:
    reader.read([run("long", ["a", "bcd"], [1])])
    assert reader.read([run("x", ["ab", "c"], [1], parent="long")]) == [Missing()]


def test_what_can_not_be_read_is_said(folder: Path, reader: RetokenizedHost, tmp_path: Path) -> None:
    assert reader.read([Run(key="k", token_ids=(1, 2))]) == [Missing()]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    refusing = RetokenizedHost(host(folder)._host, StepTokenizer(tokenizer))
    [answer] = refusing.read([run("k", STEPS, [0])])
    assert isinstance(answer, Unreadable) and "chat template refuses" in answer.reason
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        StepTokenizer(tokenizer)
    prm = StreamingPRM.from_pretrained(folder)
    prm.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no tokenizer: wanted tokenizer\.json"):
        host(tmp_path)
    other = PRMConfig(
        vocab_size=8, width=8, num_layers=1, mlp_width=8, inner=8, head_dim=8, tokenizer_fingerprint="f" * 64
    )
    StreamingPRM(other).save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not the one that the PRM was trained with: .*wanted ffffffffffff"):
        host(tmp_path)


def test_the_shipped_prm_scores_text_as_it_scores_the_policys_tokens() -> None:
    model = str(PROJECT_ROOT / "experiments" / "tinymath" / "models" / "prm")
    settings = HostSettings(name="prm", model=model, options=None, slots=4, host_slots=0)
    problem = generate("test", 1)[0]
    steps = tuple(f"{step}{STEP_DELIMITER}" for step in problem.solution.split(STEP_DELIMITER))
    asked = tuple(range(len(steps)))
    solution = Solution(problem=Problem.from_prompt(problem.id, problem.prompt), steps=steps, asked=asked)
    host = RetokenizedHost.load(settings)
    tokens = StepTokenizer.load(model).tokenise(solution)
    [of_text] = host.read([Run(key="text", token_ids=(0,), boundaries=(1,), solution=solution)])
    [of_tokens] = StreamingHost.load(settings).read([Run(key="ids", token_ids=tokens.ids, boundaries=tokens.ends[1:])])
    assert isinstance(of_text, Read) and isinstance(of_tokens, Read)
    wanted = [score.mean for score in of_tokens.scores]
    assert [score.mean for score in of_text.scores] == pytest.approx(wanted, abs=1e-5)
