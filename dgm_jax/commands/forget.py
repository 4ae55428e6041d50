"""`python -m dgm_jax forget`: takes classes out of the folder of a run, on request."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dgm_jax.commands.arguments import Debug, require_run, shown
from dgm_jax.errors import UserError
from dgm_jax.system.interruption import Signals


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Remove classes from a run: what only they used goes, and other classes stay bit for bit (docs/forget.md)."""

    workdir: Annotated[Positional[Path], arg(metavar="WORKDIR", help="folder of the run")]
    classes: Annotated[tuple[str, ...], shown("CLASS [CLASS ...]")]
    """classes, by label or by name"""
    debug: Debug = False

    def run(self) -> None:
        """Forgets the classes, and says what remains of them."""
        if not self.classes:
            raise UserError("--classes needs at least one class, e.g. --classes 3 7")
        require_run(self.workdir)

        with Signals(sigterm=False) as signals:
            print("\n".join(self._forget(signals)))

    def _forget(self, signals: Signals) -> list[str]:
        from dgm_jax.forgetting import forget
        from dgm_jax.methods.method import Watch
        from dgm_jax.reporting.console import progress_bar
        from dgm_jax.system.compilation import keep_programs

        class Shown(Watch):
            @contextmanager
            def phase(
                self, name: str, total: float = 0, *, epoch: int | None = None
            ) -> Iterator[Callable[[int], None]]:
                with progress_bar(max(int(total), 1), "training a classifier without them") as advance:

                    def on_units(n: int) -> None:
                        signals.raise_if_heard()
                        advance(n)

                    yield on_units

        keep_programs()
        done = forget(
            self.workdir, self.classes, watch=Shown(), note=lambda text: print(f"note: {text}", file=sys.stderr)
        )
        names = ", ".join(one["class"] for one in done.classes)
        said = [f"forgot {names}; still known: {', '.join(done.left)}"]
        for one in done.classes:
            said.append(f"what remains of {one['class']}:" + ("" if one["remains"] else " no part of it"))
            said += [f"  - {what}" for what in one["remains"]]
        said.append("this removes a class, and is not exact unlearning: docs/forget.md says what it is")
        if done.dropped:
            said.append(f"given up, because they were not learnt yet: {', '.join(done.dropped)}")
        if done.removed:
            said.append(f"removed exported files: {', '.join(done.removed)}")
        if done.others:
            said.append(f"not the run's own files, look at them yourself: {', '.join(done.others)}")
        return said
