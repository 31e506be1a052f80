import dataclasses
import json
import zipfile

import numpy as np
import pytest

import vgg_jax
from vgg_jax.evaluate.posteriors import Posteriors, check_alike, fused, read, relative


@pytest.fixture
def made(rng):
    values = rng.dirichlet(np.ones(4), (3, 6)).astype(np.float32)
    return Posteriors(
        values,
        (256, 384, 512),
        rng.integers(0, 4, 6).astype(np.int32),
        tuple(f"kähler/{number}.jpg" for number in range(6)),
        ("cat", "dog", "chien à plumes", "鳥"),
        {"protocol": "dense", "network": "D", "S": [256, 512], "flip": True},
        {"kähler/6.jpg": "the file is empty"},
    )


def arrays(made):
    """The file's arrays, as the module documents them."""
    return {
        "posteriors": made.values,
        "scales": np.array(made.scales, np.int32),
        "labels": made.labels,
        "images": np.array(made.images),
        "classes": np.array(made.classes),
        "about": np.array(json.dumps(made.about | {"unreadable": made.unreadable})),
    }


def same(one, two):
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.values.dtype == two.values.dtype and one.labels.dtype == two.labels.dtype
    return all(
        getattr(one, name) == getattr(two, name) for name in ("scales", "images", "classes", "about", "unreadable")
    )


def test_what_is_saved_is_read(made, tmp_path):
    path = tmp_path / "deep" / "D.npz"
    made.save(path)
    assert same(read(path), made)
    assert [entry.name for entry in path.parent.iterdir()] == ["D.npz"]  # nothing half written is left
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == set(arrays(made))
        for name, array in arrays(made).items():
            np.testing.assert_array_equal(file[name], array)


def test_files_of_earlier_evaluations_are_read(made, tmp_path):
    for named, expected in (("centre", "center"), ("crops", "crops")):
        about = np.array(json.dumps(made.about | {"protocol": named}))
        np.savez(tmp_path / "D.npz", **arrays(made) | {"about": about})
        expected = dataclasses.replace(made, about=made.about | {"protocol": expected}, unreadable={})
        assert same(read(tmp_path / "D.npz"), expected)


def test_the_scales_are_chosen_and_averaged(made):
    np.testing.assert_array_equal(made.at(512).values, made.values[2:])
    assert made.at(512, 256).scales == (512, 256)
    np.testing.assert_allclose(made.at(256, 512).mean(), (made.values[0] + made.values[2]) / 2, rtol=1e-6)


def test_scales_are_added(made):
    joined = made.at(512).joined(made.at(256, 384))
    assert joined.scales == (512, 256, 384) and same(joined.at(256, 384, 512), made)


def test_fused_is_the_mean_over_the_parts(made, rng):
    other = dataclasses.replace(made.at(256), values=rng.dirichlet(np.ones(4), (1, 6)).astype(np.float32))
    expected = (np.float64(made.values).mean(0) + other.values[0]) / 2
    mixed = fused([made, other])
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    assert mixed.dtype == np.float32


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(vgg_jax.DataError, match="none.npz: is not there; evaluating a network writes such files"):
        read(tmp_path / "none.npz")


def test_a_truncated_or_foreign_file_is_refused_by_name(made, tmp_path):
    path = tmp_path / "D.npz"
    made.save(path)
    whole = path.read_bytes()
    foreign = [b"noise", b"PK\x03\x04 and noise", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01."]
    for content in [whole[:length] for length in range(0, len(whole), 97)] + foreign:
        path.write_bytes(content)
        with pytest.raises(vgg_jax.DataError, match="D.npz: not a file of posteriors"):
            read(path)
    with path.open("wb") as file:
        np.save(file, made.values)
    with pytest.raises(vgg_jax.DataError, match="D.npz: not a file of posteriors"):
        read(path)
    with pytest.raises(vgg_jax.DataError, match="not a file of posteriors"):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zipfile's own
def test_damaged_bytes_are_refused_or_harmless(made, tmp_path, rng):
    path = tmp_path / "D.npz"
    made.save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for place in rng.integers(0, len(whole), 300):
        damaged = whole.copy()
        damaged[place] ^= rng.integers(1, 256)
        path.write_bytes(damaged.tobytes())
        try:
            read(path)
        except vgg_jax.DataError as error:
            assert "D.npz" in str(error)


@pytest.mark.parametrize("missing", ["posteriors", "scales", "labels", "images", "classes", "about"])
def test_a_file_that_lacks_an_array_is_refused(missing, made, tmp_path):
    np.savez(tmp_path / "D.npz", **{name: array for name, array in arrays(made).items() if name != missing})
    with pytest.raises(vgg_jax.DataError, match=f"D.npz: not a file of posteriors: .*{missing}"):
        read(tmp_path / "D.npz")


@pytest.mark.parametrize(
    "other",
    [
        {"images": np.array(["one"])},
        {"classes": np.array(["one"])},
        {"scales": np.array([256], np.int32)},
        {"labels": np.zeros(5, np.int32)},
        {"posteriors": np.zeros((3, 6), np.float32)},
    ],
)
def test_arrays_that_contradict_each_other_are_refused(other, made, tmp_path):
    np.savez(tmp_path / "D.npz", **arrays(made) | other)
    with pytest.raises(vgg_jax.DataError, match="D.npz: its arrays contradict each other"):
        read(tmp_path / "D.npz")


@pytest.mark.parametrize(
    "other",
    [
        {"posteriors": np.full((3, 6, 4), np.nan, np.float32)},
        {"posteriors": np.zeros((3, 6, 4), np.int32)},
        {"labels": np.full(6, 4, np.int32)},
        {"labels": np.full(6, -1, np.int32)},
        {"labels": np.array(list("abcdef"))},
        {"images": np.arange(6)},
        {"images": np.full((6, 1), "a.jpg")},
        {"classes": np.arange(4)},
        {"about": np.array("[]")},
        {"about": np.array('{"network": "D", "S": [256, 256]}')},
        {"about": np.array('{"network": "D", "protocol": "dense", "S": 256}')},
        {"about": np.array('{"network": "D", "protocol": "dense", "S": [[256], [256]]}')},
        {"about": np.array('{"network": 5, "protocol": "dense", "S": [256, 256]}')},
    ],
)
def test_values_that_cannot_be_are_refused(other, made, tmp_path):
    np.savez(tmp_path / "D.npz", **arrays(made) | other)
    with pytest.raises(vgg_jax.DataError, match="D.npz: damaged: posteriors that are not numbers"):
        read(tmp_path / "D.npz")


def test_a_member_that_is_no_array_is_refused(made, tmp_path):
    made.save(tmp_path / "D.npz")
    with zipfile.ZipFile(tmp_path / "D.npz") as whole, zipfile.ZipFile(tmp_path / "bytes.npz", "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, b"bytes" if name == "labels.npy" else whole.read(name))
    with pytest.raises(vgg_jax.DataError, match="bytes.npz: not a file of posteriors: .*labels is an array of bytes"):
        read(tmp_path / "bytes.npz")


def test_a_pickle_is_not_run(made, tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path / "harmed").touch, ()

    for name in arrays(made):
        np.savez(tmp_path / "D.npz", **arrays(made) | {name: np.array([Malicious()], object)})
        with pytest.raises(vgg_jax.DataError, match="D.npz: not a file of posteriors"):
            read(tmp_path / "D.npz")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        (
            "images",
            lambda names: names[:3] + ("other.jpg",) + names[4:],
            "images of D.npz and E.npz differ, first at 3",
        ),
        ("images", lambda names: names[::-1], "first at 0: 'kähler/0.jpg' and 'kähler/5.jpg'"),
        ("images", lambda names: names[:-1], "D.npz has 6 images, E.npz has 5"),
        (
            "classes",
            lambda names: (*names[:3], "bird"),
            "classes of D.npz and E.npz differ, first at 3: '鳥' and 'bird'",
        ),
        ("classes", lambda names: (*names, "bird"), "D.npz has 4 classes, E.npz has 5"),
        ("labels", lambda labels: labels + (np.arange(6) == 2), "D.npz and E.npz label kähler/2.jpg differently"),
    ],
)
def test_what_differs_is_not_fused(what, change, message, made):
    check_alike(made, dataclasses.replace(made, about={}), "D.npz", "E.npz")
    other = dataclasses.replace(made, **{what: change(getattr(made, what))})
    with pytest.raises(vgg_jax.DataError, match=message):
        check_alike(made, other, "D.npz", "E.npz")


def test_names_do_not_depend_on_where_the_data_lie():
    names = ["a/b/1.jpg", "a/c/2.jpg", "a/c/3.jpg"]
    assert relative([f"/data/{name}" for name in names]) == relative([f"/mnt/x/{name}" for name in names])
    assert relative(names) == ("b/1.jpg", "c/2.jpg", "c/3.jpg")
    assert relative(["/data/1.jpg"]) == ("1.jpg",) and relative([]) == ()
    assert relative(["a/1.jpg", "/data/2.jpg"]) == ("a/1.jpg", "/data/2.jpg")  # of a file of boxes, say
    assert relative(["x.array_record:0", "x.array_record:1"]) == ("x.array_record:0", "x.array_record:1")
