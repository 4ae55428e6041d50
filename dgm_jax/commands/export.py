"""`python -m dgm_jax export`: what a run has learnt, as one file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from dgm_jax.commands.arguments import AfterTask, Debug, RunOrFile, require_place, require_run_or_file, shown
from dgm_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the memory or the classifier of a run as one small file, which dgm_jax.load_memory(FILE) and
    dgm_jax.load_classifier(FILE) read (docs/formats.md)."""

    workdir: RunOrFile
    out: Annotated[Positional[Path], shown("FILE")]
    """file to write, e.g. memory.safetensors"""
    what: Literal["memory", "classifier", "both"] = "memory"
    """what the file holds: what draws images, what predicts their classes, or both"""
    to: Literal["safetensors", "npz", "stablehlo"] = "safetensors"
    """safetensors: for this library; npz: the arrays of a memory, for NumPy; stablehlo: a program for JAX that does not
    need dgm_jax"""
    note: Annotated[str, shown("TEXT", "none")] = ""
    """a text that a safetensors file carries, such as where it comes from and its licence"""
    after_task: AfterTask = None
    debug: Debug = False

    def run(self) -> None:
        """Writes the file."""
        if self.to == "npz" and self.what != "memory":
            raise UserError(f"--what {self.what}: only a memory is written --to npz; leave out --to")
        if self.to == "stablehlo" and self.what == "both":
            raise UserError("--what both: a program either draws or predicts; choose memory or classifier")
        if self.note and self.to != "safetensors":
            raise UserError(f"--note: a file --to {self.to} has no place for it; leave out one of them")
        require_run_or_file(self.workdir)
        require_place(self.out, "", "memory.safetensors")
        named = self.out.suffix.lower().removeprefix(".")
        if named in ("safetensors", "npz", "stablehlo") and named != self.to:  # Its reader could not open the file.
            raise UserError(f"{self.out} would be written as {self.to}; give --to {named}, or another name")

        import dgm_jax
        from dgm_jax.memory import export
        from dgm_jax.memory import file as memory_file
        from dgm_jax.system import files

        memory = classifier = None
        if self.what != "classifier":
            memory = dgm_jax.load_memory(self.workdir, after_task=self.after_task)
        if self.what != "memory":
            classifier = dgm_jax.load_classifier(self.workdir, after_task=self.after_task)
        one = memory or classifier
        assert one is not None
        if self.to == "safetensors":
            content = memory_file.encode(memory, classifier, note=self.note)
        elif self.to == "stablehlo":
            content = export.to_stablehlo(one)
        else:
            assert memory is not None
            content = export.to_npz(memory)
        files.write_atomically(self.out, content)
        print(f"{self.out}: {len(one.labels)} classes in {len(content):,} bytes ({self.what}, {self.to})")
