"""The floor: one classifier continues to learn from the newest images only."""

from dgm_jax.methods.classifying import ClassifierMethod


class Finetune(ClassifierMethod):
    """Forgets: no image of an old class is seen again."""

    paper = "no paper: plain fine-tuning, the floor"
