"""One YAML to many runs: the cells of a sweep, on models that stay open."""
