"""Which addresses a throttle counts together; how it slows attempts is in `tests/api/test_authentication.py`."""

import tracemalloc

import pytest

from app.auth.throttle import MAX_WAITING_AT_ONE_ADDRESS, Throttle
from app.errors import TooManyAttempts


def test_the_addresses_of_one_network_share_the_places_of_its_queue() -> None:
    throttle = Throttle(lambda: 0.0)
    addresses = [f"2001:db8:1:2::{number:x}" for number in range(MAX_WAITING_AT_ONE_ADDRESS)]
    for address in addresses:
        throttle.take_place(address)
    with pytest.raises(TooManyAttempts):
        throttle.take_place("2001:db8:1:2:ffff::1")
    for other in ("2001:db8:1:3::1", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", ""):
        throttle.take_place(other)
    throttle.free_place("2001:db8:1:2:eeee::")
    throttle.take_place("2001:db8:1:2:ffff::1")


async def test_names_that_a_client_invents_take_no_memory() -> None:
    """A name may be as long as a request's head, and ten thousand of them are remembered."""
    throttle = Throttle(lambda: 0.0)
    tracemalloc.start()
    try:
        for number in range(100):
            await throttle.before_attempt(f"{number}" + "\U0001f600" * 50_000, "192.0.2.1")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(throttle._attempts) == 100
    assert used < 200_000


async def test_a_new_address_of_the_same_network_is_no_first_attempt() -> None:
    throttle = Throttle(lambda: 0.0)
    for number in range(6):
        await throttle.before_attempt("amy", f"2001:db8::{number}")
    (attempts,) = throttle._attempts.values()
    assert (attempts.count, attempts.next > 0) == (6, True)
    throttle.succeeded("amy", "2001:db8::ffff")
    assert not throttle._attempts
