"""Any data set of TensorFlow Datasets (TFDS) with one image and one class label per example, one class at a time.

It is read from a folder of TFDS, without TensorFlow; `dgm-jax prepare NAME --data-dir DIR` makes one. Images of any
size are cut to their central squares and scaled to what the networks read; the classes have TFDS's names. Test images
are those of the split `test`, or else `validation`. A data set with several images or labels is refused, unless it says
itself (`supervised_keys`) which two are to be learnt. The settings, `--preset best`, go by size, colour and number.

    dgm-jax learn tfds --name fashion_mnist --data-dir DIR
    dgm-jax learn tfds --name emnist/letters --data-dir DIR --variant dgmw --classes-per-task 2
"""

from dgm_jax.commands.options import TfdsOptions

OPTIONS = TfdsOptions
PRESET = "best"
