"""The main result in a few minutes: ten classes of real handwritten digits, learnt one at a time; no old image is kept.

The data (1,797 images of 8x8, scaled up to the networks' size) come with this package; nothing is downloaded. After
each task the memory draws every earlier class exactly as it did when it learnt it, and one classifier distinguishes all
classes seen so far. Expect A_10 of about 97 % in two minutes on two cores; with `--preset best` 98 % in four.

    dgm-jax learn digits
    dgm-jax learn digits --preset best
    dgm-jax learn digits --variant dgmw --class-order random:1 --classes-per-task 2
    dgm-jax learn digits --fold 1/5       # one of five divisions, in which every image is a test image once
"""

from dgm_jax.commands.options import DigitsOptions

OPTIONS = DigitsOptions
SHOWN = {"side": 8, "channels": 1, "per_class": 144, "classes": 10}
