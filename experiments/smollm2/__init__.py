"""A small language model that can be had without a hub: SmolLM2-135M-Instruct, and arithmetic that it can partly do."""
