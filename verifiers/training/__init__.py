"""Training of verifiers: labelled solutions in, checkpoints that `verifiers` loads out. No Ray, no vLLM."""
