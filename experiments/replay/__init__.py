"""Strategies over recorded samples, without an engine."""
