"""The ring: packed minutes are the same minutes."""

from hypothesis import given
from hypothesis import strategies as st

from ohlcv_ingestor.bricks import Brick
from ohlcv_ingestor.ring import Minute, Ring

amounts = st.integers(0, 10**30)
bricks = st.builds(
    Brick,
    st.integers(0, 2**34), *[amounts] * 8, st.integers(0, 2**40),
    st.none() | st.integers(0, 2**63 - 1), st.none() | st.integers(0, 2**63 - 1), st.booleans(),
)  # fmt: skip


def minute_with(held: dict[int, Brick]) -> Minute:
    minute = Minute()
    minute.bricks.update(held)
    return minute


@given(st.dictionaries(st.integers(0, 59), bricks, max_size=60), st.integers(1, 3))
def test_what_was_packed_is_what_it_was(held: dict[int, Brick], times: int) -> None:
    held = {second: Brick(second, *[getattr(b, f) for f in b.__struct_fields__[1:]]) for second, b in held.items()}
    minute, plain = minute_with(held), minute_with(held)
    for _ in range(times):
        minute.pack()
    assert minute.traded is plain.traded and minute.close() == plain.close()
    assert minute.bricks == held and list(minute.bricks) == list(held)
    minute.pack()
    minute.bricks[60] = Brick(60, 1, 1, 1, 7, 0, 0, 0, 0, 1, 1, 1)
    assert minute.close() == 7 and minute.bricks.keys() == {*held, 60}


def test_only_older_minutes_are_packed() -> None:
    ring = Ring()
    for start in (0, 60, 120):
        ring.ensure(start).bricks[start] = Brick(start, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1)
    newest = ring.minutes[120].bricks[120]
    ring.pack(120)
    assert ring.minutes[120].bricks[120] is newest
    assert ring.minutes[0].bricks[0] is not None and ring.close_before(60) == 1
    assert ring.minutes[60].traded
