"""Nouns, Protocols and errors. Standard library only: everything imports it, it imports nothing."""
