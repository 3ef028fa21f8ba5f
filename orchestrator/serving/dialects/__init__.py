"""The APIs that the endpoint speaks, over one `Order` and one stream of events.

To add one: write a module with a class that does what `contract.Dialect` says, and add it to `DIALECTS`.
"""

from orchestrator.serving.dialects.chat import Chat
from orchestrator.serving.dialects.completions import Completions
from orchestrator.serving.dialects.contract import Dialect
from orchestrator.serving.dialects.responses import Responses

DIALECTS: tuple[Dialect, ...] = (Chat(), Completions(), Responses())
