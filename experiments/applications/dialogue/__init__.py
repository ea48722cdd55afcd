"""Conversations: a policy learns from its own replies that a model of people's scores likes."""
