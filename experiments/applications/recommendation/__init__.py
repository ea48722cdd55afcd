"""Recommending films: a policy over a catalogue learns from what its users went on to like."""
