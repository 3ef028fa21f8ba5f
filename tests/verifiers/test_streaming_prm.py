"""The carried state is exact: splits, padding and forks change no score; wrong checkpoints are refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.core.fingerprint import tokenizer_fingerprint
from verifiers.streaming_prm import MIXERS, PRMConfig, PRMOutput, StreamingPRM, beta_std

CONFIG = PRMConfig(vocab_size=23, width=16, num_layers=2, mlp_width=24, inner=32, head_dim=8, state_dim=8, chunk_len=8)
ANYTHING = 10**9  # an id that no vocabulary holds


CONFIGS = {mixer: replace(CONFIG, mixer=mixer) for mixer in MIXERS}
CONFIGS["mamba2_as_in_checkpoints"] = replace(CONFIG, num_groups=2, mlp_width=0, tied_head=False)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> StreamingPRM:
    torch.manual_seed(0)
    model = StreamingPRM(CONFIGS[request.param]).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).add_(0.2 * torch.randn_like(parameter))
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(sum(shape)))


def read_whole(model: StreamingPRM, ids: Tensor) -> PRMOutput:
    return model(ids, torch.full((len(ids),), ids.shape[1]), model.initial_state(len(ids)))


def assert_close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_random_ragged_splits_equal_the_whole(model: StreamingPRM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids, ends = tokens(3, 60), torch.tensor([60, 41, 23])
    whole = model(ids, ends, model.initial_state(3))
    state, position = model.initial_state(3), torch.zeros(3, dtype=torch.long)
    while (position < ends).any():
        lengths = torch.minimum(torch.randint(0, 25, (3,), generator=generator), ends - position)
        piece = torch.full((3, int(lengths.max())), ANYTHING)
        for row, (start, length) in enumerate(zip(position.tolist(), lengths.tolist(), strict=True)):
            piece[row, :length] = ids[row, start : start + length]
        output = model(piece, lengths, state)
        for row, (start, length) in enumerate(zip(position.tolist(), lengths.tolist(), strict=True)):
            for name in ("mean_logit", "concentration", "lm_logits"):
                got, wanted = getattr(output, name)[row], getattr(whole, name)[row]
                assert_close(got[:length], wanted[start : start + length])
        state, position = output.state, position + lengths
    assert_close(state, whole.state)


def test_token_by_token_equals_the_whole(model: StreamingPRM) -> None:
    ids = tokens(2, 30)
    whole, state, logits = read_whole(model, ids), model.initial_state(2), []
    for t in range(30):
        output = model(ids[:, t : t + 1], torch.ones(2, dtype=torch.long), state)
        logits.append(output.mean_logit)
        state = output.state
    assert_close(torch.cat(logits, 1), whole.mean_logit)
    assert_close(state, whole.state)


def test_padding_and_neighbours_never_matter(model: StreamingPRM) -> None:
    ids, lengths = tokens(4, 20), torch.tensor([20, 0, 1, 13])
    state = torch.randn(4, model.state_numel, generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths.tolist()):
        ids[row, length:] = ANYTHING
    together = model(ids, lengths, state)
    for row, length in enumerate(lengths.tolist()):
        alone = model(ids[row : row + 1, :length], lengths[row : row + 1], state[row : row + 1])
        assert_close(together.mean_logit[row, :length], alone.mean_logit[0])
        assert_close(together.state[row], alone.state[0])
    assert torch.equal(together.state[1], state[1])


def test_forks_disturb_neither_siblings_nor_parent(model: StreamingPRM) -> None:
    parent = read_whole(model, tokens(1, 12)).state
    kept = parent.clone()
    left, right = tokens(1, 9), tokens(1, 7)
    both = [model(ids, torch.tensor([ids.shape[1]]), parent) for ids in (left, right)]
    for ids, forked in zip((left, right), both, strict=True):
        assert_close(forked.mean_logit, read_whole(model, torch.cat([tokens(1, 12), ids], 1)).mean_logit[:, 12:])
    assert torch.equal(parent, kept)


def test_state_is_one_fp32_vector_of_known_size(model: StreamingPRM) -> None:
    state = read_whole(model, tokens(2, 5)).state
    assert state.shape == (2, model.state_numel) and state.dtype == torch.float32 and state.is_contiguous()


def test_state_of_another_size_is_refused(model: StreamingPRM) -> None:
    with pytest.raises(ValueError, match=r"PRM state: .* got 7, wanted \d+"):
        model(tokens(1, 3), torch.tensor([3]), torch.zeros(1, 7))


def test_mean_and_spread_are_those_of_the_beta() -> None:
    mean, concentration = torch.tensor([0.3, 0.9]), torch.tensor([5.0, 20.0])
    beta = torch.distributions.Beta(mean * concentration, (1 - mean) * concentration)
    torch.testing.assert_close(beta_std(mean, concentration), beta.stddev)


def test_concentration_exceeds_one(model: StreamingPRM) -> None:
    assert (read_whole(model, tokens(2, 15)).concentration > 1).all()


def test_language_logits_are_those_of_the_whole_model(model: StreamingPRM) -> None:
    ids = tokens(2, 15)
    got = model.language_logits(ids, torch.tensor([15, 15]), model.initial_state(2))
    assert_close(got, read_whole(model, ids).lm_logits)


def test_a_saved_model_loads_as_itself(model: StreamingPRM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = StreamingPRM.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.model_hash == model.model_hash
    assert torch.equal(read_whole(loaded, tokens(1, 9)).mean_logit, read_whole(model, tokens(1, 9)).mean_logit)


def test_another_weight_or_configuration_is_another_hash(model: StreamingPRM) -> None:
    torch.manual_seed(0)
    first, second = StreamingPRM(CONFIG), StreamingPRM(replace(CONFIG, step_delimiter="\n"))
    second.load_state_dict(first.state_dict())
    assert len({model.model_hash, first.model_hash, second.model_hash}) == 3


def test_fingerprint_ignores_order_and_sees_every_id() -> None:
    assert tokenizer_fingerprint({"a": 0, "b": 1}) == tokenizer_fingerprint({"b": 1, "a": 0})
    assert tokenizer_fingerprint({"a": 0, "b": 1}) != tokenizer_fingerprint({"a": 1, "b": 0})


def test_flops_count_the_matrices(model: StreamingPRM) -> None:
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "token_read" not in n)
    assert 2 * matrices < model.config.flops_per_token < 4 * matrices


def test_the_temperature_divides_the_logits_and_changes_no_state(model: StreamingPRM) -> None:
    warm = StreamingPRM(replace(model.config, temperature=2.0)).eval()
    warm.load_state_dict(model.state_dict())
    before, after = read_whole(model, tokens(1, 9)), read_whole(warm, tokens(1, 9))
    assert_close(after.mean_logit, before.mean_logit / 2)
    assert torch.equal(after.state, before.state)


def test_a_checkpoint_from_before_mixer_and_temperature_loads(model: StreamingPRM, tmp_path: Path) -> None:
    old = StreamingPRM(CONFIG)
    old.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["mixer"], config["temperature"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert StreamingPRM.from_pretrained(tmp_path).config == CONFIG


def test_what_no_earlier_model_had_is_written_only_where_it_is_used(tmp_path: Path) -> None:
    """So that their hashes, and with them states and records, stay what they were."""
    younger = {"num_groups": 2, "norm_eps": 1e-3, "tied_head": False}
    for name, config in (("old", CONFIG), ("young", replace(CONFIG, **younger, mlp_width=0))):
        model = StreamingPRM(config)
        model.save_pretrained(tmp_path / name)
        loaded = StreamingPRM.from_pretrained(tmp_path / name)
        assert loaded.config == config and loaded.model_hash == model.model_hash
    old, young = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("old", "young"))
    assert young.keys() - old.keys() == younger.keys()


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which is no folder, wanted a folder"):
        StreamingPRM.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_refused(model: StreamingPRM, tmp_path: Path, name: str) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"got no .*{name}, wanted"):
        StreamingPRM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, r"architectures, got \['LlamaForCausalLM'\], wanted"),
        ({"width": "wide"}, "width, got 'wide', wanted an integer >= 1"),
        ({"inner": 33}, "inner, got 33, wanted a multiple of head_dim"),
        ({"mixer": "mamba"}, "mixer, got 'mamba', wanted one of mamba2, gated_linear_attention"),
        ({"temperature": 0.0}, "temperature, got 0.0, wanted a number > 0"),
        ({"norm_eps": 0}, "norm_eps, got 0, wanted a number > 0"),
        ({"num_groups": 3}, "num_groups, got 3, wanted a divisor of the 4 heads"),
        ({"mixer": "gated_linear_attention", "num_groups": 2}, "num_groups, got 2, wanted 1: each head"),
        ({"tied_head": "yes"}, "tied_head, got 'yes', wanted true or false"),
        ({"colour": "red"}, "keys, got .*colour.*, wanted"),
        ({"vocab_size": 24}, r"shape of embedding.weight, got \(23, 16\), wanted \(24, 16\)"),
    ],
)
def test_wrong_configuration_is_refused(
    model: StreamingPRM, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        StreamingPRM.from_pretrained(tmp_path)


def test_configuration_that_is_not_json_is_refused(model: StreamingPRM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="wanted JSON"):
        StreamingPRM.from_pretrained(tmp_path)


def test_corrupt_weights_are_refused(model: StreamingPRM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"corrupt file .*, wanted safetensors"):
        StreamingPRM.from_pretrained(tmp_path)


def test_missing_and_unexpected_tensors_are_named(model: StreamingPRM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["tail.bias"] = tensors.pop("head.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected \['tail.bias'\] and missing \['head.bias'\]"):
        StreamingPRM.from_pretrained(tmp_path)
