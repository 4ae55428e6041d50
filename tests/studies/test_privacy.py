"""The studies of what a run gives away, on real digits, and the page that says what they found."""

import dataclasses

import numpy as np
import pytest
from support import small_runs

from benchmarks import records
from dgm_jax import data, load_memory
from dgm_jax.errors import UserError
from dgm_jax.metrics import membership
from dgm_jax.training.feature_sums import FeatureSums
from studies import privacy, privacy_sums


def test_each_run_learns_a_random_half_of_each_class():
    labels = np.repeat([3, 7, 9], [10, 20, 31])
    halves = np.stack([privacy.random_half(labels, number) for number in range(40)])
    for label, n in ((3, 5), (7, 10), (9, 15)):
        assert (halves[:, labels == label].sum(axis=1) == n).all()
    assert (halves.sum(axis=0) >= 8).all() and (halves.sum(axis=0) <= 32).all()  # None is always or never there.
    assert (privacy.random_half(labels, 3) == halves[3]).all()


def test_attacks_count_the_images_asked_for():
    """Runs say of each image whether they learnt it, but only of the first hundred: the others give nothing away."""
    rng = np.random.default_rng(0)
    is_member = rng.random((6, 300)) < 0.5
    tells = np.arange(300) < 100
    values = rng.normal(size=is_member.shape) + 100 * (is_member & tells)
    found = privacy.attacked(values, is_member, tells)
    for name, least in (("value", 1.0), ("calibrated", 0.95), ("likelihood ratio", 0.95)):
        assert min(found[name]["auroc"]) >= least, name  # An image may be in all shadow runs, or in none.
    for name, others in privacy.attacked(values, is_member, ~tells).items():
        assert abs(np.mean(others["auroc"]) - 0.5) < 0.1 and len(others["true_positives"]) == 6, name


def test_distances_to_drawn_images():
    """By hand, for one image of each class: the least root mean square difference to drawn images of its class."""
    import jax

    workdir = small_runs.finished(small_runs.small("dgma")).workdir
    memory, pool, key = load_memory(workdir), small_runs.digits(16), jax.random.key(5)
    distances = privacy.distances_to_drawn(memory, pool, 30, key)
    assert distances.shape == (72,)
    for index, label in enumerate(pool.labels):
        row = int(np.flatnonzero(pool.y_train == label)[4])
        drawn = memory.images(index, 30, jax.random.fold_in(key, index)) / 255
        differences = np.sqrt(((drawn - pool.x_train[row] / 255) ** 2).mean(axis=(1, 2, 3)))
        assert distances[row] == pytest.approx(differences.min())


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(privacy, "keep_programs", lambda: None)
    monkeypatch.setattr(privacy, "preset", lambda name, variant: small_runs.small(variant, image_size=8))
    monkeypatch.setattr(privacy.jax, "clear_caches", lambda: None)


def test_joint_runs_are_learnt_once_and_attacked(tmp_path, few_steps, monkeypatch, capsys):
    learnt = []
    fit = privacy.Learner.fit

    def spy(learner, stream, workdir):
        learnt.append((learner.config.seed, stream.tasks))
        return fit(learner, stream, workdir)

    monkeypatch.setattr(privacy.Learner, "fit", spy)
    file = tmp_path / "privacy.jsonl"
    argv = ["digits", "--base", "method=joint", "--classes", "3", "--train-per-class", "16", "--count", "3"]
    for _ in range(2):
        assert privacy.main([*argv, "--runs", str(tmp_path / "runs"), "--out", str(file)]) == 0
    assert learnt == [(number, ((0, 1, 2),)) for number in range(3)]
    (record,) = records.read(file)
    assert (record["members"], record["others"], record["method"]) == (24, 24, "joint")
    assert set(record["attacks"]) == set(record["accuracy"]) == {"joint"} and "nearer" not in record
    assert all(len(own["auroc"]) == 3 for own in record["attacks"]["joint"].values())
    assert "24 members and 24 others in each of 3 runs" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_of_dgm_are_attacked_by_their_classifiers_and_their_drawn_images(tmp_path, few_steps):
    file = tmp_path / "privacy.jsonl"
    argv = ["digits", "--classes", "2", "--train-per-class", "16", "--count", "3", "--draws", "20"]
    assert privacy.main([*argv, "--runs", str(tmp_path / "runs"), "--out", str(file)]) == 0
    (record,) = records.read(file)
    assert set(record["attacks"]) == {"consolidated", "auxiliary", "drawn"} and record["compared"] == 6


def test_what_cannot_be_attacked_is_refused(tmp_path, few_steps):
    argv = ["digits", "--runs", str(tmp_path), "--out", str(tmp_path / "privacy.jsonl")]
    for option, value, least in (
        ("--count", 2, 3),
        ("--classes", 1, 2),
        ("--train-per-class", 1, 2),
        ("--draws", 0, 1),
    ):
        with pytest.raises(UserError, match=f"{option} {value}: expected at least {least}"):
            privacy.main([*argv, option, str(value)])
    with pytest.raises(UserError, match="method='ewc'; expected one of dgm, separate and joint"):
        privacy.main([*argv, "--base", "method=ewc"])


# ---- sums of features ----


def digits_split(mirror: bool = False) -> privacy_sums.Split:
    dataset = data.load("digits").of_classes((0, 1, 2)).resized(16)
    return privacy_sums.split(dataset, 0, 4, mirror=mirror, sizes=(60, 40, 50))


def test_sums_give_members_away_exactly_while_there_are_fewer_images_than_features():
    """Four filters have 32 features; 8 digits of one class, or of each of three, are fewer than that."""
    rows = privacy_sums.attacked(digits_split(), (8, 60), (50,))
    assert [(row["sums"], row["images"], row["members"], row["others"]) for row in rows] == [
        ("all classes", 24, 24, 120),
        ("all classes", 180, 120, 120),
        ("one class", 8, 8, 40),
        ("one class", 60, 40, 40),
    ]
    few, many, few_of_one, many_of_one = (row["auroc"]["leverage"] for row in rows)
    assert few == [1.0] and few_of_one == [1.0] * 3
    assert rows[0]["true_positives"]["leverage"] == [1.0] and 0.4 < many[0] < 0.8
    assert len(many_of_one) == 3 and all(many[0] < area < 1 for area in many_of_one)


def test_the_sums_are_those_that_the_method_keeps():
    """With mirror images, too: they count half."""
    import jax

    from dgm_jax.models.closed_form import Sums
    from dgm_jax.models.patch_filters import learn_filters

    images = data.load("digits").resized(16).x_train[:20]
    filters = learn_filters(jax.random.key(1), images, 4)
    for mirror in (False, True):
        sums = FeatureSums(32, jax.local_devices()[:1], mirror=mirror)
        kept = sums.with_images(Sums.of_nothing(1, 32), filters, images, np.zeros(20, int), lambda n: None)
        views = [images, images[:, :, ::-1]][: 1 + mirror]
        features = np.stack([privacy_sums.Features(filters)(view) for view in views], axis=1)
        np.testing.assert_allclose(privacy_sums.grams(features[None], 20)[0], kept.gram, rtol=1e-4, atol=1e-5)


def test_a_split_has_no_image_twice():
    parts = digits_split(mirror=True)
    assert [part.shape for part in dataclasses.astuple(parts)] == [(3, n, 2, 32) for n in (60, 40, 50)]
    everything = np.concatenate([part[:, :, 0].reshape(-1, 32) for part in dataclasses.astuple(parts)])
    assert len(np.unique(everything, axis=0)) == 450
    with pytest.raises(UserError, match=r"160 \+ 40 \+ 50 that are learnt"):
        privacy_sums.split(data.load("digits").resized(16), 0, 4, mirror=False, sizes=(160, 40, 50))


def test_a_few_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected at least 1 each"):
        privacy_sums.main(["digits", "--images", "0", "--out", str(tmp_path / "privacy.jsonl")])


def test_leverages_of_two_views_add_up():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 2, 6))
    gram = privacy_sums.grams(features, 5).sum(axis=0)
    expected = sum(membership.leverages(gram, features[1, 3, view][None])[0] for view in (0, 1))
    assert privacy_sums.leverages(gram, features)[1, 3] == pytest.approx(expected)
