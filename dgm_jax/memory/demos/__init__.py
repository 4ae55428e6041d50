"""Memories that come with the package, as `load_memory("demo:digits")`; demos.txt says where each comes from."""

from pathlib import Path

from dgm_jax.errors import NoMemory

_PREFIX = "demo:"
_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All demos, as they are asked for, e.g. "demo:digits"."""
    return sorted(_PREFIX + file.stem for file in _FOLDER.glob("*.safetensors"))


def located(path: str | Path) -> Path:
    """The file of a demo; a path that does not begin with "demo:" is returned as it is.

    Raises:
      NoMemory: if there is no demo of that name.
    """
    name = str(path)
    if not name.startswith(_PREFIX):
        return Path(path)
    if name not in names():
        raise NoMemory(f"{name}: there is no such demo; choose one of {', '.join(names())}")
    return _FOLDER / f"{name.removeprefix(_PREFIX)}.safetensors"
