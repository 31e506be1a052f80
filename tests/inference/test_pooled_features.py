"""Features that are kept: the reference's on each image alone, computed once, and after a kill the same bits."""

import contextlib
import functools
import json
import logging

import jax
import numpy as np
import pytest
from PIL import Image

import vgg_jax
from tests.oracles import reference
from tests.photographs import image_of, rescaled
from vgg_jax import processes
from vgg_jax.data.open import open_source
from vgg_jax.inference import array_folder, feature_store
from vgg_jax.inference.pooled_features import kept_features

SIZES = [(40, 40), (33, 57), (40, 40), (57, 33), (40, 40), (33, 57), (33, 56)]
LAYERS, SCALES = ("pool4", "relu7"), (32, 48)


@pytest.fixture
def net(tiny_net):
    return tiny_net("A")


@pytest.fixture
def source(tmp_path):
    for number, size in enumerate(SIZES):
        path = tmp_path / "photographs/train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_of(size, number)).save(path)
    return open_source(f"folder:{tmp_path / 'photographs'}", "train")


@pytest.fixture
def ask(tmp_path, net, source, one_device):
    def ask(layers=LAYERS, scales=SCALES, source=source, store=tmp_path / "store", **options):
        options = {"mesh": one_device, "batch_size": 3} | options
        return kept_features(store, net, source, layers, scales, **options)

    return ask


@pytest.fixture
def computed(monkeypatch):
    """The batches that are computed, by the names of their folders."""
    seen, original = [], array_folder.Unfinished.complete

    def complete(self, rows):
        seen.append(self._folder.name)
        original(self, rows)

    monkeypatch.setattr(array_folder.Unfinished, "complete", complete)
    return seen


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_they_are_the_references_by_the_sources_index(pool, ask, net, source):
    kept = ask(pool=pool)
    assert kept.there.all() and not kept.problems
    np.testing.assert_array_equal(kept.labels, source.files.labels)
    for index, path in enumerate(source.files.paths):
        pixels = np.asarray(Image.open(path))
        for scale in SCALES:
            view = rescaled(pixels, scale)[None]
            both = reference(net, view), reference(net, view[:, :, ::-1])
            for layer in LAYERS:
                wanted = np.mean([getattr(of[layer][0], pool)((0, 1)) for of in both], axis=0)
                found = kept.of[layer, scale][index]
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_only_what_is_missing_is_computed(ask, computed, net, tmp_path):
    ask(("pool4",), (32,))
    once = len(computed)
    ask(("pool4",), (32,))
    assert len(computed) == once
    kept = ask(("pool4", "relu7"), (32, 48))
    assert {*computed[once:]} == {"Q32-relu7.partial", "Q48-pool4-relu7.partial"}
    whole = ask(("pool4", "relu7"), (32, 48), store=tmp_path / "another")
    for key, values in kept.of.items():
        np.testing.assert_allclose(values, whole.of[key], rtol=1e-5, atol=1e-5)
    seen = len(computed)
    ask(("pool4",), (32,), flip=False)
    ask(("pool4",), (32,), pool="max")
    net.conv1_1.bias[...] += 1.0
    ask(("pool4",), (32,))
    (tmp_path / "photographs/train/a/0.png").touch()
    ask(("pool4",), (32,))
    assert computed[seen:].count("Q32-pool4.partial") == len(computed[seen:]) > 3 * once


def test_a_pass_that_was_cut_off_gives_the_same_bits(ask, computed, source, tmp_path, monkeypatch, caplog):
    (tmp_path / "photographs/train/b/3.png").write_bytes(b"no image")
    ask = functools.partial(ask, scales=(48,), on_error="skip", batch_size=6)
    whole = ask(store=tmp_path / "whole")
    batches = len(computed)
    for kill, kept in ((False, 2), (True, 2), (False, 3)):
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):

            def cut_off(scale, done, count, kill=kill, kept=kept, patched=patched, computed=computed):
                if kill and computed:  # then nothing more is written, though the arrays may have been
                    patched.setattr(array_folder.Unfinished, "keep", lambda self: None)
                if (kill and computed) or len(computed) == kept:
                    raise KeyboardInterrupt

            patched.setattr(array_folder, "SECONDS", 1e9 if kill else 0.0)
            computed.clear()
            computed += ["there"] * (0 if kept == 2 else 2)
            ask(progress=cut_off)
        (left,) = (tmp_path / "store").glob("*/*.partial")
        assert json.loads((left / "of.json").read_text())["rows"] == kept
    for layer in LAYERS:  # what the kill left of a batch
        array = np.load(left / f"{layer}.npy", mmap_mode="r+")
        array[~np.load(left / "there.npy")] = np.nan
        array.flush()
    computed.clear()
    with caplog.at_level(logging.INFO, "vgg_jax"):
        resumed = ask()
    assert "from batch 3 on" in caplog.text and len(computed) == batches - 3 > 0
    for key, values in whole.of.items():
        np.testing.assert_array_equal(resumed.of[key][whole.there], values[whole.there])
    np.testing.assert_array_equal(resumed.there, whole.there)
    (bad,) = np.flatnonzero(~resumed.there)
    assert resumed.problems == whole.problems == {source.name_of(bad): "not an image in a known format"}
    assert not list((tmp_path / "store").glob("*/*.partial"))


def test_damage_and_what_cannot_be_read_are_named(ask, tmp_path, source):
    ask(("pool4",), (32,))
    (array,) = (tmp_path / "store").glob("*/Q32-pool4/pool4.npy")
    array.write_bytes(array.read_bytes()[:200])
    with pytest.raises(vgg_jax.CheckpointError, match="Q32-pool4 is damaged: .*; remove it, and it is computed again"):
        ask(("pool4",), (32,))
    bad = tmp_path / "photographs/train/a/0.png"
    bad.write_bytes(b"no image")
    assert ask(("pool4",), (32,), on_error="skip").problems == {str(bad): "not an image in a known format"}
    with pytest.raises(vgg_jax.DataError, match=r"a/0.png: not an image in a known format"):
        ask(("pool4",), (32,))  # what was kept lacks the image
    with pytest.raises(vgg_jax.ConfigError, match="Q = 31 is below the least"):
        ask(("pool4",), (31,))
    (tmp_path / "file").touch()
    with pytest.raises(vgg_jax.ConfigError, match="file.*: cannot be written"):
        ask(("pool4",), (32,), store=tmp_path / "file", on_error="skip")


def test_without_one_readable_image_there_are_no_features(ask, tmp_path):
    for path in tmp_path.glob("photographs/*/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(vgg_jax.DataError, match="no image could be read; the first is .*: not an image"):
        ask(on_error="skip")


def test_processes_go_by_what_the_first_one_finds(ask, computed, two_processes, monkeypatch):
    """On NFS the second may not see it yet, and would compute alone."""
    alone, found = ask(scales=SCALES[:1]), feature_store.is_complete
    del computed[:]
    seen = lambda *arguments, **options: jax.process_index() == 0 and found(*arguments, **options)
    monkeypatch.setattr(feature_store, "is_complete", seen)
    for kept in two_processes(lambda: ask(scales=SCALES[:1])):
        for key, features in alone.of.items():
            np.testing.assert_array_equal(kept.of[key], features)
    assert not computed


def test_several_processes_compute_their_shares_and_the_first_one_joins_them(ask, tmp_path, monkeypatch, computed):
    (tmp_path / "photographs/train/a/2.png").write_bytes(b"noise")
    alone = ask(on_error="skip", store=tmp_path / "alone")
    del computed[:]

    class Waiting(Exception):
        pass

    def barrier(name):
        if feature_store.jax.process_index() == 1:
            raise Waiting  # for the first process

    def process(number):
        monkeypatch.setattr(feature_store.jax, "process_index", lambda: number)
        return ask(scales=SCALES[:1], on_error="skip", store=tmp_path / "shared")

    monkeypatch.setattr(processes, "by_first", lambda action: action())
    monkeypatch.setattr(feature_store.jax, "process_count", lambda: 2)
    monkeypatch.setattr(feature_store.multihost_utils, "sync_global_devices", barrier)
    for _ in range(2):  # its share is there the second time
        with pytest.raises(Waiting):
            process(1)
        assert set(computed) == {"Q32-pool4-relu7-1of2.partial"}
        del computed[1:]
    shared = process(0)
    del computed[:]
    assert process(1).of.keys() == shared.of.keys() and not computed
    assert shared.problems == alone.problems and len(alone.problems) == 1
    np.testing.assert_array_equal(shared.labels, alone.labels)
    np.testing.assert_array_equal(shared.there, alone.there)
    for key, features in shared.of.items():
        np.testing.assert_allclose(features, alone.of[key], rtol=1e-5, atol=1e-5 * np.abs(features).max())
    with pytest.raises(vgg_jax.DataError, match="7 images of 2 classes: fewer images than the 9 processes"):
        monkeypatch.setattr(feature_store.jax, "process_count", lambda: 9)
        ask(store=tmp_path / "nine")
