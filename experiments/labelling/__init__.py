"""Labels for the steps of solutions: estimated by rollouts, judged by a verifier, exact, or imported."""
