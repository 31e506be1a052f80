r"""Net D that predicts boxes, Appendix A: trained on ILSVRC's boxes or on your own.

    vgg_jax --config=localize --workdir=runs/D-boxes-s384 --config.data.source=voc:/data/ILSVRC \
        --config.init.from_run=runs/D-s384   # a classification run of the same S
    vgg_jax --config=localize:s256 ...   # S = 256
    vgg_jax --config=localize:scr ...   # or :pcr, as in Table 8
    vgg_jax --config=localize:voc:PATH --workdir=runs/boxes   # your own, in Pascal VOC's format
    vgg_jax --config=localize:smoke --workdir=runs/smoke   # a minute, anywhere

Paper (localization error in %; Table 8 with the true class, Table 9 top-5):
  Table 8, central crop and true class, S = Q = 384: fc6 and fc7 tuned, SCR 36.4, PCR 34.3; all layers, PCR 33.1
  Table 9, dense, S = Q = 256: 29.5; S = Q = 384: 28.2

The paper's stages read a folder in ILSVRC's layout, with Annotations/CLS-LOC: here ILSVRC, or data.source=voc:PATH.
On your own photographs published convolutions stay as they are and are computed once, on fixed views of each image; see
configs/finetune.py. Measured: not on ImageNet yet; the smoke stage runs in the tests.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config
from vgg_jax.configs.common import check_stage, smoke
from vgg_jax.model.specs import CONVOLUTIONAL_STAGES

STAGES = {
    "s256": "all layers, a box per class, S = 256",
    "s384": "the same at S = 384",
    "scr": "fc6, fc7 and the new fc8 only, one box for all classes, S = 384",
    "pcr": "the same with a box per class",
    "smoke": "the machinery in a minute: a narrow net on the digits that a package ships, each in a box",
    "SOURCE": "small FC layers on published convolutions, for a source of few photographs, such as voc:PATH",
}


def get_config(stage: str = "s384") -> ConfigDict:
    if ":" not in stage:
        check_stage(stage, STAGES)
    config = default_config()
    config.task = "localization"
    config.model.net = "D"
    config.data.source = "voc:ILSVRC"
    config.data.statistics = "imagenet"
    config.data.scale = (256, 256) if stage == "s256" else (384, 384)
    config.train.learning_rate = 1e-3
    config.localization.per_class = stage != "scr"
    if stage in ("scr", "pcr"):
        config.train.freeze = CONVOLUTIONAL_STAGES
    elif stage == "smoke":
        smoke(config)
    elif ":" in stage:
        few_photographs(config, stage)
    return config


def few_photographs(config: ConfigDict, source: str) -> None:
    """Trains small FC layers on published convolutions, which are computed once on fixed views of each image."""
    config.model.hidden = 512
    config.model.dropout = 0.2  # a regression of few numbers does not learn with half of the units dropped
    config.init.scheme = "he"
    config.init.weights = "timm/vgg16.tv_in1k"
    config.data.source = source
    config.data.scale = (224, 288)
    config.train.batch_size = 64
    config.train.weight_decay = 0.2  # with the paper's it overfits
    config.train.freeze = CONVOLUTIONAL_STAGES
    config.train.cached_views = 6
    config.train.steps = 600
    config.schedule.kind = "step"
    config.schedule.boundaries = (400, 550)
    config.evaluate.scale = 224
    config.evaluate.every = 200
    config.checkpoint.every = 200
