"""What each job of this machine has of its cores and GPUs."""

import pytest

from dgm_jax.system import engines

FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"


@pytest.mark.parametrize(
    "items, slots, expected",
    [
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 1, 2], 2, [[0], [1]]),  # A run's bits depend on the number of cores, but not on the slot it gets.
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]),
        ([3, 5], 2, [[3], [5]]),
        ([0, 1, 2], 1, [[0, 1, 2]]),
        (["0", "1"], 3, [["0"], ["1"], ["0"]]),
    ],
)
def test_each_slot_has_its_share(items, slots, expected):
    assert [list(engines.share(items, slot, slots)) for slot in range(slots)] == expected


@pytest.mark.parametrize(
    "files, chosen, slots, expected",
    [
        ([], None, 2, [None, None]),
        (["nvidia2", "nvidia5", "nvidiactl"], None, 2, ["0", "1"]),  # A container that has two of a machine's GPUs.
        (["nvidia2", "nvidia5"], None, 1, [None]),
        (["nvidia0", "nvidia1"], "", 2, ["", ""]),
        (["nvidia0", "nvidia1"], "7,GPU-6", 2, ["7", "GPU-6"]),
        (["nvidia0", "nvidia1"], "7,GPU-6", 1, ["7,GPU-6"]),
    ],
)
def test_which_gpus_each_slot_sees(files, chosen, slots, expected, tmp_path, monkeypatch):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(engines, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    found = [engines.environment(slot, slots) for slot in range(slots)]
    assert found == [{"CUDA_VISIBLE_DEVICES": gpus} for gpus in expected]


def test_slots_share_the_memory_of_a_gpu(monkeypatch):
    for name in (FRACTION, "XLA_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert engines.environment(1, 2) == {"CUDA_VISIBLE_DEVICES": "0", FRACTION: "0.450"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert engines.environment(2, 3) == {"CUDA_VISIBLE_DEVICES": "0", FRACTION: "0.450"}
    for name in (FRACTION, "XLA_CLIENT_MEM_FRACTION"):  # JAX refuses both at once.
        with monkeypatch.context() as own:
            own.setenv(name, "0.3")
            assert FRACTION not in engines.environment(2, 3)
