"""A process reward model with a carried state: scoring new tokens costs those tokens only, whatever came before.

A trunk of Mamba-2 (arXiv 2405.21060) or gated linear attention blocks is a language model of correct solutions. A
verifier block compares what the trunk predicted with the token that came, and after every token gives a Beta
distribution over "every step so far is correct": its mean is the score, its spread the uncertainty (evidential, arXiv
1806.01768). Read it at a step's last token. A trajectory's whole state is one contiguous fp32 vector of fixed size; the
model never writes its inputs.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from verifiers.gated_linear_attention import GatedLinearAttention
from verifiers.mamba2 import Mamba2Mixer
from verifiers.mixer import Mixer

ARCHITECTURE, MODEL_TYPE = "HeadraceStreamingPRM", "headrace_streaming_prm"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MIXERS: dict[str, type[Mixer]] = {"mamba2": Mamba2Mixer, "gated_linear_attention": GatedLinearAttention}


@dataclass(frozen=True, slots=True, kw_only=True)
class PRMConfig:
    """Sizes of the model, and what it expects of the tokens it reads."""

    vocab_size: int
    mixer: str = "mamba2"  # a key of `MIXERS`
    width: int = 128
    num_layers: int = 4  # of the trunk; the verifier block comes on top
    mlp_width: int = 352  # 0: blocks without an MLP
    inner: int = 256
    head_dim: int = 32
    state_dim: int = 64
    num_groups: int = 1  # sets of B and C that Mamba-2's heads share
    conv_len: int = 12  # reaches back over a short step, to whose step it is: recall then needs one layer, not two
    chunk_len: int = 32
    norm_eps: float = 1e-5
    tied_head: bool = True  # next tokens are predicted with the embedding's own weights
    step_delimiter: str = "\n\n"
    tokenizer_fingerprint: str = ""  # `tokenizer_fingerprint` of the vocabulary it was trained with
    temperature: float = 1.0  # divides the logits, so that scores are probabilities; fitted after training

    def __post_init__(self) -> None:
        if self.mixer not in MIXERS:
            raise ValueError(f"PRM config: mixer, got {self.mixer!r}, wanted one of {', '.join(MIXERS)}")
        for name in (
            *("vocab_size", "width", "num_layers", "mlp_width", "inner", "head_dim", "state_dim", "num_groups"),
            *("conv_len", "chunk_len"),
        ):
            value, least = getattr(self, name), {"mlp_width": 0, "conv_len": 2}.get(name, 1)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"PRM config: {name}, got {value!r}, wanted an integer >= {least}")
        for name in ("temperature", "norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, float) or not value > 0:
                raise ValueError(f"PRM config: {name}, got {value!r}, wanted a number > 0")
        if not isinstance(self.tied_head, bool):
            raise ValueError(f"PRM config: tied_head, got {self.tied_head!r}, wanted true or false")
        if self.inner % self.head_dim:
            raise ValueError(f"PRM config: inner, got {self.inner}, wanted a multiple of head_dim ({self.head_dim})")
        if self.num_heads % self.num_groups:
            raise ValueError(
                f"PRM config: num_groups, got {self.num_groups}, wanted a divisor of the {self.num_heads} heads"
            )
        if self.num_groups > 1 and MIXERS[self.mixer].own_keys:
            raise ValueError(
                f"PRM config: num_groups, got {self.num_groups}, wanted 1: each head of {self.mixer} has its own keys"
            )

    @property
    def num_heads(self) -> int:
        return self.inner // self.head_dim

    @property
    def flops_per_token(self) -> int:
        """Two per multiply-add: the matrices, the convolution, and the recurrence (update and read of the state).

        Of the chunked form's products within a chunk nothing is counted: they replace the recurrence's.
        """
        groups = self.num_heads if MIXERS[self.mixer].own_keys else self.num_groups
        conv_channels = self.inner + 2 * self.state_dim * groups
        in_proj = self.width * (self.inner + conv_channels + self.num_heads)
        mixer = in_proj + self.inner * self.width + conv_channels * self.conv_len + 2 * self.inner * self.state_dim
        block = mixer + 3 * self.width * self.mlp_width
        verifier = (2 * self.width + NUM_SURPRISES) * self.width + 2 * self.width
        return 2 * ((self.num_layers + 1) * block + self.width * self.vocab_size + verifier)


class PRMOutput(NamedTuple):
    """After each token; what stands at padding has no meaning."""

    mean_logit: Tensor  # (batch, time): logit of P(every step so far is correct)
    concentration: Tensor  # (batch, time): alpha + beta of that probability's Beta distribution, > 1
    state: Tensor  # (batch, state_numel): after each row's own last token
    lm_logits: Tensor  # (batch, time, vocabulary): of the next token in a correct solution


def beta_std(mean: Tensor, concentration: Tensor) -> Tensor:
    """Standard deviation of a Beta distribution, from its mean and concentration (alpha + beta)."""
    return (mean * (1 - mean) / (concentration + 1)).sqrt()


NUM_SURPRISES = 2  # log-probability of the token read, and its distance from the likeliest token's
_MOST_SURPRISE = 12.0


def _mixer(config: PRMConfig) -> Mixer:
    sizes = (config.width, config.inner, config.head_dim, config.state_dim, config.conv_len, config.chunk_len)
    if config.mixer == "mamba2":
        return Mamba2Mixer(*sizes, num_groups=config.num_groups, norm_eps=config.norm_eps)
    return GatedLinearAttention(*sizes, norm_eps=config.norm_eps)


class _Block(nn.Module):
    """x + mixer(norm(x)), then, where there is an MLP, x + SwiGLU(norm(x))."""

    def __init__(self, config: PRMConfig):
        super().__init__()
        width = config.width
        self.norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.mixer = _mixer(config)
        self.has_mlp = config.mlp_width > 0
        if self.has_mlp:
            self.mlp_norm = nn.RMSNorm(width, eps=config.norm_eps)
            self.gate_proj = nn.Linear(width, config.mlp_width, bias=False)
            self.up_proj = nn.Linear(width, config.mlp_width, bias=False)
            self.down_proj = nn.Linear(config.mlp_width, width, bias=False)

    def forward(
        self, x: Tensor, lengths: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, conv_state, ssm_state = self.mixer(self.norm(x), lengths, conv_state, ssm_state)
        x = x + mixed
        if not self.has_mlp:
            return x, conv_state, ssm_state
        normed = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed)), conv_state, ssm_state


class StreamingPRM(nn.Module):
    """See the module. The state vector holds, per block, conv and SSM state, then the trunk's last hidden vector."""

    def __init__(self, config: PRMConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.trunk = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.trunk_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.token_read = nn.Embedding(config.vocab_size, config.width)
        self.compare = nn.Linear(2 * config.width + NUM_SURPRISES, config.width, bias=False)
        self.verifier = _Block(config)
        self.verifier_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, 2)
        if not config.tied_head:
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.token_read.weight, std=0.02)

    @property
    def state_numel(self) -> int:
        """fp32 numbers per trajectory."""
        mixer = self._mixers()[0]
        steps, channels = mixer.conv_state_shape
        heads, head_dim, state_dim = mixer.ssm_state_shape
        return len(self._mixers()) * (steps * channels + heads * head_dim * state_dim) + self.config.width

    def initial_state(self, batch: int) -> Tensor:
        """The state before any token: (batch, state_numel)."""
        return torch.zeros(batch, self.state_numel, device=self.embedding.weight.device)

    def forward(self, token_ids: Tensor, lengths: Tensor, state: Tensor) -> PRMOutput:
        """Reads `lengths` (batch,) new tokens of right-padded `token_ids` (batch, time) on top of `state`.

        A row of length zero keeps its state; ids in the padding never matter.
        """
        real = torch.arange(token_ids.shape[1], device=token_ids.device) < lengths[:, None]
        token_ids = token_ids.masked_fill(~real, 0)
        states, last_hidden = self._unpack(state)

        hidden, trunk_states = self._run_trunk(token_ids, lengths, states[: self.config.num_layers])
        seen = torch.cat([last_hidden[:, None], hidden], 1)  # entry t: the trunk before token t
        logits = self._predict(seen)
        surprises = _surprises(logits[:, :-1], token_ids)
        compared = self.compare(torch.cat([hidden, seen[:, :-1], surprises], -1)) + self.token_read(token_ids)
        judged, *verifier_state = self.verifier(compared, lengths, *states[-1])
        mean_logit, evidence = self.head(self.verifier_norm(judged)).unbind(-1)

        new_hidden = seen.gather(1, lengths[:, None, None].expand(-1, 1, self.config.width))
        parts = [part.flatten(1) for pair in (*trunk_states, verifier_state) for part in pair]
        return PRMOutput(
            mean_logit=mean_logit / self.config.temperature,
            concentration=1 + F.softplus(evidence),
            state=torch.cat([*parts, new_hidden.flatten(1)], 1),
            lm_logits=logits[:, 1:],
        )

    def language_logits(self, token_ids: Tensor, lengths: Tensor, state: Tensor) -> Tensor:
        """`PRMOutput.lm_logits` without the verifier's work, to train the trunk by itself."""
        states, _ = self._unpack(state)
        hidden, _ = self._run_trunk(token_ids, lengths, states[: self.config.num_layers])
        return self._predict(hidden)

    def _predict(self, hidden: Tensor) -> Tensor:
        """Of the trunk's hidden vectors, the logits of the next token."""
        return F.linear(hidden, self.embedding.weight if self.config.tied_head else self.lm_head.weight)

    def _run_trunk(
        self, token_ids: Tensor, lengths: Tensor, states: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Its hidden vectors (batch, time, width), and each block's new (conv, SSM) state."""
        x = self.embedding(token_ids)
        new_states = []
        for block, (conv_state, ssm_state) in zip(self.trunk, states, strict=True):
            x, conv_state, ssm_state = block(x, lengths, conv_state, ssm_state)
            new_states.append((conv_state, ssm_state))
        return self.trunk_norm(x), new_states

    @property
    def model_hash(self) -> str:
        """sha256 (hex) of configuration and weights: states of one hash belong together."""
        digest = hashlib.sha256(json.dumps(_as_written(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, path: str | Path) -> None:
        """Writes config.json and model.safetensors into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE, **_as_written(self.config)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "StreamingPRM":
        """Loads what `save_pretrained` wrote, in evaluation mode; a ValueError says what is missing or wrong."""
        folder = Path(path)
        if not folder.is_dir():
            raise ValueError(f"PRM checkpoint: got {folder}, which is no folder, wanted a folder with {CONFIG_FILE}")
        model = cls(_read_config(folder / CONFIG_FILE))
        tensors = _read_weights(folder / WEIGHTS_FILE)
        check_tensors(tensors, model.state_dict(), f"PRM checkpoint {folder / WEIGHTS_FILE}", ARCHITECTURE)
        model.load_state_dict(tensors)
        return model.eval()

    def _mixers(self) -> list[Mixer]:
        return [block.mixer for block in (*self.trunk, self.verifier)]

    def _unpack(self, state: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Views of the state vector: (conv, SSM) per block, the verifier's last; and the trunk's last hidden vector."""
        if state.shape[1] != self.state_numel:
            raise ValueError(f"PRM state: numbers per row, got {state.shape[1]}, wanted {self.state_numel}")
        mixers = self._mixers()
        shapes = [shape for mixer in mixers for shape in (mixer.conv_state_shape, mixer.ssm_state_shape)]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        *parts, last_hidden = state.split([*sizes, self.config.width], 1)
        views = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True)), last_hidden


def _surprises(logits: Tensor, token_ids: Tensor) -> Tensor:
    """How unexpected each token was, (batch, time, NUM_SURPRISES), from the logits before it; each in -1..0."""
    log_probs = logits.log_softmax(-1)
    read = log_probs.gather(-1, token_ids[..., None])
    features = torch.cat([read, read - log_probs.amax(-1, keepdim=True)], -1)
    return features.clamp(min=-_MOST_SURPRISE) / _MOST_SURPRISE


# Fields that configurations say, and model hashes see, only where they differ from what every model was before them.
_YOUNGER = {
    field.name: field.default for field in fields(PRMConfig) if field.name in {"num_groups", "norm_eps", "tied_head"}
}


def _as_written(config: PRMConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in _YOUNGER or value != _YOUNGER[name]}


def _read_config(path: Path) -> PRMConfig:
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"PRM checkpoint: got no {path}, wanted a {MODEL_TYPE} configuration") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"PRM config {path}: got something that is not JSON ({error}), wanted JSON") from None
    architectures = raw.get("architectures") if isinstance(raw, dict) else None
    if architectures != [ARCHITECTURE]:
        raise ValueError(f"PRM config {path}: architectures, got {architectures!r}, wanted {[ARCHITECTURE]!r}")
    values = {key: value for key, value in raw.items() if key not in ("architectures", "model_type")}
    known = {field.name for field in fields(PRMConfig)}
    if not known - {"mixer", "temperature", *_YOUNGER} <= values.keys() <= known:  # the first checkpoints lack these
        raise ValueError(f"PRM config {path}: keys, got {sorted(values)}, wanted {sorted(known)}")
    return PRMConfig(**values)


def check_tensors(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, architecture: str) -> None:
    """Raises ValueError unless both have the same names and shapes. `what` names the checkpoint in messages."""
    if got.keys() != wanted.keys():
        missing, unexpected = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
        raise ValueError(
            f"{what}: tensors, got unexpected {unexpected or 'none'} and missing "
            f"{missing or 'none'}, wanted exactly those of {architecture}"
        )
    for name, tensor in got.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(f"{what}: shape of {name}, got {tuple(tensor.shape)}, wanted {tuple(wanted[name].shape)}")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"PRM checkpoint: got no {path}, wanted the model's weights") from None
    except SafetensorError as error:
        raise ValueError(f"PRM checkpoint {path}: got a corrupt file ({error}), wanted safetensors") from None
    return tensors
