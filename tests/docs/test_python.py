"""Every program in the pages compiles, and what it imports is there."""

import ast
import importlib
import importlib.util

import pytest

from tests.docs.pages import Block, all_blocks, blocks

OURS = ("orchestrator", "strategies", "verifiers", "experiments")


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_every_program_compiles_and_what_it_imports_is_there(block: Block) -> None:
    compile(block.text, str(block), "exec")
    beside = {other.title.removesuffix(".py") for other in blocks(block.page, "python") if other.title is not None}
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            modules = {alias.name: [] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {str(node.module): [alias.name for alias in node.names]}
        else:
            continue
        for module, names in modules.items():
            if module in beside:
                continue
            assert importlib.util.find_spec(module) is not None, module
            if module.split(".")[0] in OURS:
                assert all(hasattr(importlib.import_module(module), name) for name in names), (module, names)
