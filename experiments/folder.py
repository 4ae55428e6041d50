"""Your own images, a folder for each class, learnt class by class.

Images of any size and common format; each is cut to its central square and scaled with Pillow's bilinear filter, which
averages when it shrinks. The run leaves a memory that draws images of every class; no image is kept.

    python -m experiments.folder --data monday/ --workdir runs/mine

Next day, with new classes, and after yesterday's images were deleted:

    python -m experiments.folder --data tuesday/ --workdir runs/mine
"""

import sys

from dgm_jax.commands.learn import run
from dgm_jax.commands.options import FolderOptions

if __name__ == "__main__":
    sys.exit(run("folder", __doc__, kind=FolderOptions))
