"""A text that is scored while it is written gets the scores of the whole, at constant memory."""

from random import Random

import pytest
import torch

from verifiers import monitor
from verifiers.monitor import Monitor
from verifiers.streaming_prm import StreamingPRM, beta_std


def tokens(count: int) -> list[int]:
    return [Random(count).randrange(32) for _ in range(count)]


@torch.inference_mode()
def whole(prm: StreamingPRM, ids: list[int]) -> list[tuple[float, float]]:
    """Mean and standard deviation after each token, read at once."""
    output = prm(torch.tensor([ids]), torch.tensor([len(ids)]), prm.initial_state(1))
    mean = output.mean_logit[0].sigmoid()
    return list(zip(mean.tolist(), beta_std(mean, output.concentration[0]).tolist(), strict=True))


@pytest.mark.parametrize("every_tokens", [1, 7])
def test_scores_of_a_text_pushed_in_any_pieces_are_those_of_the_whole(
    prm: StreamingPRM, every_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_MOST_TOKENS", 16)
    text, prompt, rng = tokens(150), tokens(9), Random(0)
    wanted = whole(prm, prompt + text)[9:]
    reader = Monitor(prm, every_tokens=every_tokens, prompt_ids=prompt)
    read, start = [], 0
    while start < len(text):
        end = start + rng.choice([0, 1, 1, 5, 40])
        read += reader.push(text[start:end])
        start = end
        if start and reader.score is not None:
            assert (reader.score.mean, reader.score.std) == pytest.approx(wanted[min(start, 150) - 1], abs=1e-4)
    assert [r.num_tokens for r in read] == list(range(every_tokens, 151, every_tokens))
    for r in read:
        assert (r.score.mean, r.score.std) == pytest.approx(wanted[r.num_tokens - 1], abs=1e-4)


def test_nothing_but_a_state_of_fixed_size_is_kept(prm: StreamingPRM) -> None:
    reader = Monitor(prm)
    assert reader.score is None and reader.push([]) == []

    def kept() -> int:
        return sum(t.untyped_storage().nbytes() for t in vars(reader).values() if isinstance(t, torch.Tensor))

    reader.push(tokens(3))
    before = kept()
    for _ in range(5):
        reader.push(tokens(500))
    assert kept() == before == 4 * prm.state_numel
    assert not any(isinstance(value, list | tuple | dict) for value in vars(reader).values())


def test_what_can_not_be_scored_is_an_error_and_no_score(prm: StreamingPRM) -> None:
    with pytest.raises(ValueError, match="every_tokens must be >= 1, got 0"):
        Monitor(prm, every_tokens=0)
    with pytest.raises(ValueError, match="token id 32 is outside the verifier's vocabulary of 32"):
        Monitor(prm).push([1, 32])
    broken = StreamingPRM(prm.config).eval()
    torch.nn.init.constant_(broken.head.bias.data, float("nan"))
    with pytest.raises(ValueError, match="not a finite number"):
        Monitor(broken).push([1])
