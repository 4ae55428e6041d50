"""Attacks on membership: by hand, against SciPy and scikit-learn, and on cases that are built to give members away."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_curve

from dgm_jax import metrics
from dgm_jax.metrics import membership


def test_true_positives_by_hand():
    """Of 200 others, 1 % may be above the threshold: it is the third highest of their scores."""
    others = np.arange(200.0)
    members = np.array([197.0, 197.5, 300.0, -1.0])
    assert membership.true_positives(members, others) == 0.5
    assert membership.true_positives(members, others[::-1], false_positives=0.02) == 0.75
    assert membership.true_positives(members, others[:99]) == 0.75  # Of 99, none may be.
    assert membership.true_positives(np.ones(5), np.ones(7)) == 0.0  # What says nothing finds nothing.


def test_true_positives_as_scikit_learn_computes_them():
    rng = np.random.default_rng(0)
    for decimals in (1, 9):  # With many ties, and none.
        members, others = rng.normal(1, 1, 300).round(decimals), rng.normal(size=1000).round(decimals)
        truth = np.r_[np.ones(300), np.zeros(1000)]
        false, true, _ = roc_curve(truth, np.r_[members, others], drop_intermediate=False)
        assert membership.true_positives(members, others) == pytest.approx(true[false <= 0.01].max())


def test_log_odds():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    odds = np.exp(logits)[np.arange(50), classes] / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(membership.log_odds(logits, classes), np.log(odds / (1 - odds)), rtol=1e-10)
    sure = membership.log_odds(np.float32([[1000, 0, -5]]), np.array([0]))  # 1 - p is 0 in any precision.
    assert sure == pytest.approx(1000 - np.log(1 + np.exp(-5)))


def test_a_likelihood_ratio_by_hand():
    """One image, which runs 0 to 2 learnt, and the others, 3 to 5, did not; run 6 is attacked."""
    values = np.array([4.0, 5, 6, 0, 1, 2, 4.5])[:, None]
    is_member = np.array([1, 1, 1, 0, 0, 0, 1], bool)[:, None]
    expected = scipy.stats.norm.logpdf(4.5, 5, 1) - scipy.stats.norm.logpdf(4.5, 1, 1)
    for said in (True, False):  # Whether it is a member is what the attacker wants to know.
        is_member[6] = said
        assert membership.likelihood_ratios(values, is_member, 6) == pytest.approx(expected)
        assert membership.compared_with_unseen(values, is_member, 6) == pytest.approx(4.5 - 1)


def test_an_image_without_shadow_runs_on_both_sides_says_nothing():
    values = np.random.default_rng(2).normal(size=(5, 3))
    is_member = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1]], bool)
    scores = membership.likelihood_ratios(values, is_member, 4)
    assert scores[0] == scores[1] == 0 != scores[2]
    calibrated = membership.compared_with_unseen(values, is_member, 4)
    assert calibrated[0] == 0 and calibrated[1] == pytest.approx(values[4, 1] - values[:4, 1].mean())


def attack(shift: float) -> dict[str, list[float]]:
    """Areas under the curves where a member's value is higher by `shift`, and images differ far more."""
    rng = np.random.default_rng(3)
    is_member = rng.random((16, 600)) < 0.5
    values = 5 * rng.normal(size=600) + shift * is_member + rng.normal(size=is_member.shape)
    found: dict[str, list[float]] = {"value": [], "unseen": [], "ratio": []}
    for target, learnt in enumerate(is_member):
        scores = {
            "value": values[target],
            "unseen": membership.compared_with_unseen(values, is_member, target),
            "ratio": membership.likelihood_ratios(values, is_member, target),
        }
        for name, own in scores.items():
            found[name].append(metrics.auroc(own[learnt], own[~learnt]))
    return found


def test_shadow_runs_separate_members_of_a_constructed_case():
    """The best possible area is that of two normal distributions 3 deviations apart; estimated means cost a little."""
    found = {name: np.mean(areas) for name, areas in attack(3.0).items()}
    best = scipy.stats.norm.cdf(3 / np.sqrt(2))
    assert found["value"] < 0.7
    assert best - 0.02 < found["ratio"] < best + 0.003
    assert best - 0.02 < found["unseen"] < best + 0.003


def test_an_attack_without_anything_to_find_finds_nothing():
    """The mean of 16 areas by chance: its standard deviation is 0.006, and no attack is favoured by how it is made."""
    for name, areas in attack(0.0).items():
        assert abs(np.mean(areas) - 0.5) < 0.018, name


def test_leverages_by_hand():
    """Members span two of three axes: their leverage is that of a projection, and others' is divided by the ridge."""
    members = np.array([[3.0, 0, 0], [0, 4, 0], [3, 0, 0]])
    gram = members.T @ members  # Eigenvalues 18, 16 and 0; the mean is 34 / 3.
    others = np.array([[0.0, 0, 2], [1, 1, 1]])
    found = membership.leverages(gram, np.concatenate([members, others]), ridge=1e-8)
    floor = 1e-8 * 34 / 3
    expected = [0.5, 1, 0.5, 4 / floor, 1 / floor + 1 / 18 + 1 / 16]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_member_changes_its_own_leverage_as_derived():
    """a becomes a / (1 + a), as the formula of Sherman and Morrison says."""
    rng = np.random.default_rng(4)
    others, x = rng.normal(size=(40, 6)), rng.normal(size=(1, 6))
    without = others.T @ others
    a = membership.leverages(without, x, ridge=1e-12)
    assert membership.leverages(without + x.T @ x, x, ridge=1e-12) == pytest.approx(a / (1 + a))


@pytest.mark.parametrize(("n", "least", "most"), [(20, 1.0, 1.0), (400, 0.5, 0.75)])
def test_leverages_find_members(n, least, most):
    """Exactly while there are fewer images than features, in float32 as well; and ever worse the more there are."""
    rng = np.random.default_rng(5)
    members, others = rng.normal(size=(n, 40)), rng.normal(size=(400, 40))
    gram = np.float32(members.T @ members)
    area = metrics.auroc(*(-membership.leverages(gram, part) for part in (members, others)))
    assert least <= area <= most


def test_a_reference_finds_members_among_far_more_images_than_features():
    """The ratio to the leverage in sums over other images, as the docstring says of normally distributed features."""
    rng = np.random.default_rng(6)
    n, d = 600, 80
    brightness = np.exp(0.2 * rng.normal(size=(3, n, 1)))  # Images differ far more than chance does.
    members, others, reference = brightness * rng.normal(size=(3, n, d))
    sums, usual = members.T @ members, reference.T @ reference
    plain = [membership.leverages(sums, part) for part in (members, others)]
    ratios = [own / membership.leverages(usual, part) for own, part in zip(plain, (members, others))]
    area = {name: metrics.auroc(-of[0], -of[1]) for name, of in (("plain", plain), ("ratio", ratios))}
    assert area["plain"] < 0.6
    assert area["ratio"] == pytest.approx(scipy.stats.norm.cdf(d / (4 * n) ** 0.5 / 2**0.5), abs=0.05)
