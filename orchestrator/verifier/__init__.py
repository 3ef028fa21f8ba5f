"""The verifier pool: Ray actors that hold states of trajectories, and the driver's side that routes to them."""
