"""ImageNet-50, the hardest stream of the paper: 50 classes of ImageNet at 32x32, in 5 tasks of 10 classes.

The paper's numbers are A30 and A50: the test accuracy over all classes seen after 3 tasks and after all 5; a run's
`summary.json` has them as `A_30` and `A_50`. The images are class folders as ImageNet comes, or
`imagenet_resized/32x32` of TensorFlow Datasets, read without TensorFlow. At full size (65,000 images) it needs a GPU.

    dgm-jax learn imagenet50 --data PATH                       # PATH/train/<class>/ and PATH/val/<class>/
    dgm-jax learn imagenet50 --data PATH --classes first:50    # of more than 50; or a,b,... or @FILE
    dgm-jax learn imagenet50 --data-dir DIR --classes @FILE    # DIR/imagenet_resized/32x32/<version>/

A small stand-in, to see it run: CIFAR-10's images as ten class folders.

    dgm-jax learn imagenet50 --data PATH --classes first:10 --classes-per-task 2
"""

from dgm_jax.commands.options import ImageNetOptions

OPTIONS = ImageNetOptions
