"""Every compiled program of every method, lowered for GPUs and TPUs on a machine that has neither.

Lowering takes a second or two where compiling takes minutes, and shows what would be slow or impossible there.
"""

import json
import re

import jax
import pytest
from jax.experimental import topologies
from support import children, dry_run, small_runs
from support.marks import slow_but

from dgm_jax import config
from dgm_jax.config import Config
from dgm_jax.methods import METHODS

PLATFORMS = ("cuda", "rocm", "tpu")
EXCHANGE = re.compile(r"stablehlo\.(?:all_\w+|reduce_scatter|collective_\w+)")
GENERATIVE = {"run_steps", "run_classifier_steps", "sample_chunk", "discriminated"}
CLASSIFYING = {"run_classifier_steps", "discriminated"}
FEATURES = {"_moved", "add_features", "features"}

CASES: dict[str, tuple[Config, set[str]]] = {  # Settings, and the programs of a run.
    "dgma": (small_runs.small("dgma"), GENERATIVE),
    "dgmw": (small_runs.small("dgmw"), GENERATIVE),
    "dgma-resnet": (small_runs.residual("dgma"), GENERATIVE),
    "dgmw-resnet": (small_runs.residual("dgmw"), GENERATIVE),
    "beyond": (small_runs.beyond("dgma"), GENERATIVE),
    "bf16": (small_runs.small("dgmw", precision="bf16"), GENERATIVE),
    **{
        method: (small_runs.small(method=method), GENERATIVE if method in config.GENERATIVE else CLASSIFYING)
        for method in METHODS
        if method != "dgm"
    },
}
CASES["er-balanced"] = (small_runs.small(method="er", mini_batches="balanced"), CLASSIFYING)
CASES["analytic"] = (CASES["analytic"][0], FEATURES)
CASES["combined"] = (small_runs.small(combined=True), GENERATIVE | FEATURES)
CASES["ewc"] = (CASES["ewc"][0], CLASSIFYING | {"_fisher"})

# Between two devices, in the text of a program: each norm of a pass exchanges its statistics once, and once more each
# time that it is differentiated; each step exchanges its gradients and metrics once, all together; mergan tells all
# devices the first old class. DCGANs of this size have one norm in D, residual networks eleven.
EXCHANGES = {
    "dgma": {"run_steps": 19, "run_classifier_steps": 3},
    "dgmw-resnet": {"run_steps": 122, "run_classifier_steps": 23},
    "er": {"run_classifier_steps": 3},
    "analytic": {"add_features": 3},
    "mergan": {"run_steps": 20, "run_classifier_steps": 3},
}


def programs(name: str, **options: object) -> dict[str, dry_run.Program]:
    settings, expected = CASES[name]
    found = dry_run.programs(settings, classes_per_task=2, labels=(0, 1, 2, 3), **options)
    assert set(found) == expected, (name, set(found))
    return found


@pytest.mark.parametrize("name", slow_but(list(CASES), "analytic", "dgma", "dgmw-resnet", "ewc", "icarl", "mergan"))
def test_programs_hold_nothing_that_only_a_cpu_or_a_host_can_do(name: str) -> None:
    for program in programs(name).values():
        for platform in PLATFORMS:
            text = program.lowered(platform)
            assert re.search(r"f32>", text) and not re.search(r"f64>", text)  # Slow on GPUs, emulated on TPUs.
            assert not re.search(r"custom_call", text)  # Neither a library of CPUs nor a callback to the host.


def test_devices_exchange_as_little_as_they_can() -> None:
    code = "import test_lowering as t; t.print_exchanges()"
    flags = "--xla_force_host_platform_device_count=2"
    (out,) = children.outputs(children.start(code, XLA_FLAGS=flags))
    assert json.loads(out) == EXCHANGES


def print_exchanges() -> None:
    """With two devices: how often they exchange something, in the text of each program that trains."""
    counts = {}
    for name in EXCHANGES:
        found = programs(name, devices=jax.devices())
        texts = {step: found[step].lowered("cuda") for step in found if step.startswith(("run_", "add_"))}
        counts[name] = {step: len(EXCHANGE.findall(text)) for step, text in texts.items()}
    print(json.dumps(counts))


@pytest.mark.slow
def test_a_run_compiles_for_a_tpu() -> None:
    pytest.importorskip("libtpu", reason='needs the compiler: python -m pip install "jax[tpu]"')
    nobody_asks = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}
    children.outputs(children.start("import test_lowering as t; t.compile_for_a_tpu()", **nobody_asks), seconds=1200)


def compile_for_a_tpu() -> None:
    """One chip of a v5e. In bfloat16, for float32 takes its compiler minutes for each convolution."""
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[:1]
    for program in programs("bf16", devices=chips).values():
        program.compile_for(chips)
