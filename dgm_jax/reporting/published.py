"""What the paper published, and how long its runs were."""

# Published test accuracy in % (A5 and A10: half-way and at the end), and what was measured, how.
# Ostapenko et al. 2019, table 1.
_OF_CLASSIFIER = "A of one classifier over all classes"
_OF_DGM = (
    "A of the discriminator's class head, in each task at the epoch that was best on held-out real images of all "
    "classes (protocol `paper`)"
)
OF_GENERATED = "most likely of generated images, as a classifier trained on all real data predicts them"
PUBLISHED: dict[tuple[str, str], tuple[float | None, float | None, str]] = {
    ("mnist", "joint"): (99.87, 99.24, _OF_CLASSIFIER),
    ("mnist", "icarl"): (84.61, 55.8, _OF_CLASSIFIER + " (iCaRL-S)"),
    ("mnist", "dgr"): (90.39, 85.40, OF_GENERATED),
    ("mnist", "mergan"): (98.19, 97.00, OF_GENERATED),
    ("mnist", "dgmw"): (98.75, 96.46, _OF_DGM),
    ("mnist", "dgma"): (99.17, 97.92, _OF_DGM),
    ("mnist", "ceiling"): (None, 99.24, _OF_CLASSIFIER),
    ("svhn", "joint"): (92.99, 88.72, _OF_CLASSIFIER),
    ("svhn", "dgr"): (61.29, 47.28, OF_GENERATED),
    ("svhn", "mergan"): (80.90, 66.78, OF_GENERATED),
    ("svhn", "dgmw"): (83.93, 74.38, _OF_DGM),
    ("svhn", "dgma"): (81.07, 66.89, _OF_DGM),
    ("cifar10", "joint"): (83.40, 77.82, _OF_CLASSIFIER),
    ("cifar10", "ceiling"): (None, 77.82, _OF_CLASSIFIER),
    ("cifar10", "dgmw"): (72.45, 56.21, _OF_DGM),
    ("cifar10", "dgma"): (71.91, 51.80, _OF_DGM),
    # A30, A50.
    ("imagenet50", "joint"): (57.35, 49.88, _OF_CLASSIFIER),
    ("imagenet50", "icarl"): (29.38, 28.98, _OF_CLASSIFIER + " (iCaRL-S)"),
    ("imagenet50", "dgmw"): (32.14, 17.82, _OF_DGM),
    ("imagenet50", "dgma"): (25.93, 15.16, _OF_DGM),
}
# A run of the paper's length has at least this many training images, and epochs a task. Shorter runs are not compared.
# Of CIFAR-10, the authors published no settings; its 101 epochs are those of MNIST and ImageNet-50.
_FULL_LENGTH = {"mnist": (60_000, 101), "svhn": (73_257, 151), "cifar10": (50_000, 101), "imagenet50": (60_000, 101)}


def is_full_length(data: str, images: int, epochs: int | None) -> bool:
    """Whether a run is as long as the paper's, in training images and, if its method counts epochs, in epochs."""
    if data not in _FULL_LENGTH:
        return False
    least_images, least_epochs = _FULL_LENGTH[data]
    return images >= least_images and (epochs is None or epochs >= least_epochs)
