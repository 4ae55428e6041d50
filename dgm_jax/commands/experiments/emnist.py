"""EMNIST, 47 classes of handwritten letters and digits: a long stream of grey images like MNIST's.

The data are TFDS's `emnist/balanced`, read without TensorFlow; `dgm-jax prepare emnist` makes a folder of them. As TFDS
stores them, letters lie on their sides. Nothing was measured on it yet.

    dgm-jax learn emnist --data-dir DIR
    dgm-jax learn emnist --data-dir DIR --train-per-class 500 --class-order random:0
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
PRESET = "best"
