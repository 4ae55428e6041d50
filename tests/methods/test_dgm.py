"""What DGM plans and says before it trains."""

import dataclasses

import jax
import numpy as np
import pytest
from support import small_runs

from dgm_jax.memory.task import TaskMemory
from dgm_jax.methods import dgm, dgm_state
from dgm_jax.methods.method import TaskInput
from dgm_jax.runs.session import new_method
from dgm_jax.training.classifier import init_classifier

KEY = jax.random.key(2)


def _method(config, **options):
    return new_method(config, small_runs.stream(config, **options), jax.local_devices()[:1])


def test_the_plan_of_a_task():
    config = small_runs.small("dgma", image_size=8, epochs=5)
    method = _method(config, labels=(0, 1, 2, 3), classes_per_task=(2, 1, 1))
    states = [method.new_state(KEY)]
    plan = method.plan(0, states)
    assert (plan.epochs, plan.steps, plan.widths) == (5, 6, (3,))  # 48 images in mini-batches of 8.
    assert plan.physical_widths == (12,) and plan.compiles  # The headroom is 4.
    assert method.plan(1, states).steps == 3
    wider = dataclasses.replace(states[0].memory, kernels=[np.zeros((4, 4, 8, 7), np.float32)])
    both = [*states, dataclasses.replace(states[0], memory=wider)]
    assert method.plan(0, both).widths == (7,)  # That of the widest seed.


def test_a_new_memory_knows_nothing_and_reserves_nothing():
    for variant, shape in (("dgma", (3,)), ("dgmw", (4, 4, 8, 3))):
        memory = _method(small_runs.small(variant, image_size=8)).new_state(KEY).memory
        assert memory.tasks == () and memory.n_classes == 0
        assert [mask.shape for mask in memory.reserved] == [shape] and not any(map(np.any, memory.reserved))
        assert 0.01 < np.std(memory.kernels[0]) < 0.03


@pytest.mark.parametrize("before", [((), (0,)), ()])  # Earlier versions did not note it.
def test_a_task_notes_from_which_classes_its_gates_began(before):
    config = small_runs.small("dgma", image_size=8)
    method = _method(config)
    stream = small_runs.stream(config)
    stream.begin(2)
    state = dataclasses.replace(method.new_state(KEY), begun_as=before)
    begun, _, capacity, images = method._begin(2, TaskInput(KEY, state, *stream.train(2)), (12,))
    assert begun.begun_as == ((), (0,) if before else (), ())
    assert begun.programs == ((12,),)
    again, *_ = method._begin(2, TaskInput(KEY, begun, *stream.train(2)), (12,))
    assert again.programs == ((12,),)  # Each shape once.
    assert images.count == 24 and capacity.seen.tolist() == [True] * 3


@pytest.mark.parametrize("changes, begun_as", [({}, None), ({"reinitialise_discriminator": False}, "auxiliary")])
def test_what_the_discriminator_of_a_task_begins_as(changes, begun_as):
    config = small_runs.small("dgma", image_size=8, **changes)
    method, stream = _method(config), small_runs.stream(config)
    stream.begin(1)
    networks = {
        name: init_classifier(jax.random.key(seed), config, channels=1, n_classes=3)
        for seed, name in enumerate(("classifier", "auxiliary"))
    }
    kept = {name: method.setting.classifier(own.params, own.statistics, 0) for name, own in networks.items()}
    state = dataclasses.replace(method.new_state(KEY), **kept)
    _, train_state, *_ = method._begin(1, TaskInput(KEY, state, *stream.train(1)), (12,))
    same = [
        all(jax.tree.leaves(jax.tree.map(np.array_equal, train_state.discriminator, own.params)))
        for own in networks.values()
    ]
    assert same == [begun_as == name for name in networks]


class _Says:
    """A classifier that takes all images for one class."""

    def __init__(self, index):
        self.index = index

    def logits(self, images):
        return np.eye(3)[[self.index] * len(images)]


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_discriminator_that_goes_on_says_what_a_warm_start_is_similar_to(goes_on, monkeypatch):
    config = small_runs.small("dgmw", image_size=8, warm_start=True, reinitialise_discriminator=not goes_on)
    method, stream = _method(config), small_runs.stream(config)
    stream.begin(1)
    asked = []
    monkeypatch.setattr(dgm, "most_similar_classes", lambda predicted, *_: asked.append(set(predicted)) or [])
    state = dataclasses.replace(method.new_state(KEY), classifier=_Says(0), auxiliary=_Says(1))
    assert method._similar_classes(1, TaskInput(KEY, state, *stream.train(1))) == []
    assert asked == [{1 if goes_on else 0}]


@pytest.mark.parametrize(
    "changes, sizes, said",
    [
        ({}, (2, 1), True),
        ({}, (1, 1, 1), False),
        ({"auxiliary_generator": True}, (2, 1), False),
        ({"reconstruction_weight": 0.5}, (2, 1), False),
        ({"critic_condition": "projection"}, (1, 2), False),
    ],
)
def test_a_generator_that_cannot_know_which_class_to_draw_is_said(changes, sizes, said):
    method = _method(small_runs.small("dgma", image_size=8, **changes), classes_per_task=sizes)
    assert [note[:47] for note in method.advice()] == ["tasks have several classes, and nothing tells t"] * said


def test_who_keeps_sums_of_features_is_told_what_they_give_away():
    changes = {"combined": True, "filters": 4}
    (note,) = _method(small_runs.small("dgma", image_size=8, **changes)).advice()
    assert "single training images can be recognised" in note and "--no-combined" in note


def test_what_the_estimate_is_made_of(monkeypatch):
    told = []
    monkeypatch.setattr(dgm_state, "estimated_seconds", lambda *given, **named: told.append((given, named)) or 5.0)
    config = small_runs.small("dgma", image_size=8)
    method = _method(config, labels=(0, 1, 2, 3), classes_per_task=(2, 1, 1))
    assert method.estimated_seconds(3) == 5.0
    assert told == [
        ((config, method.setting.devices), {"train_counts": [48, 24, 24], "channels": 1, "epochs_done": 3}),
    ]


def test_the_bytes_of_images_are_those_of_the_stored_ones():
    setting = _method(small_runs.small("dgma", image_size=8)).setting
    assert dataclasses.replace(setting, stored_shape=(5, 6, 3)).bytes_of(10) == 10 * 5 * 6 * 3


def test_the_numbers_of_a_stream_by_hand():
    """Tasks of two, one and three classes; the first one has fewer images than a mini-batch, 8."""
    setting = dataclasses.replace(
        _method(small_runs.small("dgma", image_size=8)).setting,
        tasks=((0, 1), (2,), (3, 4, 5)),
        counts=((3, 2), (24,), (10, 10, 11)),
        labels=(7, -1, 5, 30, 2, 9),
        names=("a", "b", "c", "d", "e", "f"),
    )
    assert (setting.n_tasks, setting.n_classes, setting.largest_task) == (3, 6, 31)
    assert [setting.n_seen(task) for task in (-1, 0, 1, 2)] == [0, 2, 3, 6]
    assert setting.seen(1).tolist() == [True, True, True, False, False, False]
    assert [setting.images_per_class(task) for task in range(3)] == [4, 24, 10]
    assert [setting.steps_per_epoch(task) for task in range(3)] == [1, 3, 3]
    few = dataclasses.replace(setting, counts=((3, 2), (1,), (1, 1, 1)))
    assert few.largest_task == 8
    classifier = setting.classifier({}, [], 1)
    assert (classifier.labels, classifier.names, classifier.network) == ((7, -1, 5), ("a", "b", "c"), "dcgan")
    assert setting.classifier({}, [], 2, network="resnet").network == "resnet"


def test_there_are_output_layers_for_the_largest_task():
    assert _method(small_runs.small("dgma"), labels=(0, 1, 2, 3), classes_per_task=(1, 2, 1)).networks.max_heads == 2


@pytest.mark.parametrize("changes, grows", [({}, True), ({"expansion": False}, False), ({"masks": "none"}, False)])
def test_expansion_makes_up_for_what_a_task_reserved_once(changes, grows):
    config = small_runs.small("dgma", image_size=8, **changes)
    method = _method(config)
    memory = method.new_state(KEY).memory
    task = TaskMemory(
        (0,), widths=(3,), masks=[np.array([True, False, True])], norms=[], statistics=[], heads=None, n_conditioned=1
    )
    state = dataclasses.replace(method.new_state(KEY), memory=dataclasses.replace(memory, tasks=(task,)))
    grown = method.expand(0, KEY, state)
    assert grown.memory.widths == ((5,) if grows else (3,))
    assert method.expand(0, KEY, grown).memory.widths == grown.memory.widths
    np.testing.assert_array_equal(grown.memory.kernels[0][..., :3], memory.kernels[0])


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({}, []),
        ({"warm_start": True}, ["classifier"]),
        ({"reinitialise_discriminator": False}, ["discriminator"]),
        ({"reinitialise_discriminator": False, "warm_start": True}, ["discriminator"]),
    ],
)
def test_bytes_count_a_network_only_if_the_next_task_needs_it(changes, parts):
    method = _method(small_runs.small("dgma", image_size=8, **changes))
    new = init_classifier(KEY, method.config, channels=1, n_classes=3)
    trained = method.setting.classifier(new.params, new.statistics, 0)
    state = dataclasses.replace(method.new_state(KEY), classifier=trained, auxiliary=trained)
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves((new.params, new.statistics)))
    expected = state.memory.bytes() | dict.fromkeys(parts, size)
    expected["total"] += size * len(parts)
    assert method.memory_bytes(state) == expected
