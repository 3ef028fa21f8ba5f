"""`headrace doctor` on a cluster: what each node has, against what this machine has and a configuration wants."""
