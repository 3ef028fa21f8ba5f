"""The engines that a policy may have.

To add one: write a class with the methods of `engines.contract.TokenEngine` and name it here. It is imported inside the
actor's process only.
"""

from importlib import import_module

from orchestrator.core.errors import UserError
from orchestrator.policy.engines.contract import TokenEngine

ENGINES = {  # "module:class"
    "vllm": "orchestrator.policy.engines.vllm:VllmEngine",
    "openai": "orchestrator.policy.engines.server:ServerEngine",
}


def check_engine(name: str) -> None:
    """Raises UserError that lists the valid names."""
    if name not in ENGINES:
        raise UserError(f"policy.engine: unknown name {name!r}, valid names are {', '.join(ENGINES)}")


def engine_class(name: str) -> type[TokenEngine]:
    """Imports what the engine imports, so perhaps vLLM. Besides a name it takes a "module:class" itself, which
    `check_engine` refuses to users: of an engine that only a benchmark or a test knows."""
    module, _, cls = ENGINES.get(name, name).partition(":")
    engine: type[TokenEngine] = getattr(import_module(module), cls)
    return engine
