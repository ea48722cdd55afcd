"""Conversations: a policy learns from those of its own replies that a model of people's scores likes."""
