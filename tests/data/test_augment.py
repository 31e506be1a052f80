import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgg_jax.data.augment import augment

EIGENVALUES = np.array([0.2, 0.02, 0.004], np.float32)
EIGENVECTORS = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0].astype(np.float32)


def run(images, keys, *, flip, color_shift):
    return np.asarray(
        augment(images, keys, flip=flip, color_shift=color_shift, eigenvalues=EIGENVALUES, eigenvectors=EIGENVECTORS)
    )


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (400, 4, 6, 3), np.uint8)


def test_without_flip_and_shift_the_pixels_stay(images):
    np.testing.assert_array_equal(
        run(images, jax.random.split(jax.random.key(0), 400), flip=False, color_shift=0), images
    )


def test_half_of_the_images_are_mirrored_left_to_right(images):
    out = run(images, jax.random.split(jax.random.key(0), 400), flip=True, color_shift=0)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(400)


def test_the_shift_is_one_colour_an_image_with_the_components_covariance(images):
    out = run(images, jax.random.split(jax.random.key(0), 400), flip=False, color_shift=0.1)
    shifts = out.astype(np.float64) - images
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape), atol=1e-4)
    # In the components' frame the coordinates over 255 are a_i l_i with a_i ~ N(0, 0.1).
    a = shifts[:, 0, 0] @ EIGENVECTORS / 255 / EIGENVALUES
    assert np.all(np.abs(a.mean(0)) < 5 * 0.1 / np.sqrt(400))
    assert np.all(np.abs(a.std(0) / 0.1 - 1) < 5 / np.sqrt(800))
    assert np.all(np.abs(np.corrcoef(a.T) - np.eye(3)) < 5 / np.sqrt(400))


def test_an_image_is_augmented_alike_in_any_batch(images):
    keys = jax.random.split(jax.random.key(2), 400)
    whole = run(images, keys, flip=True, color_shift=0.1)
    np.testing.assert_allclose(run(images[7:9], keys[7:9], flip=True, color_shift=0.1), whole[7:9], rtol=1e-6)


def test_it_runs_jitted_on_uint8(images):
    keys = jax.random.split(jax.random.key(3), 400)
    jitted = jax.jit(
        lambda x, k: augment(
            x,
            k,
            flip=True,
            color_shift=0.1,
            eigenvalues=jnp.asarray(EIGENVALUES),
            eigenvectors=jnp.asarray(EIGENVECTORS),
        )
    )
    np.testing.assert_allclose(jitted(images, keys), run(images, keys, flip=True, color_shift=0.1), atol=1e-3)
