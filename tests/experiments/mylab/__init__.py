"""A package as a user would write it: a reward, a rule and a model for `rsft run`."""
