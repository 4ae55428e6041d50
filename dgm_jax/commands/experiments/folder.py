"""Your own images, a folder for each class, learnt class by class.

Images of any size and common format; each is cut to its central square and scaled with Pillow's bilinear filter, which
averages when it shrinks. The run leaves a memory that draws images of every class; no image is kept.

    dgm-jax learn folder --data monday/ --workdir runs/mine

Next day, with new classes, and after yesterday's images were deleted:

    dgm-jax learn folder --data tuesday/ --workdir runs/mine
"""

from dgm_jax.commands.options import FolderOptions

OPTIONS = FolderOptions
