"""Devices: how long they take, and when they are there."""

import itertools
import math
import statistics

import pytest

import headway as hw
from headway.core.registry import build, to_numbers
from headway.engines.virtual_clock.fleet import FLEETS
from headway.numerics.keys import Key

KEY = Key.root(5)
DAY = 86_400.0


def windows(availability, client="a", until=10 * DAY):
    """All windows of a client up to a time, one after another."""
    found, at = [], 0.0
    while at < until and (window := availability.window(client, KEY.derive("client", client), at)) is not None:
        found.append(window)
        at = window[1]
    return found


def test_an_ask_takes_two_delays_two_transfers_and_the_examples():
    fleet = hw.DeviceFleet(examples_per_s=50.0, down_per_s=1000.0, up_per_s=100.0, latency_s=0.25)
    assert fleet.device("a", KEY).seconds(examples=200, down=500, up=50) == 0.5 + 0.5 + 4.0 + 0.5


def test_devices_differ_as_their_spread_says():
    fleet = hw.DeviceFleet(examples_per_s=100.0, up_per_s=10.0, speed_spread=0.7, link_spread=0.3)
    devices = [fleet.device(f"c{n}", KEY) for n in range(4000)]
    for values, median, spread in (
        ([d.examples_per_s for d in devices], 100.0, 0.7),
        ([d.up_per_s for d in devices], 10.0, 0.3),
    ):
        assert statistics.median(values) == pytest.approx(median, rel=0.05)
        assert statistics.pstdev(math.log(value) for value in values) == pytest.approx(spread, rel=0.05)
    assert fleet.device("c7", KEY) == devices[7]
    assert fleet.device("c7", Key.root(6)) != devices[7]


def test_crashes_are_as_likely_as_they_are_said_to_be():
    fleet = hw.DeviceFleet(crash=0.2)
    shares = [fleet.crashes_after(KEY.derive(n)) for n in range(5000)]
    failed = [share for share in shares if share is not None]
    assert len(failed) / 5000 == pytest.approx(0.2, abs=0.02)
    assert statistics.mean(failed) == pytest.approx(0.5, abs=0.03)
    assert hw.DeviceFleet().crashes_after(KEY) is None


def test_bernoulli_intervals_are_there_with_their_share():
    availability = hw.Bernoulli(share=0.3, every_s=600.0)
    found = windows(availability)
    assert sum(stop - start for start, stop in found) / (10 * DAY) == pytest.approx(0.3, abs=0.05)
    for (_, stop), (start, _) in itertools.pairwise(found):
        assert stop < start, "intervals that follow each other are one window"
        assert start % 600 == stop % 600 == 0
    inside = found[3][0] + 1.0
    assert availability.window("a", KEY.derive("client", "a"), inside)[1] == found[3][1]
    assert windows(hw.Bernoulli(share=1.0)) == [(0.0, math.inf)]
    assert windows(hw.Bernoulli(share=0.0)) == []


def test_diurnal_windows_come_every_day_at_the_clients_hour():
    availability = hw.Diurnal(hours=8.0, begins=22.0, spread=0.0)
    assert windows(availability, until=2 * DAY)[:3] == [
        (-2 * 3600.0, 6 * 3600.0),
        (22 * 3600.0, 30 * 3600.0),
        (46 * 3600.0, 54 * 3600.0),
    ]
    spread = hw.Diurnal(hours=8.0, begins=12.0, spread=2.0)
    begins = [windows(spread, f"c{n}", DAY)[-1][0] % DAY / 3600 for n in range(500)]
    assert statistics.mean(begins) == pytest.approx(12.0, abs=0.3)
    assert statistics.pstdev(begins) == pytest.approx(2.0, rel=0.1)
    assert windows(hw.Diurnal(hours=24.0)) == [(0.0, math.inf)]


@pytest.mark.parametrize(
    ("hours", "fills", "lasts", "least"),
    [
        (8.0, 2.0, 20.0, 0.5),  # full every day, and there for hours after it is unplugged
        (8.0, 2.0, 48.0, 0.5),  # always there
        (2.0, 4.0, 30.0, 0.4),  # never full
        (1.0, 4.0, 10.0, 0.5),  # never full enough
        (6.0, 3.0, 5.0, 0.9),  # empty long before it is plugged in
    ],
)
def test_charging_against_a_battery_minute_by_minute(hours, fills, lasts, least):
    availability = hw.Charging(hours=hours, begins=3.0, spread=0.0, fills_h=fills, lasts_h=lasts, least=least)
    charge, there = 0.0, []
    for minute in range(30 * 1440):
        plugged = 3 * 60 <= minute % 1440 < 3 * 60 + hours * 60
        charge = min(max(charge + (1 / fills if plugged else -1 / lasts) / 60, 0.0), 1.0)
        if minute >= 28 * 1440:  # by then every day is like the last
            there.append(charge >= least)
    said, key = [], KEY.derive("client", "a")
    for minute in range(2 * 1440):
        window = availability.window("a", key, at := 28 * DAY + 60.0 * (minute + 1))
        said.append(window is not None and window[0] <= at < window[1])
    unlike = sum(one != other for one, other in zip(there, said, strict=True))
    assert unlike <= 8  # minutes at the edges of two days
    assert any(there) == (least < 0.5 or hours > 1)


def write(path, *rows):
    path.write_text("client,start_s,stop_s\n" + "".join(f"{row}\n" for row in rows))
    return str(path)


def test_a_trace_is_followed_and_repeated(tmp_path):
    file = write(tmp_path / "t.csv", "a,0,10", "b,5,6", "a,20,30")
    assert windows(hw.Trace(file=file)) == [(0.0, 10.0), (20.0, 30.0)]
    assert windows(hw.Trace(file=file, repeat_s=100.0), until=150.0) == [
        (0.0, 10.0),
        (20.0, 30.0),
        (100.0, 110.0),
        (120.0, 130.0),
        (200.0, 210.0),
    ]
    trace = hw.Trace(file=file)
    trace.check(["a", "b"])
    with pytest.raises(hw.ConfigError, match=r"no window of the client 'bb'.*b"):
        trace.check(["a", "bb"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "client,start_s,stop_s\na,0,10\na,9,20\n",
            "line 3: the window of a from 9 begins before the last one ends, at 10",
        ),
        ("client,start_s,stop_s\na,5,5\n", "line 2: the window of a is from 5 to 5"),
        ("client,start_s,stop_s\na,-1,5\n", "must begin at 0 or later"),
        ("client,start_s,stop_s\na,1,inf\n", "from 1 to inf"),
        ("client,start_s,stop_s\na,1,x\n", "line 2: start_s and stop_s must be numbers"),
        ("client,start_s,stop_s\na,1\n", "line 2: start_s and stop_s must be numbers"),
        ("client,from,to\na,1,2\n", "has no column 'start_s'"),
        ("client,start_s,stop_s\n", "has no window"),
        ("", "has no column"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path, text, says):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(hw.DataError, match=says):
        hw.Trace(file=str(path))


def test_a_trace_that_is_not_there_or_repeats_too_soon(tmp_path):
    with pytest.raises(hw.DataError, match="cannot be read"):
        hw.Trace(file=str(tmp_path / "none.csv"))
    with pytest.raises(hw.ConfigError, match="has a window that ends at 30"):
        hw.Trace(file=write(tmp_path / "t.csv", "a,20,30"), repeat_s=25.0)
    with pytest.raises(hw.ConfigError, match="needs a file"):
        hw.Trace()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: hw.DeviceFleet(examples_per_s=0.0), "examples_per_s must be above 0"),
        (lambda: hw.DeviceFleet(up_per_s=float("nan")), "up_per_s must be above 0"),
        (lambda: hw.DeviceFleet(latency_s=-1.0), "latency_s must be at least 0"),
        (lambda: hw.DeviceFleet(speed_spread=float("inf")), "speed_spread must be at least 0"),
        (lambda: hw.DeviceFleet(crash=1.5), "crash must be between 0 and 1"),
        (lambda: hw.DeviceFleet(crash="often"), "Fleet.crash must be a number"),
        (lambda: hw.Bernoulli(share=2.0), "0 <= share <= 1"),
        (lambda: hw.Bernoulli(every_s=0.0), "every_s above 0"),
        (lambda: hw.Charging(hours=24.0), "0 < hours < 24"),
        (lambda: hw.Charging(fills_h=0.0), "fills_h and lasts_h above 0"),
        (lambda: hw.Charging(least=1.5), "0 <= least <= 1"),
        (lambda: hw.Diurnal(hours=0.0), "0 < hours <= 24"),
        (lambda: hw.Diurnal(hours=25.0), "0 < hours <= 24"),
    ],
)
def test_bad_numbers_are_refused(make, says):
    with pytest.raises(hw.ConfigError, match=says):
        make()


@pytest.mark.parametrize("name", list(FLEETS))
def test_fleets_are_rebuilt_from_names_and_numbers(name):
    assert build(hw.DeviceFleet, to_numbers(FLEETS[name])) == FLEETS[name]
