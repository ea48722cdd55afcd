"""Applications: data and words of one subject each; the round is that of `rsft run`."""
