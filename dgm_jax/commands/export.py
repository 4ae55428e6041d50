"""`python -m dgm_jax export`: the memory of a run as one file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from dgm_jax.commands.arguments import AfterTask, Debug, RunOrFile, require_memory, require_place, shown


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the memory of a run as one small file, which dgm_jax.load_memory(FILE) reads (docs/formats.md)."""

    workdir: RunOrFile
    out: Annotated[Positional[Path], shown("FILE")]
    """file to write, e.g. memory.dgm"""
    to: Literal["dgm", "npz", "stablehlo"] = "dgm"
    """dgm: the library's format; npz: the arrays, for NumPy; stablehlo: a program for JAX that does not need dgm_jax"""
    after_task: AfterTask = None
    debug: Debug = False

    def run(self) -> None:
        """Writes the file."""
        require_memory(self.workdir)
        require_place(self.out, "", "memory.dgm")

        import dgm_jax
        from dgm_jax.memory import export
        from dgm_jax.memory import file as memory_file
        from dgm_jax.system import files

        memory = dgm_jax.load_memory(self.workdir, after_task=self.after_task)
        encode = {"dgm": memory_file.encode, "npz": export.to_npz, "stablehlo": export.to_stablehlo}[self.to]
        content = encode(memory)
        files.write_atomically(self.out, content)
        print(f"{self.out}: {memory.n_classes} classes in {len(content):,} bytes ({self.to})")
