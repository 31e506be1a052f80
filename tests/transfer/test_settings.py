"""Settings that cannot work, named as the config names them."""

import pytest

from vgg_jax import ConfigError, TransferSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "newton"}, "config.transfer.solver='newton': use one of device, liblinear$"),
        ({"metric": "map"}, "config.transfer.metric='map': use one of mean_ap, .*; did you mean 'mean_ap'"),
        ({"metric": ["mean_ap"]}, r"config.transfer.metric=\['mean_ap'\]: use one of mean_ap, mean_ap_11"),
        ({"layers": ()}, r"config.transfer.layers=\(\): names of activations"),
        ({"combine": ("sum",)}, r"config.transfer.combine=\('sum',\): one or more of single, average, stack, max"),
        ({"C": (0.0, 1.0)}, r"config.transfer.C=\(0.0, 1.0\): one or more positive numbers"),
        ({"regions": ("boxes",)}, r"config.transfer.regions=\('boxes',\): 'image', 'box', both"),
        ({"curve": (0,)}, r"config.transfer.curve=\(0,\): numbers of images of a class"),
        ({"rest": "a"}, "config.transfer.rest='a' is for boxes"),
        ({"metric": "mean_ap"}, "config.transfer.metric='mean_ap' is for images that may show several"),
        ({"shots": 0}, "config.transfer.shots=0 trains on all images, and config.transfer.splits=3 would"),
        ({"regions": ("box",), "rest": "a"}, "config.transfer.rest='a' leaves boxes without a class"),
    ],
)
def test_what_cannot_work_is_refused_with_key_value_and_way_out(change, message):
    TransferSettings().check()
    with pytest.raises(ConfigError, match=message):
        TransferSettings(**change).check()
