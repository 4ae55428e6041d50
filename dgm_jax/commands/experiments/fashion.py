"""Fashion-MNIST, ten kinds of clothes, one at a time: nothing was ever chosen on it, so it shows what `best` is worth.

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `dgm-jax prepare fashion` makes one. The
settings, `--preset best`, go by size, colour and number of the images alone: docs/results/fashion.md.

    dgm-jax learn fashion --data-dir DIR
    dgm-jax learn fashion --data-dir DIR --variant dgmw --combined
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
PRESET = "best"
