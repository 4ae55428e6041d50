"""docs/results/speed.md, and what other pages say of time and memory, says what the records in `results/` say."""

import re

from support.results_pages import PAGES, ROOT, numbers, read, require_equal, rows_with


def test_seconds_of_a_step():
    points = {record["point"].replace("-", " "): record for record in read("step")}
    rows = rows_with(PAGES / "speed.md", "before task")
    assert [row["before task"] for row in rows] == list(points)
    for row in rows:
        point = points[row["before task"]]
        parts = point["parts"]
        iteration = parts["iteration"]
        one_step = parts.get("iteration, replay_steps=1", iteration)  # Before the first task they are the same.
        assert numbers(row["widths"].replace("-", " ")) == point["widths"]
        require_equal(row["GFLOP"], [iteration["gflop"]], str(row))
        require_equal(row["ms"], [1e3 * iteration["seconds"]], str(row))
        require_equal(row["ratio"], [iteration["ratio"]], str(row))
        require_equal(row["ratio to large products"], [iteration["ratio_to_large_products"]], str(row))
        require_equal(row["of PyTorch"], [iteration["ratio_to_pytorch"]], str(row))
        require_equal(row["ms, `replay_steps 1"], [1e3 * one_step["seconds"]], str(row))
        require_equal(row["in a run, masks learnt"], [1e3 * parts["same, padded as in a run"]["seconds"]], str(row))
        require_equal(row["in a run, settled"], [1e3 * parts["same, masks settled"]["seconds"]], str(row))
        require_equal(row["epoch / its iterations"], [point["epoch"]["ratio_to_iterations"]], str(row))


def test_seconds_of_a_run():
    by_variant = {
        (run["variant"], run["kind"]): run for run in read("run") if not {"classes", "against", "command"} & set(run)
    }
    for row in rows_with(PAGES / "speed.md", "cold, s"):
        cold, warm = (by_variant[row["variant"], kind] for kind in ("cold", "warm"))
        require_equal(row["cold, s"], [cold["seconds"]], str(row))
        require_equal(row["warm, s"], [warm["seconds"]], str(row))
        require_equal(row["shapes of programs"], [len(cold["programs"])], str(row))
        require_equal(row["peak memory"].removesuffix(" GB"), [cold["peak_host_bytes"] / 1e9], str(row))


def test_runs_against_an_earlier_commit():
    measured = [run for run in read("run") if "against" in run]
    rows = rows_with(PAGES / "speed.md", "command", "kind", "wall, share")
    assert len(rows) == len(measured) and all(run["against"] == "c36b15c" for run in measured)
    for row, run in zip(rows, measured, strict=True):
        assert (row["command"], row["kind"]) == (run["command"].split(" --data-dir")[0], run["kind"])
        require_equal(row["rounds"], [run["rounds"]], str(row))
        require_equal(row["wall, share"], [run["ratio_seconds"]], str(row))
        require_equal(row["CPU, share"], [run["ratio_cpu_seconds"]], str(row))
    page = " ".join((PAGES / "speed.md").read_text().split())
    best = measured[-1]
    found = re.search(r"of `best`, (\d+) of (\d+) seconds \((\d+) of (\d+) at c36b15c\)", page)
    seconds = best["seconds"], best["seconds"] / best["ratio_seconds"]
    expected = best["phases_here"]["train"], seconds[0], best["phases_against"]["train"], seconds[1]
    assert [int(number) for number in found.groups()] == [round(value) for value in expected]


def test_several_runs_at_once():
    (record,) = read("jobs")
    rows = rows_with(PAGES / "speed.md", "runs at once")
    for row, way in zip(rows, ("one", "several"), strict=True):
        require_equal(row["runs at once"], [record[way]["jobs"]], str(row))
        require_equal(row["wall, s"], [record[way]["seconds"]], str(row))
        require_equal(row["CPU, s"], [record[way]["cpu_seconds"]], str(row))
    require_equal(rows[1]["share of the wall"], [record["ratio_of_seconds"]], "share")


def test_eighty_classes():
    (run,) = [run for run in read("run") if run.get("command", "").startswith("joined")]
    rows = rows_with(PAGES / "speed.md", "after so many classes")
    for row, field in zip(rows, ("accuracy", "oldest_classes"), strict=True):
        for n_tasks, share in run[field]:
            require_equal(row[str(n_tasks)], [100 * share], field)
    page = " ".join((PAGES / "speed.md").read_text().split())
    found = re.search(
        r"The run took ([\d.]+) minutes and ([\d.]+) GB .* took ([\d.]+) times .* ([\d.]+) times as wide", page
    )
    expected = [run["seconds"] / 60, run["peak_host_bytes"] / 1e9, run["ratio_seconds"], run["ratio_width"]]
    for cell, value in zip(found.groups(), expected, strict=True):
        require_equal(cell, [value], "eighty classes")
    (alone,) = [run for run in read("run") if run.get("command", "").startswith("digits --preset joined")]
    assert f"ends at {100 * alone['accuracy'][-1][1]:.1f} %" in page
    first, *_, last = (share for _, share in run["oldest_classes"])
    assert f"have lost {100 * (first - last):.1f} points" in page


def test_launches_on_a_gpu():
    measured = {(record["point"], record["precision"]): record for record in read("launches")}
    rows = rows_with(PAGES / "speed.md", "launches, outside of classifier steps")
    assert [(row["point"], row["precision"]) for row in rows] == list(measured)
    for row in rows:
        found = measured[row["point"], row["precision"]]
        require_equal(row["launches, outside of classifier steps"], [found["iteration"]["launches"]], str(row))
        require_equal(row["of each classifier step"], [found["classifier_step"]["launches"]], str(row))
        require_equal(row["GFLOP of a classifier step"], [found["classifier_step"]["gflop"]], str(row))
        require_equal(row["ms, at least"], [found["predicted_milliseconds"]], str(row))
    dgmw = measured["dgmw-9", "tf32"]
    total = dgmw["iteration"]["launches"] + 10 * dgmw["classifier_step"]["launches"]
    assert f"so DGMw launches {total} kernels" in (PAGES / "speed.md").read_text()


def test_stock_flax_networks():
    measured = {(record["size"], record["loss"]): record for record in read("flax_conv")}
    rows = rows_with(PAGES / "speed.md", "size", "loss")
    assert [(row["size"], row["loss"]) for row in rows] == list(measured)
    for row in rows:
        record = measured[row["size"], row["loss"]]
        for header, field in {"in scan, ms": "ours in scan", "JAX's": "jax in scan", "alone, ms": "ours"}.items():
            require_equal(row[header], [record["milliseconds"][field]], str(row))
        require_equal(row["JAX's alone"], [record["milliseconds"]["jax"]], str(row))
        require_equal(row["ratio in scan"], [record["ratio_in_scan"]], str(row))
        require_equal(row["ratio alone"], [record["ratio"]], str(row))
        assert record["loss_difference"] < 1e-6


def test_prediction():
    measured = {record["network"]: record["ways"] for record in read("predict")}
    rows = rows_with(PAGES / "speed.md", "network", "way")
    assert [(row["network"], row["way"]) for row in rows] == [
        (name, way) for name in measured for way in measured[name]
    ]
    for row in rows:
        found = measured[row["network"]][row["way"]]
        for header, field in {"CPU us an image": "cpu_us", "wall us": "wall_us", "CPU ratio": "ratio"}.items():
            require_equal(row[header], [found[field]], str(row))
        assert found["largest_difference"] < 3e-8


def test_memory_with_and_without_compiling():
    cold, warm = [run["peak_host_bytes"] / 1e9 for run in read("run") if run.get("command") == "digits --epochs 20"]
    page = (ROOT / "docs" / "faq.md").read_text()
    assert f"needed {cold:.2f} GB where it compiled, and {warm:.2f} GB where it did not" in page
