"""Facts about what a replica of a verifier believes to hold."""

from orchestrator.verifier.held import HeldStates
from verifiers.contract import Run


def run(key: str, parent: str | None = None, *, keep_parent: bool = True) -> Run:
    return Run(key=key, token_ids=(1,), parent=parent, keep_parent=keep_parent)


def test_a_parent_that_is_read_anew_only_to_be_used_up_is_not_held() -> None:
    held = HeldStates(most=10)
    held.read([run("a/parent"), run("a/1", "a/parent", keep_parent=False), run("a/2", "a/parent", keep_parent=False)])
    assert held.of_client("a") == ["a/1", "a/2"]


def test_a_parent_that_is_kept_is_held() -> None:
    held = HeldStates(most=10)
    held.read([run("a/parent"), run("a/1", "a/parent")])
    held.read([run("a/2", "a/1", keep_parent=False)])
    assert held.of_client("a") == ["a/parent", "a/2"]
