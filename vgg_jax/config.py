"""The one schema of a run: every key with its default, and the rules that a config must keep.

A config file under `configs/` starts from `default_config()` and sets what differs. `validate` is called once, before
any work; what it lets through can run. What `config.transfer` may say, `transfer.settings` knows.
"""

from __future__ import annotations

from collections.abc import Iterator

from ml_collections import ConfigDict

from vgg_jax.errors import ConfigError, did_you_mean

# What the modules above this one have to choose from; tests/test_config.py holds the two equal.
NETS = ("A", "A-LRN", "B", "B-5x5", "C", "D", "E", "vgg11", "vgg13", "vgg16", "vgg19")
SCHEMES = ("paper", "gaussian", "glorot", "he")
PREPROCESSING = ("torchvision", "torchvision-features", "caffe", "rgb")
PROTOCOLS = ("dense", "crops", "both", "center")
TASKS = ("classification", "localization")
MAX_SCALE = 2048  # Q: a larger square image has more than `data.rescaling.MAX_PIXELS`


def default_config() -> ConfigDict:
    """Every key of a run, at the paper's value where the paper has one (Sec. 3.1)."""
    config = ConfigDict()
    config.task = "classification"  # or localization (App. A)
    config.seed = 0  # of the weights, the order of the images and every draw of the augmentation

    config.model = ConfigDict()
    config.model.net = "D"  # a letter of Table 1, or vgg11, vgg13, vgg16, vgg19
    config.model.width = 1.0  # factor on every layer's channels
    config.model.hidden = 0  # units of fc6 and of fc7, 0 for 4096 times the width
    config.model.dropout = 0.5  # after fc6 and fc7
    config.model.batch_norm = False  # not the paper's
    config.model.dtype = "auto"  # of the computation: bfloat16 on accelerators, float32 on CPUs
    config.model.remat = False  # compute stages again in the backward pass, for memory

    config.init = ConfigDict()
    config.init.scheme = "glorot"  # paper, gaussian, glorot or he
    config.init.grow_from = ""  # run of a trained shallower net: first four convolutions and FC layers (Sec. 3.1)
    config.init.from_run = ""  # run or checkpoint to fine-tune: all its parameters
    config.init.weights = ""  # published weights to fine-tune: a file, or a name on the hub, as vgg_jax.weights reads
    config.init.class_order = ""  # of their classes: sorted, or a list of synsets; "" for the file's own
    config.init.preprocessing = ""  # what they expect: torchvision, caffe, ...; "" for what their format says

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"  # tfds:NAME, folder:PATH, voc:PATH, boxes:FILE or mnist5k
    config.data.train_split = "train"  # split expressions: train[:90%]
    config.data.validation_split = "validation"
    config.data.crop = 224  # pixels
    config.data.scale = (256, 256)  # S: fixed, or drawn for each image from [Smin, Smax]
    config.data.flip = True
    config.data.color_shift = 0.1  # deviation of Krizhevsky's PCA shift, 0 for none
    config.data.statistics = "computed"  # mean RGB and color covariance: computed once from the data, or imagenet
    config.data.on_error = "raise"  # an unreadable image: raise, or skip (counted and named)
    config.data.threads = 0  # reading threads, 0 for one a core

    config.train = ConfigDict()
    config.train.batch_size = 256  # over all devices
    config.train.microbatches = 1  # gradient accumulation: parts a batch is computed in
    config.train.steps = 370_000  # at most
    config.train.learning_rate = 1e-2
    config.train.momentum = 0.9
    config.train.weight_decay = 5e-4  # on kernels; biases and normalization are not decayed
    config.train.freeze = ()  # groups of layers that stay as they are: conv1 (a stage), conv3_2, fc6
    config.train.cached_views = 0  # views of an image whose frozen convolutions are computed once; 0: fresh crops

    config.mesh = ConfigDict()
    config.mesh.model = 1  # devices that share the FC layers (vgg_jax.sharding); the batch is split over all devices
    config.mesh.patience = 600  # seconds without progress after which a process gives up on the others
    config.mesh.zero = False  # split the optimizer's state over the data axis too, for memory

    config.schedule = ConfigDict()
    config.schedule.kind = "plateau"  # plateau, step or fixed
    config.schedule.factor = 0.1
    config.schedule.warmup_steps = 0  # the rate grows linearly over these
    config.schedule.drops = 3  # plateau: how often the rate falls before the run stops
    config.schedule.patience = 5  # plateau: evaluations without improvement before a drop
    config.schedule.threshold = 0.001  # plateau: what counts as improvement, in accuracy (0.001 is 0.1 %)
    config.schedule.min_interval = 0  # plateau: steps between drops at least
    config.schedule.boundaries = ()  # step: the steps at which the rate falls

    config.evaluate = ConfigDict()
    config.evaluate.scale = 0  # Q, the one test scale; 0 for S, or 0.5 (Smin + Smax)
    # Several Q, whose posteriors or features are averaged. (): the paper's for the multi-scale rows of --mode=evaluate,
    # S - 32, S, S + 32, or Smin, the middle, Smax; --mode=predict and --mode=features take evaluate.scale.
    config.evaluate.scales = ()
    config.evaluate.validation = "center"  # protocol of the validation in training: center, dense, crops or both
    config.evaluate.protocols = ("center", "dense")  # what --mode=evaluate reports
    config.evaluate.split = "validation"  # on which images
    # Over which classes, where the network knows more than the source has: "all" of its own, or the "source"'s alone.
    config.evaluate.classes = ""
    config.evaluate.batch_size = 0  # images of the crop's size at once, over all devices; 0 for what suits them
    config.evaluate.every = 5_000  # steps

    config.localization = ConfigDict()  # App. A
    config.localization.per_class = True  # PCR: a box for each class; False: SCR, one for all
    config.localization.posteriors = ""  # file of a classification run's posteriors: the top-5 labels of protocol 2
    config.localization.classifier = ""  # a classification run, or weights: rates each window's boxes by what it sees
    config.localization.match = "iou"  # of boxes to be merged: iou, 1 - IoU; overfeat, the score of OverFeat's text
    config.localization.threshold = 0.5  # merging ends where no two boxes match better

    config.transfer = ConfigDict()  # App. B, --mode=transfer
    config.transfer.layers = ("relu7",)  # activations that descriptors are made of; of several the best is chosen
    # Of several evaluate.scales: stack, average or max; or single, each by itself; of several the best is chosen.
    config.transfer.combine = ("stack",)
    config.transfer.C = (0.01, 0.1, 1.0, 10.0, 100.0)  # the SVM's, of several the best is chosen
    config.transfer.solver = "device"  # Newton's method; or liblinear, scikit-learn's
    config.transfer.metric = "mean_class_recall"  # accuracy; mean_ap or mean_ap_11 where an image has several classes
    config.transfer.splits = 3  # at random, of data.train_split; 0: that to train on, evaluate.split to test on
    config.transfer.shots = 30  # images of a class to train on, 0 for all
    config.transfer.test_per_class = 50  # at most, 0 for all
    config.transfer.curve = ()  # fewer shots, for a learning curve; more are left out
    config.transfer.regions = ()  # ("image", "box"): each box is an example, described by the whole image and by itself
    config.transfer.rest = ""  # with regions: a class of what is of no other, which has no classifier

    config.log = ConfigDict()
    config.log.every = 100  # steps

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5_000  # steps; and before every validation
    config.checkpoint.keep = 3  # how many of the last; the best is kept too
    config.checkpoint.on_error = "raise"  # one that cannot be written: raise, or skip (said) unless it is the last
    return config


get_config = default_config  # this module is a config file too

RENAMED = {"train.rate": "train.learning_rate"}
"""What keys were once called: in the checkpoints of runs that are still opened."""

RENAMED_PROTOCOLS = {"centre": "center"}
"""What protocols were once called: in such checkpoints, and in files of posteriors."""

_CHOICES = {
    "task": TASKS,
    "model.net": NETS,
    "init.scheme": SCHEMES,
    "model.dtype": ("auto", "float32", "bfloat16"),
    "init.preprocessing": ("", *PREPROCESSING),
    "data.statistics": ("computed", "imagenet"),
    "data.on_error": ("raise", "skip"),
    "checkpoint.on_error": ("raise", "skip"),
    "schedule.kind": ("plateau", "step", "fixed"),
    "evaluate.validation": PROTOCOLS,
    "evaluate.classes": ("", "all", "source"),
    "localization.match": ("iou", "overfeat"),
}
_COUNT = 2**31 - 1  # what an int32 holds
_RANGES = {
    "seed": (0, 2**63 - 1),
    "model.width": (0, 64),
    "model.hidden": (0, 2**20),
    "model.dropout": (0, 1),
    "data.color_shift": (0, 100),
    "data.threads": (0, 1024),
    "train.batch_size": (1, 2**20),
    "train.microbatches": (1, 2**20),
    "train.steps": (1, _COUNT),
    "train.learning_rate": (0, 10**6),
    "train.momentum": (0, 1),
    "train.weight_decay": (0, 10**6),
    "train.cached_views": (0, 2**20),
    "mesh.model": (1, 2**20),
    "mesh.patience": (1, _COUNT),
    "schedule.warmup_steps": (0, _COUNT),
    "schedule.drops": (0, _COUNT),
    "schedule.patience": (1, _COUNT),
    "schedule.threshold": (0, 1),
    "schedule.min_interval": (0, _COUNT),
    "evaluate.scale": (0, MAX_SCALE),
    "evaluate.batch_size": (0, 2**20),
    "evaluate.every": (1, _COUNT),
    "localization.threshold": (0, 10**6),
    "transfer.splits": (0, 1000),
    "transfer.shots": (0, _COUNT),
    "transfer.test_per_class": (0, _COUNT),
    "log.every": (1, _COUNT),
    "checkpoint.every": (1, _COUNT),
    "checkpoint.keep": (1, _COUNT),
}
"""The least and the most of a number; the most is beyond every use and within every type."""


def validate(config: ConfigDict) -> None:
    """Checks a config before any work.

    Raises:
      ConfigError: a key is unknown or missing, a value of the wrong type or out of range, or two values contradict
        each other. The message names the key, the value and the way out.
    """
    _check_keys(config)
    values = dict(_leaves(config))
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            named = ", ".join(choice or "''" for choice in choices)
            raise ConfigError(f"config.{key}={values[key]!r}: use one of {named}{did_you_mean(values[key], choices)}")
    for key, (least, most) in _RANGES.items():
        value = values[key]
        if not least <= value <= most:
            bound = f"the most is {most:,}" if value > most else f"the least is {least}"
            raise ConfigError(f"config.{key}={value!r}: {bound}")
    _check_model(config)
    _check_data(config)
    _check_training(config)


def eval_scale(config: ConfigDict) -> int:
    """Q of the validation: given, or S, or 0.5 (Smin + Smax) of a jittered S (Sec. 4.1)."""
    return config.evaluate.scale or sum(config.data.scale) // 2


def eval_scales(config: ConfigDict) -> tuple[int, ...]:
    """Q of multi-scale evaluation (Sec. 4.2): given, or {S - 32, S, S + 32}, or {Smin, 0.5 (Smin + Smax), Smax}.

    Of the default ones, those below the crop are left out.
    """
    smallest, largest = config.data.scale
    if config.evaluate.scales:
        return tuple(config.evaluate.scales)
    if smallest == largest:
        return tuple(scale for scale in (smallest - 32, smallest, smallest + 32) if scale >= config.data.crop)
    return tuple(sorted({smallest, (smallest + largest) // 2, largest}))


def with_defaults(saved: dict) -> ConfigDict:
    """A saved run's config, with the defaults of the keys that came after it."""
    config = default_config()
    known = dict(_leaves(config))
    with config.unlocked():
        for key, value in _leaves(ConfigDict(saved)):
            key = RENAMED.get(key, key)
            if key in known:
                config.update_from_flattened_dict({key: value})
    of_today = lambda protocol: RENAMED_PROTOCOLS.get(protocol, protocol)
    config.evaluate.validation = of_today(config.evaluate.validation)
    config.evaluate.protocols = tuple(map(of_today, config.evaluate.protocols))
    return config


def _check_keys(config: ConfigDict) -> None:
    given, known = dict(_leaves(config)), dict(_leaves(default_config()))
    for key, value in given.items():
        check_key(key)
        default = known[key]
        fits = isinstance(value, (int, float)) if isinstance(default, float) else isinstance(value, type(default))
        if not fits or (isinstance(value, bool) and not isinstance(default, bool)):
            raise ConfigError(f"config.{key}={value!r} is of type {type(value).__name__}; it takes {_example(default)}")
    for key in known:
        if key not in given:
            raise ConfigError(f"config.{key} is missing: start the config from vgg_jax.config.default_config()")


def _check_model(config: ConfigDict) -> None:
    if not config.model.width > 0:
        raise ConfigError(f"config.model.width={config.model.width}: a positive factor, 1 is the paper's width")
    if config.model.dropout >= 1:
        raise ConfigError(
            f"config.model.dropout={config.model.dropout} is not a probability in [0, 1); the paper's is 0.5"
        )
    beginnings = [f"config.init.{key}" for key in ("grow_from", "from_run", "weights") if config.init[key]]
    if len(beginnings) > 1:
        together = {2: "both", 3: "all"}[len(beginnings)]
        raise ConfigError(f"{' and '.join(beginnings)} are {together} set: a run begins from one of them")
    if config.init.preprocessing and not config.init.weights:
        raise ConfigError(
            f"config.init.preprocessing={config.init.preprocessing!r} says what config.init.weights expects, which is "
            "not set: give config.init.weights, or leave it out"
        )


def _check_data(config: ConfigDict) -> None:
    crop, scale = config.data.crop, config.data.scale
    if crop < 32 or crop % 32:
        lower = max(32, crop // 32 * 32)
        raise ConfigError(
            f"config.data.crop={crop} is not a multiple of 32, the net's stride; use {lower} or {lower + 32}"
        )
    if len(scale) != 2 or not all(isinstance(s, int) for s in scale) or scale[0] > scale[1]:
        raise ConfigError(
            f"config.data.scale={scale}: two whole numbers (Smin, Smax), Smin <= Smax; (256, 256) fixes S"
        )
    if scale[0] < crop:
        raise ConfigError(f"config.data.scale={scale}: S is below the crop, config.data.crop={crop}; no crop fits")
    if scale[1] > 2**15:
        raise ConfigError(f"config.data.scale={scale}: S is {2**15:,} pixels at most")
    scales = tuple(config.evaluate.scales)
    if not all(isinstance(q, int) for q in scales) or len(set(scales)) < len(scales):
        raise ConfigError(f"config.evaluate.scales={scales}: different test scales Q in whole pixels")
    for key, given in (("scale", (eval_scale(config),)), ("scales", scales)):
        if any(q < crop for q in given):
            raise ConfigError(
                f"config.evaluate.{key}={config.evaluate[key]}: Q is below the crop, config.data.crop={crop}"
            )
        if any(q > MAX_SCALE for q in given):
            raise ConfigError(
                f"config.evaluate.{key}={config.evaluate[key]}: Q = {max(given)}, {MAX_SCALE} is the most"
            )
    protocols = tuple(config.evaluate.protocols)
    if not protocols or not all(protocol in PROTOCOLS for protocol in protocols):
        raise ConfigError(
            f"config.evaluate.protocols={protocols}: one or more of {', '.join(PROTOCOLS)}; at the command line "
            f"--config.evaluate.protocols=\"('dense','crops')\""
        )


def _check_training(config: ConfigDict) -> None:
    train, schedule = config.train, config.schedule
    if train.batch_size % train.microbatches:
        raise ConfigError(
            f"config.train.microbatches={train.microbatches} does not divide config.train.batch_size={train.batch_size}"
        )
    if not train.momentum < 1:
        raise ConfigError(f"config.train.momentum={train.momentum}: below 1; the paper's is 0.9")
    if not all(isinstance(group, str) for group in train.freeze):
        raise ConfigError(f"config.train.freeze={tuple(train.freeze)}: names of layers or stages, ('conv1', 'fc6')")
    if not 0 < schedule.factor < 1:
        raise ConfigError(f"config.schedule.factor={schedule.factor}: between 0 and 1; the paper divides by 10, 0.1")
    if schedule.kind == "step":
        boundaries = list(schedule.boundaries)
        rising = all(isinstance(step, int) for step in boundaries) and boundaries == sorted(boundaries)
        if not boundaries or not rising or boundaries[0] < 0:
            raise ConfigError(
                f"config.schedule.boundaries={tuple(boundaries)}: "
                "config.schedule.kind='step' takes rising steps, (1000, 2000)"
            )
    elif schedule.boundaries:
        raise ConfigError(
            f"config.schedule.boundaries={tuple(schedule.boundaries)} belongs to config.schedule.kind='step', "
            f"not {schedule.kind!r}"
        )


def check_key(key: str) -> None:
    """Refuses a key that the schema does not have, with the nearest that it has.

    Raises:
      ConfigError: there is no such key.

    >>> check_key("train.batch_size")
    """
    known = [name for name, _ in _leaves(default_config())]
    if key in known:
        return
    # A right name in the wrong section first: config.train.crop for config.data.crop.
    nearest = [RENAMED[key]] if key in RENAMED else []
    nearest = nearest or [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    hint = f"; did you mean {nearest[0]!r}?" if nearest else did_you_mean(key, known)
    shown = key if key.isprintable() else ascii(key)
    raise ConfigError(f"config.{shown}: no such key{hint or '; there are ' + ', '.join(known)}")


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, tuple(value) if isinstance(value, list) else value


def _example(default: object) -> str:
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a string", tuple: "a tuple"}[
        type(default)
    ]
