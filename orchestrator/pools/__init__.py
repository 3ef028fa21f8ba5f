"""What searches run on: pools of a command's own, or named ones that `headrace up` keeps for any number of commands."""
