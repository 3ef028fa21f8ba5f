"""What the policy pool and the verifier pool have in common: replicas that a keeper starts, watches and restarts."""
