"""Changes one small thing in the source at a time, and runs tests until one fails: does any test notice the change?

The changes ("mutants") are drawn by a seed from all that `benchmarks.changes` finds in the packages of `TESTS`. Each is
made in a copy of the repository. The tests that name its module are run first, and with `--others` those of packages
that use it. A mutant that no test notices survives. A person then reads it, and either writes a test, or says in
`mutants_read.jsonl` why nothing could notice it (it is equivalent) or why it may survive.

The file `--out` gets a line for each test file (how long it takes without a change) and for each mutant. The same
command continues where it was stopped. `--again` tries the survivors once more, for example with
new tests.

    python -m benchmarks.mutants --out mutants.jsonl
"""

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, records
from benchmarks.changes import ROOT, Mutant, changes
from dgm_jax.errors import exit_status

READ = Path(__file__).with_name("mutants_read.jsonl")  # What a person found about survivors.
TESTS = {  # For each package, the folders of tests that could notice a change, in this order.
    "nn": ["nn", "models", "training", "methods"],
    "models": ["models", "memory", "training", "methods"],
    "training": ["training", "methods", "runs"],
    "methods": ["methods", "runs", "training"],
    "memory": ["memory", "methods", "runs", "commands"],
    "metrics": ["metrics", "methods", "runs"],
    "data": ["data", "methods", "runs"],
    "system": ["system", "memory", "runs"],
}
_SLOWEST = 400.0  # Seconds of tests, without a change, that a mutant is worth.


def drawn(n: int, seed: int) -> list[Mutant]:
    """Draws `n` mutants, equally many of each package; with a larger `n` come the same ones and more."""
    packages = [_shuffled(package, random.Random(f"{seed} {package}")) for package in TESTS]
    return [mutant for turn in zip(*packages) for mutant in turn][:n]


def _shuffled(package: str, chance: random.Random) -> list[Mutant]:
    """All changes of a package in random order; each kind is as likely as any other to be next.

    Otherwise most would be of the common kinds, which any test notices.
    """
    of_kind: dict[str, list[Mutant]] = {}
    for path in sorted((ROOT / "dgm_jax" / package).glob("stream.py" if package == "data" else "*.py")):
        for mutant in changes(path.relative_to(ROOT).as_posix()):
            of_kind.setdefault(mutant.kind, []).append(mutant)
    for each in of_kind.values():
        chance.shuffle(each)
    result = []
    while of_kind:
        kind = chance.choice(sorted(of_kind))
        result.append(of_kind[kind].pop())
        if not of_kind[kind]:
            del of_kind[kind]
    return result


@dataclass
class Copy:
    """A copy of the repository, in which tests run; `shared` lies beside it as beside the repository."""

    folder: Path
    out: Path  # The file of the results.
    seconds: dict[str, float]  # Of each test file, without a change.

    @classmethod
    def into(cls, folder: Path, out: Path, seconds: dict[str, float]) -> "Copy":
        """Makes the copy."""
        left_out = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, folder / "repository", ignore=left_out)
        (folder / "shared").symlink_to(ROOT.parent / "shared")
        return cls(folder, out, seconds)

    def run(self, files: Sequence[str], limit: float) -> tuple[str, str]:
        """Runs test files up to the first failure: "killed" and the test, or "survived", or "timed out"."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-m",
            "slow or not slow",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ]
        command += [f"--basetemp={self.folder / 'tests'}", *files]
        child = subprocess.Popen(
            command,
            cwd=self.folder / "repository",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            text, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return "timed out", files[0]
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if child.returncode == 0:
            return "survived", ""
        assert "file or directory not found" not in text, text
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        return "killed", failed[0] if failed else text.strip().rpartition("\n")[2][:200]

    def try_one(self, mutant: Mutant, *, others: bool) -> tuple[str, str]:
        """Makes a change, runs the tests that name the module, or the `others`, and takes the change back."""
        path, left, chosen = self.folder / "repository" / mutant.module, _SLOWEST, []
        named = naming(mutant.module)
        if others:
            files = [file for folder in TESTS[mutant.package] for file in test_files(folder) if file not in named]
        else:
            files = sorted(named, key=lambda file: (Path(mutant.module).stem not in file, self.measured(file)))
        for file in files:
            if self.measured(file) < left:
                left -= self.measured(file)
                chosen.append(file)
        before, changed = path.read_bytes(), mutant.source()
        compile(changed, mutant.module, "exec")  # Otherwise any test would notice it.
        try:
            path.write_text(changed, "utf-8")
            return self.run(chosen, 120 + 6 * (_SLOWEST - left)) if chosen else ("survived", "")
        finally:
            path.write_bytes(before)
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
                compiled.unlink()  # Two changes of one size within a second would have the same one.

    def measured(self, file: str) -> float:
        """How many seconds a test file takes without a change."""
        if file not in self.seconds:
            begun = time.perf_counter()
            result, by = self.run([file], 3600)
            assert result == "survived", f"without any change, {by} fails: {result}"
            self.seconds[file] = round(time.perf_counter() - begun, 2)
            records.append(self.out, {"tests": file, "seconds": self.seconds[file]})
        return self.seconds[file]


def test_files(folder: str) -> list[str]:
    """The test files of a folder of `tests`."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / folder).glob("test_*.py"))


def naming(module: str) -> list[str]:
    """The test files that name a module, by what they are called or import; all of its package if none of them does."""
    package, stem = Path(module).parent.name, Path(module).stem
    imported = re.compile(rf"dgm_jax\.{package}\.{stem}\b|from dgm_jax\.{package} import .*\b{stem}\b")
    folders = dict.fromkeys([package, *itertools.chain(*TESTS.values())])
    files = [file for folder in folders for file in test_files(folder)]
    named = [f for f in files if stem in f.removesuffix(".py").split("_") or imported.search((ROOT / f).read_text())]
    own = test_files(package)
    return named if set(named) & set(own) else [*named, *own]


def _key(record: dict[str, Any]) -> tuple[str, str]:
    return record["module"], record["change"]


def by_module(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts for each module; what survived is named, with the reason that a person wrote down."""
    read = {_key(each): each for each in records.read(READ)}
    rows: list[dict[str, Any]] = []
    for module in sorted({each["module"] for each in results}):
        own = [each for each in results if each["module"] == module]
        named: dict[str, list[dict[str, Any]]] = {"equivalent": [], "survived": []}
        for each in (each for each in own if each["result"] == "survived"):
            found = read.get(_key(each), {"verdict": "survived", "reason": "not read yet"})
            kept = {"line": each["line"], "change": each["change"], "reason": found["reason"]}
            named[found["verdict"]].append(kept)
        noticed = sum(each["result"] != "survived" for each in own)
        timed_out = sum(each["result"] == "timed out" for each in own)
        rows.append({"module": module, "mutants": len(own), "killed": noticed, "timed_out": timed_out, **named})
    return rows


def main(
    out: Path,
    n: int = 160,
    seed: int = 0,
    only: str | None = None,
    again: bool = False,
    others: bool = False,
    keep: Path | None = None,
) -> int:
    """Tries mutants, then prints how many were noticed in each module.

    Args:
      out: file of JSON Lines; a line for each mutant is added, and those that it has are not tried again.
      n: number of mutants.
      seed: chooses them.
      only: only those of this package.
      again: tries those once more that have survived.
      others: runs the tests of further packages, too, for those that have survived the tests that name the module.
      keep: file of JSON Lines to which the figures of each module are added.
    """
    known = records.read(out)
    seconds = {each["tests"]: each["seconds"] for each in known if "tests" in each}
    results = {_key(each): each for each in known if "module" in each}
    if again:
        results = {key: each for key, each in results.items() if each["result"] != "survived"}
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy.into(Path(folder), out, seconds)
        mutants = [mutant for mutant in drawn(n, seed) if only in (None, mutant.package)]
        for further in (False, True)[: 1 + others]:
            for number, mutant in enumerate(mutants, start=1):
                record = mutant.record()
                before = results.get(_key(record))
                if before and (before["result"] != "survived" or before["others"] >= further):
                    continue
                begun = time.perf_counter()
                record["result"], record["by"] = copy.try_one(mutant, others=further)
                record |= {"others": further, "seconds": round(time.perf_counter() - begun, 1)}
                results[_key(record)] = record
                records.append(out, record)
                print(f"{number} of {len(mutants)}: {record}", flush=True)
    rows = by_module([results[_key(mutant.record())] for mutant in mutants])
    for row in rows:
        print(row)
        machine.keep(keep, **row, seed=seed)
    killed, equivalent = sum(row["killed"] for row in rows), sum(len(row["equivalent"]) for row in rows)
    print(f"{killed} of {len(mutants)} noticed, {equivalent} equivalent, {len(mutants) - killed - equivalent} survived")
    return int(killed < 0.95 * (len(mutants) - equivalent))


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.mutants", description=__doc__)))
