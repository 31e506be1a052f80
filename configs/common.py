"""What the paper's ImageNet configs share: the three training stages of Sec. 3.1."""

from ml_collections import ConfigDict

from vgg_jax.config import default_config
from vgg_jax.errors import ConfigError

STAGES = {
    "s256": "S = 256, rate 1e-2: the first stage",
    "s384": "S = 384 at rate 1e-3, from the S = 256 net: --config.init.from_run=RUN",
    "jitter": "S drawn from [256; 512] at rate 1e-3, from the S = 384 net: --config.init.from_run=RUN",
    "smoke": "the machinery in a minute: a narrow net, crops of 64 pixels, 20 steps on the digits that a package ships",
}


def imagenet(net: str, stage: str) -> ConfigDict:
    """The paper's protocol for one net and stage, on ILSVRC-2012.

    Args:
      net: a letter of Table 1.
      stage: one of `STAGES`.

    Raises:
      ConfigError: no such stage.
    """
    check_stage(stage, STAGES)
    config = default_config()
    config.model.net = net
    config.data.statistics = "imagenet"
    # 5 plateaus of 5,000 steps: an epoch of ImageNet is 5,004 steps at batch 256, the paper's run 74 of them.
    if stage == "s384":
        config.data.scale = (384, 384)
        config.train.learning_rate = 1e-3
    elif stage == "jitter":
        config.data.scale = (256, 512)
        config.train.learning_rate = 1e-3
    elif stage == "smoke":
        smoke(config)
    return config


def check_stage(stage: str, stages: dict[str, str]) -> None:
    """Refuses a stage that is not one of these, {name: what it is}.

    Raises:
      ConfigError: with all of them.
    """
    if stage not in stages:
        known = "; ".join(f"{name} ({what})" for name, what in stages.items())
        raise ConfigError(f"no stage {stage!r}; there are {known}")


def smoke(config: ConfigDict) -> None:
    """Shrinks a config until it runs anywhere in a minute; says nothing about accuracy."""
    config.model.width = 0.0625
    config.init.scheme = "he"
    config.data.source = "mnist5k"
    config.data.statistics = "computed"
    config.data.flip = False
    config.data.crop = 64
    config.data.scale = (64, 96)
    config.train.batch_size = 32
    config.train.steps = 20
    config.evaluate.every = 10
    config.log.every = 5
    config.checkpoint.every = 10
