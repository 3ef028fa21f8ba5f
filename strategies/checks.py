"""The one check that strategies need for their fields."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message, which says what, wanted and got, unless the condition holds."""
    if not condition:
        raise ValueError(message)
