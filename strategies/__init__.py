"""Search strategies: pure coroutines over a session. Importable without ray, torch or vllm.

To add one: write a frozen dataclass that inherits from `Strategy` in a module of its own and add a line to
`STRATEGIES`. Its fields become its YAML keys. CONTRIBUTING.md has a complete example.
"""

import difflib

from orchestrator.core.protocols import Strategy
from strategies.adaptive_best_of_n import AdaptiveBestOfN
from strategies.adaptive_consistency import AdaptiveConsistency
from strategies.beam_search import BeamSearch
from strategies.best_logprob import BestLogprob
from strategies.best_of_n import BestOfN
from strategies.budget_forcing import BudgetForcing
from strategies.deepconf import DeepConf
from strategies.dvts import DVTS
from strategies.early_stop import EarlyStop
from strategies.genselect import GenSelect
from strategies.greedy import Greedy
from strategies.mcts import MCTS
from strategies.particle_filter import ParticleFilter
from strategies.rebase import Rebase
from strategies.self_certainty import SelfCertainty
from strategies.self_consistency import SelfConsistency
from strategies.self_refine import SelfRefine
from strategies.token_budget_prompt import TokenBudgetPrompt
from strategies.tournament import Tournament
from strategies.workload_budget import WorkloadBudget

STRATEGIES: dict[str, type[Strategy]] = {
    "greedy": Greedy,
    "best_of_n": BestOfN,
    "best_logprob": BestLogprob,
    "self_certainty": SelfCertainty,
    "self_consistency": SelfConsistency,
    "adaptive_consistency": AdaptiveConsistency,
    "deepconf": DeepConf,
    "early_stop": EarlyStop,
    "beam_search": BeamSearch,
    "dvts": DVTS,
    "particle_filter": ParticleFilter,
    "rebase": Rebase,
    "mcts": MCTS,
    "adaptive_best_of_n": AdaptiveBestOfN,
    "genselect": GenSelect,
    "tournament": Tournament,
    "self_refine": SelfRefine,
    "budget_forcing": BudgetForcing,
    "token_budget_prompt": TokenBudgetPrompt,
    "workload_budget": WorkloadBudget,
}


def strategy_class(name: str) -> type[Strategy]:
    """The strategy of that name. Raises ValueError with the valid names and the nearest one."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    near = difflib.get_close_matches(name, STRATEGIES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"strategy: got {name!r}, wanted one of {', '.join(STRATEGIES)}{hint}")
