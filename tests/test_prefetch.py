import threading

import pytest

from vgg_jax.prefetch import prefetch


def test_prefetch_keeps_the_order_and_runs_ahead():
    taken, second = [], threading.Event()

    def items():
        for number in range(5):
            taken.append(number)
            if number == 1:
                second.set()
            yield number

    with prefetch(items(), lambda number: number * 10) as placed:
        first = next(placed)
        assert second.wait(10)  # the second is made while the first is in use
        assert [first, *placed] == [0, 10, 20, 30, 40]
    assert taken == [0, 1, 2, 3, 4]


def test_prefetch_raises_the_sources_error_where_it_came():
    def items():
        yield 1
        raise ValueError("photo.jpg is broken")

    with prefetch(items(), lambda item: item) as placed:
        assert next(placed) == 1
        with pytest.raises(ValueError, match="photo.jpg is broken"):
            next(placed)


def test_leaving_prefetch_stops_its_thread():
    with prefetch(iter(range(10**9)), lambda item: item) as placed:
        next(placed)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vgg_jax.prefetch")]
