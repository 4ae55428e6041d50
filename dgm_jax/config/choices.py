"""The names that settings choose from."""

from typing import Literal, get_args

Variant = Literal["dgma", "dgmw"]
Precision = Literal["auto", "float32", "tf32", "bf16"]
Network = Literal["dcgan", "resnet", "mlp"]
Method = Literal[
    "dgm", "joint", "analytic", "separate", "mergan", "mergan-jtr", "dgr", "er", "icarl", "gdumb", "ewc", "finetune"
]

DGM: tuple[Method, ...] = ("dgm",)
FROZEN: tuple[Method, ...] = ("dgm", "separate")  # Methods that freeze a generator, or part of one, after each task.
GENERATIVE: tuple[Method, ...] = (*FROZEN, "dgr", "mergan", "mergan-jtr")  # Methods with a memory that draws images.
KEEPS_IMAGES: tuple[Method, ...] = ("joint", "er", "icarl", "gdumb")  # Methods that keep real images of earlier tasks.
TRAINS: tuple[Method, ...] = tuple(method for method in get_args(Method) if method != "analytic")  # By gradients.
