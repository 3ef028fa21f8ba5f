"""The composition root: command line, YAML to runs, data sets, graders, analysis."""
