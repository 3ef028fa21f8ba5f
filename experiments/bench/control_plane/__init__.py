"""What the control plane costs: real pools, keeper, sessions, strategies and Ray over engines and verifiers without a
model, which answer after a drawn time."""
