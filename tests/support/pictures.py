"""Pictures as files."""

from PIL import Image


def save(path, image, **options):
    """Writes an array, or a picture, in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path
