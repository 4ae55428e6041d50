"""Shows that a change of the code changed no result: checksums of short runs on real digits, before and after.

Each run is started in a checkout, so that two commits can be compared on one machine. A checksum covers
what a run leaves behind: its accuracies, the arrays of its newest checkpoint, what its memory draws, and an exported
memory. Bits depend on the processor and on the number of cores, so compare records of the same machine, and give each
run the same cores, for example one: `taskset -c 0 python -m benchmarks.checksums ...`.

    git worktree add ../before COMMIT
    python -m benchmarks.checksums --checkout ../before --out before.json
    python -m benchmarks.checksums --out after.json --compare before.json
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from dgm_jax.errors import UserError, exit_status

_STEPS = "--consolidation-steps 100 --checkpoint-seconds 0"
_EPOCHS = f"--epochs 6 {_STEPS}"
_SHORT = f"{_EPOCHS} --consolidation-samples 100"
_GROUPS = "--classes-per-task 5"
_RESNET = f"--network resnet --generator-width 8 --discriminator-width 8 --auxiliary-generator {_GROUPS}"
_PAPER = f"--preset paper-mnist --image-size 16 --protocol paper {_GROUPS}"
_BEST = "--warm-start --scale-lead 1 --generator-average 0.98 --consolidation-smoothing 0.1 --classes-per-task 2"
_BASELINES = {
    **dict.fromkeys(("joint", "finetune", "er", "icarl", "gdumb", "ewc"), _STEPS),
    "analytic": "--checkpoint-seconds 0",
    "dgr": _EPOCHS,
    **dict.fromkeys(("mergan", "mergan-jtr", "separate"), _SHORT),
}  # Each with the options that it reads.

RUNS: dict[str, str] = {  # Options of the experiment, by name of the run.
    "dgma-seed0": "--variant dgma --seed 0",
    "dgma-seed1": "--variant dgma --seed 1",
    "dgmw-seed0": "--variant dgmw --seed 0",
    "dgmw-seed1": "--variant dgmw --seed 1",
    "dgma-side-by-side": f"--variant dgma --seeds 0,1 {_GROUPS}",
    "dgma-groups": "--variant dgma --classes-per-task 2",
    "dgmw-groups": f"--variant dgmw {_GROUPS}",
    "dgma-resumed": f"--variant dgma {_GROUPS}",
    "dgmw-four-devices": f"--variant dgmw {_GROUPS} --devices 4",
    "dgma-best": f"--variant dgma {_BEST}",
    "dgma-paper": f"--variant dgma {_PAPER}",
    "dgmw-paper": f"--variant dgmw {_PAPER}",
    "dgma-resnet": f"--variant dgma {_RESNET} --reconstruction-weight 1",
    "dgmw-resnet": f"--variant dgmw {_RESNET} --no-reinitialise-discriminator",
    **{method: f"--method {method} {_GROUPS}" for method in _BASELINES},
}
_KILLED = "dgma-resumed"
_KILLED_AFTER = 3  # Lines of metrics.jsonl.

# What the summary says of a run that does not depend on the clock, the machine's name or the wording of settings.
_MEASURED = ("final", "finished", "forgetting", "backward_transfer", "confusion", "bytes", "capacity", "privacy")

_READ_MEMORY = """
import hashlib, json, sys
import jax, numpy as np
import dgm_jax
memory = dgm_jax.load_memory(sys.argv[1])
drawn = {str(c): hashlib.sha256(np.asarray(memory.sample(c, 20, jax.random.key(7))).tobytes()).hexdigest()
         for c in memory.labels}
print(json.dumps(drawn))
"""


def main(out: Path, checkout: Path = Path("."), only: Sequence[str] = (), compare: Path | None = None) -> int:
    """Runs what is listed in RUNS and writes the checksums.

    Args:
      out: the file to write.
      checkout: the folder of the code to run.
      only: names of runs (default: all).
      compare: a file written earlier; the exit status is 1 if a checksum differs.
    """
    unknown = sorted(set(only) - set(RUNS))
    if unknown:
        raise UserError(f"--only {' '.join(unknown)}: unknown; choose from {', '.join(RUNS)}")
    if not (checkout / "dgm_jax").is_dir():
        raise UserError(f"--checkout {checkout}: expected a folder that holds dgm_jax/")
    if compare is not None and not compare.is_file():
        raise UserError(f"--compare {compare}: no such file")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only or RUNS:
            begun = time.perf_counter()
            found[name] = _run(name, checkout.resolve(), Path(folder) / name)
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
            out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if compare is None else _compare(json.loads(compare.read_text()), found)


def _run(name: str, checkout: Path, workdir: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
    if "--devices" in RUNS[name]:
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    options = f"{_BASELINES.get(name, _SHORT)} {RUNS[name]}".split()
    command = [sys.executable, "-m", "experiments.digits", *options, "--workdir", str(workdir)]
    with workdir.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
        if name == _KILLED:
            metrics = workdir / "metrics.jsonl"
            while process.poll() is None and _count_lines(metrics) < _KILLED_AFTER:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
        status = process.wait()
    if status:
        raise UserError(f"{name} failed with status {status}:\n{workdir.with_suffix('.log').read_text()[-3000:]}")
    folders = sorted(path.parent for path in workdir.rglob("summary.json") if (path.parent / "config.json").exists())
    return {str(folder.relative_to(workdir)): _checksums(folder, checkout, environment) for folder in folders}


def _count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _checksums(folder: Path, checkout: Path, environment: dict[str, str]) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    measured = {key: value for key, value in summary.items() if key in _MEASURED or key.startswith("A_")}
    newest = max((folder / "checkpoints").glob("[0-9]*/checkpoint.json"), key=lambda path: int(path.parent.name))
    leaves = json.loads(newest.read_text())["leaves"].values()
    found: dict[str, Any] = {
        "accuracy": {name: of for name, of in sorted(measured.items()) if name.startswith("A_")},
        "measured": _sha256(json.dumps(_rounded(measured), sort_keys=True).encode()),
        # A set, without names: an array that is called otherwise, or that is kept only once, is still the same array.
        "checkpoint": _sha256("\n".join(sorted({f"{x['dtype']} {x['shape']} {x['sha256']}" for x in leaves})).encode()),
    }
    if summary["method"] == "dgm":
        python = [sys.executable, "-c", _READ_MEMORY, str(folder)]
        found["drawn"] = json.loads(subprocess.check_output(python, cwd=checkout, env=environment, text=True))
        exported = folder / "memory.safetensors"
        export = [sys.executable, "-m", "dgm_jax", "export", str(folder), str(exported)]
        subprocess.check_output(export, cwd=checkout, env=environment)
        found["exported"] = _sha256(exported.read_bytes())
    return found


def _rounded(measured: dict[str, Any]) -> Any:
    """Nine digits of each number: libraries may add the terms of a distance in another order."""
    return json.loads(json.dumps(measured), parse_float=lambda number: float(f"{float(number):.9g}"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    differing = []
    for name, runs in after.items():
        for folder, checksums in runs.items():
            earlier = before.get(name, {}).get(folder, {})
            for what in sorted({*checksums, *earlier}):
                if checksums.get(what) != earlier.get(what):
                    differing.append(f"{name}/{folder}: {what} differs")
    print("\n".join(differing) if differing else f"all checksums of {len(after)} runs are equal")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.checksums", description=__doc__)))
