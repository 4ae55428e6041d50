"""Fashion-MNIST, ten kinds of clothes, one at a time: nothing was ever chosen on it, so it shows what `best` is worth.

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `dgm-jax prepare fashion` makes one. The
preset `best` goes by size, colour and number of the images alone; docs/results/unseen.md has what comes out.

    dgm-jax learn fashion --data-dir DIR --preset best
    dgm-jax learn fashion --data-dir DIR --preset best --variant dgmw --combined
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
