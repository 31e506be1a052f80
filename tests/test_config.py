import importlib
import re
from pathlib import Path

import pytest

from vgg_jax import ConfigError, TransferSettings
from vgg_jax.config import check_key, default_config, validate, with_defaults
from vgg_jax.config import eval_scale as scale_of_test

CONFIGS = sorted(
    path.stem for path in (Path(__file__).parent.parent / "configs").glob("[!_]*.py") if path.stem != "common"
)
TRANSFER = sorted(path.stem for path in (Path(__file__).parent.parent / "configs/transfer").glob("[!_]*.py"))


def test_the_defaults_are_the_papers():
    config = default_config()
    validate(config)
    paper = {
        "batch_size": 256, "momentum": 0.9, "weight_decay": 5e-4, "learning_rate": 1e-2, "steps": 370_000,
    }  # fmt: skip
    assert {key: config.train[key] for key in paper} == paper
    assert (config.model.dropout, config.data.crop, tuple(config.data.scale)) == (0.5, 224, (256, 256))
    assert (config.schedule.kind, config.schedule.factor, config.schedule.drops) == ("plateau", 0.1, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_tells_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    validate(module.get_config())
    assert re.search(rf"vgg_jax --config={name}(:[A-Z]+)? ", module.__doc__)


@pytest.mark.parametrize("name", TRANSFER)
def test_every_config_of_a_transfer_is_valid_and_tells_its_command(name):
    module = importlib.import_module(f"configs.transfer.{name}")
    config = module.get_config()
    validate(config)
    TransferSettings(**config.transfer).check()
    assert re.search(rf"vgg_jax --mode=transfer --config=transfer/{name}(:[A-Z]+)? --weights=", module.__doc__)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("vgg")])
def test_the_stages_are_the_papers(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    stages = {"s256": ((256, 256), 1e-2, 256), "s384": ((384, 384), 1e-3, 384), "jitter": ((256, 512), 1e-3, 384)}
    for stage, (scale, rate, test) in stages.items():
        config = get_config(stage)
        validate(config)
        assert (tuple(config.data.scale), config.train.learning_rate, scale_of_test(config)) == (scale, rate, test)
    validate(get_config("smoke"))
    with pytest.raises(ConfigError, match="no stage 's512'; there are s256"):
        get_config("s512")


def test_the_stages_of_localization_are_those_of_appendix_a():
    get_config = importlib.import_module("configs.localize").get_config
    stages = {"s256": (256, True, ()), "s384": (384, True, ()), "scr": (384, False, "fc"), "pcr": (384, True, "fc")}
    for stage, (scale, per_class, tuned) in stages.items():
        config = get_config(stage)
        validate(config)
        assert (config.task, config.model.net, config.train.learning_rate) == ("localization", "D", 1e-3)
        assert (tuple(config.data.scale), config.localization.per_class) == ((scale, scale), per_class)
        assert len(config.train.freeze) == 5 * bool(tuned)
    validate(get_config("smoke"))
    own = get_config("voc:my/photographs")
    validate(own)
    assert own.data.source == "voc:my/photographs"
    with pytest.raises(ConfigError, match="no stage 's512'; there are s256"):
        get_config("s512")


def test_the_nets_of_the_configs_are_those_of_table_1():
    nets = {
        name: importlib.import_module(f"configs.{name}").get_config().model.net for name in CONFIGS if name[:3] == "vgg"
    }
    assert nets == {"vgg11": "A", "vgg11_lrn": "A-LRN", "vgg13": "B", "vgg16_1x1": "C", "vgg16": "D", "vgg19": "E"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.crop": 230}, r"config.data.crop=230 is not a multiple of 32, the net's stride; use 224 or 256"),
        ({"data.scale": (200, 256)}, r"config.data.scale=\(200, 256\): S is below the crop, config.data.crop=224"),
        ({"data.scale": (300, 256)}, r"Smin <= Smax"),
        ({"data.on_error": "ignore"}, r"config.data.on_error='ignore': use one of raise, skip"),
        ({"data.statistics": "cifar"}, r"config.data.statistics='cifar': use one of computed, imagenet"),
        ({"evaluate.scale": 200}, r"config.evaluate.scale=200: Q is below the crop"),
        ({"train.batch_size": 0}, r"config.train.batch_size=0: the least is 1"),
        ({"train.batch_size": 2.5}, r"config.train.batch_size=2.5 is of type float; it takes a whole number"),
        ({"train.batch_size": True}, r"config.train.batch_size=True is of type bool"),
        ({"train.microbatches": 3}, r"config.train.microbatches=3 does not divide config.train.batch_size=256"),
        ({"train.momentum": 1.0}, r"config.train.momentum=1.0: below 1"),
        ({"model.net": "vgg18"}, r"config.model.net='vgg18': use one of A, .*; did you mean 'vgg1\d'"),
        ({"model.dtype": "float16"}, r"config.model.dtype='float16': use one of auto, float32, bfloat16"),
        ({"model.width": 0.0}, r"config.model.width=0.0: a positive factor"),
        ({"model.dropout": 1.0}, r"not a probability"),
        ({"init.scheme": "xavier"}, r"config.init.scheme='xavier': use one of paper, "),
        ({"init.grow_from": "a", "init.from_run": "b"}, r"both set"),
        ({"init.from_run": "a", "init.weights": "b"}, r"config.init.from_run and config.init.weights are both set"),
        ({"init.grow_from": "a", "init.from_run": "b", "init.weights": "c"}, r"are all set: a run begins from one"),
        (
            {"init.weights": "a", "init.preprocessing": "bgr"},
            r"config.init.preprocessing='bgr': use one of '', torchvision",
        ),
        ({"init.preprocessing": "caffe"}, r"config.init.preprocessing='caffe' says what config.init.weights expects"),
        ({"train.cached_views": -1}, r"config.train.cached_views=-1: the least is 0"),
        ({"schedule.kind": "cosine"}, r"config.schedule.kind='cosine': use one of plateau, step, fixed"),
        ({"schedule.kind": "step"}, r"takes rising steps"),
        ({"schedule.boundaries": (10,)}, r"belongs to config.schedule.kind='step', not 'plateau'"),
        ({"schedule.factor": 10.0}, r"config.schedule.factor=10.0: between 0 and 1"),
        ({"task": "localisation"}, r"config.task='localisation': use one of classification, localization; did you"),
        ({"localization.match": "nms"}, r"config.localization.match='nms': use one of iou, overfeat"),
        ({"localization.threshold": -0.1}, r"config.localization.threshold=-0.1: the least is 0"),
        ({"localization.per_class": 1}, r"config.localization.per_class=1 is of type int; it takes True or False"),
        ({"seed": -1}, r"config.seed=-1: the least is 0"),
        ({"seed": 10**23}, r"config.seed=10{23}: the most is 9,223,372,036,854,775,807"),
        ({"model.width": float("inf")}, r"config.model.width=inf: the most is 64"),
        ({"model.width": float("nan")}, r"config.model.width=nan: the least is 0"),
        ({"model.hidden": 9_999_999_999}, r"config.model.hidden=9999999999: the most is 1,048,576"),
        ({"data.crop": 32 * 10**20, "data.scale": (32 * 10**20,) * 2}, r"config.data.scale=.*: S is 32,768 pixels at"),
        ({"data.scale": (256, 10**9), "evaluate.scale": 256}, r"config.data.scale=\(256, 1000000000\): S is 32,768"),
        ({"data.scale": (3000, 3000)}, r"config.evaluate.scale=0: Q = 3000, 2048 is the most"),
        ({"evaluate.scales": (256, 10**20)}, r"config.evaluate.scales=.*: Q = 10{20}, 2048 is the most"),
        ({"evaluate.protocols": (["dense"],)}, r"config.evaluate.protocols=.*: one or more of dense"),
        ({"data.color_shift": float("inf")}, r"config.data.color_shift=inf: the most is 100"),
        ({"data.threads": 10**20}, r"config.data.threads=10{20}: the most is 1,024"),
        ({"train.batch_size": 10**20}, r"config.train.batch_size=10{20}: the most is 1,048,576"),
        ({"train.steps": 2**31}, r"config.train.steps=2147483648: the most is 2,147,483,647"),
        ({"train.learning_rate": float("nan")}, r"config.train.learning_rate=nan: the least is 0"),
        ({"train.learning_rate": float("inf")}, r"config.train.learning_rate=inf: the most is 1,000,000"),
        ({"train.momentum": float("nan")}, r"config.train.momentum=nan: the least is 0"),
        ({"train.weight_decay": float("inf")}, r"config.train.weight_decay=inf: the most is 1,000,000"),
        ({"train.freeze": (1,)}, r"config.train.freeze=\(1,\): names of layers or stages, \('conv1', 'fc6'\)"),
        ({"schedule.factor": float("nan")}, r"config.schedule.factor=nan: between 0 and 1"),
        ({"schedule.kind": "step", "schedule.boundaries": (-5, 10)}, r"takes rising steps"),
        ({"schedule.kind": "step", "schedule.boundaries": (None, "a")}, r"takes rising steps"),
    ],
)
def test_what_cannot_work_is_refused_with_key_value_and_way_out(changes, message):
    config = default_config()
    with config.ignore_type():
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_an_unknown_or_missing_key_is_refused():
    config = default_config()
    config.train.bach_size = 3
    with pytest.raises(ConfigError, match=r"config.train.bach_size: no such key; did you mean 'train.batch_size'\?"):
        validate(config)
    with pytest.raises(
        ConfigError, match=r"config.'train.batch\\n_size': no such key; did you mean 'train.batch_size'"
    ):
        check_key("train.batch\n_size")
    config = default_config()
    del config.data.flip
    with pytest.raises(ConfigError, match="config.data.flip is missing"):
        validate(config)


def test_the_literal_choices_are_what_the_modules_have():
    from vgg_jax import config
    from vgg_jax.data.rescaling import MAX_PIXELS
    from vgg_jax.inference.scorer import PROTOCOLS
    from vgg_jax.model.init import SCHEMES
    from vgg_jax.model.specs import ALIASES, SPECS
    from vgg_jax.weights import PREPROCESSING

    assert (*SPECS, *ALIASES) == config.NETS
    assert tuple(SCHEMES) == config.SCHEMES
    assert tuple(PREPROCESSING) == config.PREPROCESSING
    assert tuple(PROTOCOLS) == config.PROTOCOLS
    assert config.MAX_SCALE**2 == MAX_PIXELS


def test_a_run_saved_when_the_rate_had_another_name_is_still_opened():
    saved = default_config().to_dict()
    saved["train"]["rate"] = saved["train"].pop("learning_rate") / 2
    assert with_defaults(saved).train.learning_rate == default_config().train.learning_rate / 2
    with pytest.raises(ConfigError, match="config.train.rate: no such key; did you mean 'train.learning_rate'"):
        check_key("train.rate")


def test_a_run_saved_when_the_center_crop_was_spelled_otherwise_is_still_opened():
    saved = default_config().to_dict()
    saved["evaluate"] |= {"validation": "centre", "protocols": ["centre", "both"]}
    opened = with_defaults(saved)
    validate(opened)
    assert (opened.evaluate.validation, opened.evaluate.protocols) == ("center", ("center", "both"))
