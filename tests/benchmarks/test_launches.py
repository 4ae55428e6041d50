"""What a GPU program launches: read from a small text, and, where the compiler is installed, from a real program."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kernels, launches
from benchmarks.points import POINTS
from dgm_jax.errors import UserError

# An iteration of a fused product, a call of cuBLAS and an exchange, and a loop in it of one convolution and one copy.
PROGRAM = """HloModule steps, is_scheduled=true

%fused_product (p0: f32[64,100], p1: f32[100,32]) -> f32[64,32] {
  %p0 = f32[64,100] parameter(0)
  %p1 = f32[100,32] parameter(1)
  ROOT %dot.1 = f32[64,32] dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%picked (p0: u8[5000,32,32,1], p1: s32[]) -> u8[64,32,32,1] {
  %p0 = u8[5000,32,32,1] parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %gather.1 = u8[64,32,32,1] gather(%p0, %p1), offset_dims={1,2,3}
}

%inner_body (carry: (f32[64,16,16,8])) -> (f32[64,16,16,8]) {
  %carry = (f32[64,16,16,8]) parameter(0)
  %x = f32[64,16,16,8] get-tuple-element(%carry), index=0
  %w = f32[8,5,5,8] constant({...})
  %conv = (f32[64,16,16,8], u8[0]) custom-call(%x, %w), window={size=5x5}, custom_call_target="__cudnn$convForward"
  %y = f32[64,16,16,8] get-tuple-element(%conv), index=0
  %copy.1 = f32[64,16,16,8] copy(%y)
  ROOT %out = (f32[64,16,16,8]) tuple(%copy.1)
}

%inner_condition (carry: (f32[64,16,16,8])) -> pred[] {
  %carry = (f32[64,16,16,8]) parameter(0)
  ROOT %true = pred[] constant(true)
}

%outer_body (carry: (f32[64,100])) -> (f32[64,100]) {
  %carry = (f32[64,100]) parameter(0)
  %a = f32[64,100] get-tuple-element(%carry), index=0
  %b = f32[100,32] constant({...})
  %data = u8[5000,32,32,1] constant({...})
  %row = s32[] constant(3)
  %fusion.1 = f32[64,32] fusion(%a, %b), kind=kCustom, calls=%fused_product
  %fusion.2 = u8[64,32,32,1] fusion(%data, %row), kind=kLoop, calls=%picked
  %cublas = (f32[64,32], s8[0]) custom-call(%a, %b), target="cublas", config={"lhs_contracting_dimensions":["1"]}
  %all-reduce-start = f32[64,32] all-reduce-start(%fusion.1), to_apply=%sum
  %all-reduce-done = f32[64,32] all-reduce-done(%all-reduce-start)
  %start = (f32[64,16,16,8]) tuple(%a)
  %while.1 = (f32[64,16,16,8]) while(%start), condition=%inner_condition, body=%inner_body
  ROOT %out = (f32[64,100]) tuple(%a)
}

ENTRY %main (arg: f32[64,100]) -> (f32[64,100]) {
  %arg = f32[64,100] parameter(0)
  %begin = (f32[64,100]) tuple(%arg)
  ROOT %while.2 = (f32[64,100]) while(%begin), condition=%inner_condition, body=%outer_body
}
"""


def test_kernels_are_counted_and_weighed():
    figures = launches.measure(PROGRAM, "float32", classifier_steps=3)
    outer, inner = figures["iteration"], figures["classifier_step"]
    assert (outer["launches"], outer["exchanges"], inner["launches"], inner["exchanges"]) == (6, 1, 2, 0)
    product, convolution = 2 * 64 * 32 * 100, 2 * 64 * 16 * 16 * 8 * 5 * 5 * 8
    assert outer["gflop"] == pytest.approx(2 * product / 1e9)
    assert inner["gflop"] == pytest.approx(convolution / 1e9)
    image, kernel = 4 * 64 * 16 * 16 * 8, 4 * 8 * 5 * 5 * 8
    assert inner["megabytes"] == pytest.approx((2 * image + kernel + 2 * image) / 1e6)
    # Of the data set, little more than what is picked is read.
    matrices, picked = 4 * (64 * 100 + 100 * 32 + 64 * 32), 2 * 64 * 32 * 32 + 4_000_000
    assert outer["megabytes"] == pytest.approx((2 * matrices + picked + 4 * 4 * 64 * 32) / 1e6)
    total = outer["milliseconds"] + 3 * inner["milliseconds"]
    assert figures["predicted_milliseconds"] == pytest.approx(total) and inner["milliseconds"] > 0.015 + 0.004 + 0.002


def test_few_tiles_do_not_fill_the_chip():
    one, many = kernels.Product(64, 64, 1000, (64, 64)), kernels.Product(64 * 132, 64, 1000, (64, 64))
    assert one.seconds(1e12) == pytest.approx(many.seconds(1e12))
    assert kernels.Product(65, 64, 1000, (64, 64)).seconds(1e12) == pytest.approx(one.seconds(1e12))  # Two tiles.
    assert kernels.Product(64, 64, 1000, (64, 64), fills_all=True).seconds(1e12) == pytest.approx(one.flop / 1e12)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is not None, reason="the compiler is installed")
def test_without_the_compiler_it_says_what_to_install():
    with pytest.raises(UserError, match="^there is no compiler for NVIDIA's GPUs here; python -m pip install "):
        launches.main()


def test_unknown_points_are_refused():
    with pytest.raises(UserError, match="^--points dgmw-7: unknown; choose from dgma-0, "):
        launches.main(points=["dgmw-7"])


@pytest.mark.slow
def test_an_iteration_compiles_for_an_h200(tmp_path):
    pytest.importorskip("jax_cuda13_plugin", reason='needs the compiler: python -m pip install "jax[cuda13]"')
    point = POINTS[4].name
    command = [
        sys.executable,
        "-m",
        "benchmarks.launches",
        "--points",
        point,
        "--out",
        str(tmp_path / "launches.jsonl"),
    ]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=1500)
    (line,) = map(json.loads, (tmp_path / "launches.jsonl").read_text().splitlines())
    assert line["point"] == point and line["iteration"]["exchanges"] == 0
    assert line["iteration"]["launches"] <= 340 and line["classifier_step"]["launches"] <= 70  # Fewer is better.
