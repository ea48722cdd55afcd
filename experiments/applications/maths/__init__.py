"""Sums with their working: a policy learns from those of its own answers that are right."""
