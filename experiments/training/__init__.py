"""`headrace train-prm` and `headrace train-policy`."""
