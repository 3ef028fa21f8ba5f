"""The OpenAI-compatible endpoint: each request is one search over the pools. Ray appears in `deployment` only."""
