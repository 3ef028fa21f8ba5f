"""The runtime: Ray pools of policies and verifiers, the session between them, the runner and the endpoint."""
