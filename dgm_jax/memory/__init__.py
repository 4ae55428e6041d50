"""The memory: what draws images of every class that was learnt, and the classifier that tells them apart."""
