"""A learner that only records how it was called, for tests of the command line."""

import pytest


class _Learner:
    """Stands for the real one: records the call, or fails in its place."""

    failure: BaseException | None = None
    fitted: dict = {}

    def __init__(self, config, *, devices, backend, callbacks, show_real=False, should_stop=None, by_images=()):
        type(self).fitted = {"config": config, "devices": devices, "backend": backend}
        self.callbacks = callbacks

    def fit(self, stream, workdir, *, resume_anyway, more_of_known):
        if self.failure is not None:
            raise self.failure
        type(self).fitted |= {"workdir": workdir, "resume_anyway": resume_anyway, "more_of_known": more_of_known}

    def fit_seeds(self, seeds, streams, workdir, *, resume_anyway, more_of_known):
        type(self).fitted |= {"seeds": seeds, "streams": len(streams), "workdir": workdir}
        spread = {"macro": {"mean": 0.9512, "sd": 0.004, "values": [0.95, 0.96]}}
        return {"final": 10, "protocol": "strict", "seeds": list(seeds), "A_10": {"consolidated": spread}}


@pytest.fixture
def learner(monkeypatch):
    import dgm_jax.learner
    import dgm_jax.system.compilation

    for name in ("keep_programs", "keep_no_programs"):  # Later tests have a cache of their own.
        monkeypatch.setattr(dgm_jax.system.compilation, name, lambda: None)
    monkeypatch.setattr(dgm_jax.learner, "Learner", _Learner)
    monkeypatch.setattr(_Learner, "failure", None)
    return _Learner
