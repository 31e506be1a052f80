"""Files made to harm, and files mutated at random: each is loaded or refused, and none crashes, hangs or runs."""

import gc
import io
import pickle
import random
import struct
import time
import zipfile

import h5py
import numpy as np
import pytest

from tests.test_checkpoint import config, save, state_of  # noqa: F401
from tests.weights import originals
from tests.weights.originals import WRITERS, Payload, field, mutated, original
from vgg_jax import CheckpointError, UserError
from vgg_jax.weights import read
from vgg_jax.weights.formats import guarded


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_not_opened(tmp_path, protocol):
    (tmp_path / "net").write_bytes(pickle.dumps({"features.0.weight": Payload(tmp_path / "run")}, protocol))
    with pytest.raises(CheckpointError, match="is a Python pickle|no format of weights|cannot be read"):
        read(tmp_path / "net")
    assert not (tmp_path / "run").exists()


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, **{"conv1_1/kernel": np.array([Payload(tmp_path / "run")], object)})
    with pytest.raises(CheckpointError, match="conv1_1/kernel cannot be read: Object arrays cannot be loaded"):
        read(tmp_path / "net")
    assert not (tmp_path / "run").exists()


def npy(shape, data=b""):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2**40, 3), "conv1_1/kernel cannot be read: .*(Unable to allocate|EOF)"),
        ((-1, 3), "conv1_1/kernel cannot be read"),
        ((2**26,), "conv1_1/kernel cannot be read: EOF"),
    ],
)
def test_an_npz_that_declares_an_absurd_shape_is_not_believed(tmp_path, shape, message):
    with zipfile.ZipFile(tmp_path / "net", "w") as archive:
        archive.writestr("conv1_1/kernel.npy", npy(shape))
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "net")


def test_many_tensors_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("vgg_jax.weights.raw_checkpoint.MAX_FILE", 100)
    with zipfile.ZipFile(tmp_path / "net", "w") as archive:
        for number in range(5):
            archive.writestr(f"x{number}.npy", npy((8,), bytes(32)))
    with pytest.raises(CheckpointError, match=r"declares .* bytes; no VGG has over 1.0e\+02"):
        read(tmp_path / "net")


def test_a_zip_bomb_in_a_keras_archive_stays_packed(tmp_path, monkeypatch):
    monkeypatch.setattr("vgg_jax.weights.raw_checkpoint.MAX_FILE", 10**6)
    with zipfile.ZipFile(tmp_path / "net", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2 * 10**6))
    with pytest.raises(CheckpointError, match=r"declares 2.0e\+06 bytes"):
        read(tmp_path / "net")


def test_a_bomb_in_a_mat_file_is_inflated_to_the_limit_only(tmp_path, monkeypatch):
    monkeypatch.setattr(guarded, "MAX_FILE", 10**6)
    originals.scipy.io.savemat(tmp_path / "net.mat", {"x": np.zeros(10**6)}, do_compression=True)
    with pytest.raises(CheckpointError, match=r"x declares the shape \(1, 1000000\), more than a VGG"):
        read(tmp_path / "net.mat")


def test_a_caffe_blob_that_declares_an_absurd_shape_is_not_believed(tmp_path):
    def save_blob(message):
        (tmp_path / "net").write_bytes(field(2, field(4, b"conv1_1") + field(6, message)))

    save_blob(b"".join(field(number, 2**31) for number in (1, 2, 3, 4)) + field(5, b"\0" * 8))
    with pytest.raises(CheckpointError, match="conv1_1/kernel declares the shape .*damaged or hostile"):
        read(tmp_path / "net")
    save_blob(b"".join(field(number, 3) for number in (1, 2, 3, 4)) + field(5, b"\0" * 8))
    with pytest.raises(CheckpointError, match=r"declares the shape \(3, 3, 3, 3\) and has 2 numbers"):
        read(tmp_path / "net")


def test_an_hdf5_dataset_that_declares_an_absurd_shape_is_not_allocated(tmp_path):
    with h5py.File(tmp_path / "net", "w") as file:
        file.create_dataset("block1_conv1/kernel", (2**20, 2**20), "f4", chunks=(16, 16))
    with pytest.raises(CheckpointError, match="block1_conv1/kernel declares the shape"):
        read(tmp_path / "net")


def test_hdf5_does_not_reach_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "other", "w") as file:
        file["x"] = np.zeros(3)
    with h5py.File(tmp_path / "linked", "w") as file:
        file["block1_conv1"] = h5py.ExternalLink(str(tmp_path / "other"), "x")
    with h5py.File(tmp_path / "external", "w") as file:
        file.create_dataset("x", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with h5py.File(tmp_path / "virtual", "w") as file:
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other"), "x", (3,))
        file.create_virtual_dataset("x", layout)
    for name in ("linked", "external", "virtual"):
        with pytest.raises(CheckpointError, match="another file|link, perhaps"):
            read(tmp_path / name)


def test_groups_in_a_circle_end(tmp_path):
    with h5py.File(tmp_path / "net", "w") as file:
        file.create_group("a")["b"] = file["/"]
    with pytest.raises(CheckpointError, match="16 levels"):
        read(tmp_path / "net")


def test_cells_in_cells_end(tmp_path):
    value = np.zeros(1)
    for _ in range(100):
        cell = np.empty(1, object)
        cell[0], value = value, cell
    originals.scipy.io.savemat(tmp_path / "net.mat", {"x": value})
    with pytest.raises(CheckpointError, match="16 levels"):
        read(tmp_path / "net.mat")


GUARDED = ("keras legacy", "keras model", "keras 3", "keras archive", "matconvnet", "matconvnet old")
ROUNDS = {kind: 6 if kind in GUARDED else 150 for kind in WRITERS}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_mutated_file_is_loaded_or_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(guarded, "SECONDS", 3.0)
    path = tmp_path / "net"
    WRITERS[kind][0](path, "A" if kind not in GUARDED else "D", original("A" if kind not in GUARDED else "D", window=1))
    data, chance, refused = path.read_bytes(), random.Random(kind), 0
    for round in range(ROUNDS[kind]):
        path.write_bytes(mutated(data, chance))
        began = time.monotonic()
        try:
            weights = read(path, partial=round % 2 == 0)
            assert all(np.isfinite(array).all() for layer in weights.layers.values() for array in layer.values())
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
        assert time.monotonic() - began < 20
    assert refused > ROUNDS[kind] // 4


def test_a_file_that_crashes_or_holds_the_hdf5_library_is_refused(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "net", "w") as file:
        file["x"] = np.zeros(3)
    child = tmp_path / "child.py"
    monkeypatch.setattr(guarded.guarded_child, "__file__", str(child))
    child.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(CheckpointError, match="crashes the HDF5 library: damaged"):
        read(tmp_path / "net")
    child.write_text("while True: pass")
    monkeypatch.setattr(guarded, "SECONDS", 0.5)
    with pytest.raises(CheckpointError, match="finds no end in it"):
        read(tmp_path / "net")


# Orbax lets the other reads go on when one fails; they complain to a closed event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_mutated_checkpoint_of_ours_is_loaded_or_refused(tmp_path, config):  # noqa: F811
    save(tmp_path / "run", config, state_of(config), step=1)
    files = sorted(
        path for path in (tmp_path / "run/checkpoints/1").rglob("*") if path.is_file() and path.stat().st_size
    )
    chance = random.Random(0)
    for _ in range(12):
        file = chance.choice(files)
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, chance))
        try:
            read(tmp_path / "run")
        except UserError as error:
            assert str(tmp_path) in str(error)
        file.write_bytes(whole)
    time.sleep(0.5)
    gc.collect()  # here, where their complaints are ignored, and not in a later test
    assert read(tmp_path / "run").net == "A"


def test_an_archive_within_an_archive_is_no_format(tmp_path):
    inner = io.BytesIO()
    np.savez(inner, x=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "net", "w") as archive:
        archive.writestr("a.npy", inner.getvalue())
    with pytest.raises(CheckpointError, match="a is an array of bytes, expected numbers"):
        read(tmp_path / "net")
