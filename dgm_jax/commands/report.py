"""`python -m dgm_jax report`: the page of a run, or of several runs side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from dgm_jax.commands.arguments import Debug, require_place, require_run, several, shown
from dgm_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a page about a run, finished or not, to open in a browser; of several runs or seeds, to compare them."""

    workdirs: Annotated[Positional[tuple[Path, ...]], several("WORKDIR")]
    """folders of runs; that of several seeds stands for all of them"""
    out: Annotated[Path | None, shown("FILE", "WORKDIR/report.html; for several runs, comparison.html")] = None
    """page to write"""
    debug: Debug = False

    def run(self) -> None:
        """Writes the page."""
        if not self.workdirs:
            raise UserError("report needs the folder of at least one run, e.g. runs/digits-dgma-seed0")
        several = len(self.workdirs) > 1
        out = self.out or (Path("comparison.html") if several else self.workdirs[0] / "report.html")
        for workdir in self.workdirs:
            require_run(workdir)
        require_place(out, "--out " if self.out else "", "report.html")

        from dgm_jax.reporting import page
        from dgm_jax.system import files

        text = page.comparison(self.workdirs) if several else page.of_folder(self.workdirs[0])
        files.write_atomically(out, text)
        print(f"the page is {out}")
