"""`headrace run` and `headrace serve`: from YAML to rows, or to an endpoint."""
