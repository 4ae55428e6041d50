"""The benchmark of prediction at a tiny size."""

from support import small_runs

from benchmarks import predict, records


def test_both_networks_are_measured_and_written(monkeypatch, tmp_path, capsys):
    config = small_runs.small(image_size=8, discriminator_width=2)
    measured = predict.measure(config, 1, n=65, seconds=0)
    assert list(measured) == ["predict", "patches, 64 a call", "patches, 256 a call"]
    for own in measured.values():
        assert min(own["cpu_us"], own["wall_us"], own["ratio"]) > 0 and own["largest_difference"] < 1e-6
    assert measured["predict"]["ratio"] == 1 and measured["predict"]["largest_difference"] == 0

    file = tmp_path / "predict.jsonl"
    monkeypatch.setattr(predict, "measure", lambda *_, **__: measured)
    predict.main(out=file)
    rows = records.read(file)
    assert [row["network"] for row in rows] == ["mnist", "cifar10"]
    assert all(row["ways"] == measured and row["machine"]["cores"] > 0 for row in rows)
    assert capsys.readouterr().out.count("patches, 64 a call") == 2
