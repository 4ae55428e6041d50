"""Whether settings and a stream of tasks fit each other, and what tells one stream from another."""


from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import ConfigError


def check_fit(config: Config, stream: TaskStream) -> None:
    """Makes sure that settings and stream fit each other; raises ConfigError if they do not."""
    if stream.protocol != config.protocol:
        raise ConfigError(f"protocol={config.protocol!r}, but the stream was made for {stream.protocol!r}")
    if stream.image_shape[:2] != (config.image_size, config.image_size):
        raise ConfigError(
            f"image_size={config.image_size}, but the images are {stream.image_shape[0]}x{stream.image_shape[1]}; "
            f"resize the data set: dataset.resized({config.image_size})"
        )
    if stream.n_classes >= config.noise_dim:
        raise ConfigError(
            f"noise_dim={config.noise_dim} has no room for the one-hot of {stream.n_classes} classes; make it larger"
        )
    smallest = min(range(stream.n_tasks), key=lambda t: sum(stream.train_counts(t)))
    count = sum(stream.train_counts(smallest))
    if config.batch_size > count:
        raise ConfigError(
            f"batch_size={config.batch_size}, but task {smallest} has only {count} training images; use at most {count}"
        )


