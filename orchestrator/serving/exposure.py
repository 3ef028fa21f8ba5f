"""Who can reach the endpoint, and whether that is what its configuration wants."""

from ipaddress import ip_address

from orchestrator.core.errors import UserError
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.keys import VARIABLE, Keyring


def check_keys(config: ServeConfig, variable: str | None, *, reachable: str | None = None) -> None:
    """Raises UserError where keys are needed and there are none, or they can't be read.

    `variable` is what `HEADRACE_API_KEYS` holds; `reachable` is who can reach it, where `host` does not tell.
    """
    keyring = Keyring(config.keys, variable)
    if keyring.configured or config.keys.required is False:
        return
    where = reachable or (None if is_loopback(config.host) else f"host={config.host} can be reached by other machines")
    if where is not None or config.keys.required:
        why = where or "keys.required is true"
        raise UserError(
            f"keys: {why}, and there are no API keys. Make one (headrace key new NAME) and name its file "
            f"(keys.file) or put its line into {VARIABLE}; or let anybody in (keys.required=false)"
        )


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
