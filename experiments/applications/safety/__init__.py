"""Kinder words where people are cross, and no group of people spoken of worse than another."""
