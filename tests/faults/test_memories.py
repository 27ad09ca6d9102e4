"""Rates of memories: the units by hand, every entry of the table, every mistake."""

import math

import pytest

from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.memories import MEMORIES, parse_rate, split_rates, wrong_after, years_until


def test_failures_in_time_become_a_rate_per_bit_and_year() -> None:
    # 1200 failures in 1e9 hours of 2^20 bits: 1200e-9 · 8766 / 1048576 = 1.0032e-8 a year
    assert wrong_after(1, 1200) == pytest.approx(1.00322e-8, rel=1e-4)
    assert parse_rate("sram:years=1").ber_per_bit == 1.0e-8
    assert parse_rate("sram:years=1,fit=700").ber_per_bit == 5.85e-9
    assert parse_rate("dram:years=1,fit=25000").ber_per_bit == 2.09e-7
    assert parse_rate("dram:years=1").ber_per_bit == 5.85e-7


def test_a_bit_that_flipped_twice_is_right_again() -> None:
    assert wrong_after(1e12, 1200) == 0.5
    assert wrong_after(30, 1e12) == pytest.approx(0.5)
    for years in (1e-3, 5, 1e7):
        assert years_until(wrong_after(years, 1200), 1200) == pytest.approx(years)
    assert years_until(0.5, 1200) == math.inf


def test_measured_rates() -> None:
    # the paper's abstract: "exponentially increases to 0.06 %"
    assert parse_rate("bram-undervolt").ber_per_bit == pytest.approx(6e-4, rel=0.05)
    volts = ("0.60", "0.59", "0.58", "0.57", "0.56", "0.55", "0.54")
    rates = [parse_rate(f"bram-undervolt:volt={volt}").ber_per_bit for volt in volts]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1.05e-7)
    assert parse_rate("rram-mlc:bits=3").ber_per_bit == 1.27e-3  # 3.8e-3 per cell of 3 bits, one of them wrong
    assert parse_rate("rram-mlc:bits=2").ber_per_bit == 3.95e-9


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_says_what_it_is_and_where_from(name: str) -> None:
    rate = parse_rate(MEMORIES[name].example)
    assert 0 < rate.ber_per_bit < 0.5
    assert parse_law(rate.law.spec) == rate.law
    assert rate.law.ber == rate.ber_per_bit
    assert rate.source in str(rate.explanation)
    assert "{" not in str(rate.explanation)


def test_a_number_needs_no_explanation() -> None:
    assert parse_rate("1e-4").explanation is None
    assert parse_rate("1e-4").law.spec == "bitflip:0.0001"


def test_lists() -> None:
    assert split_rates("1e-5,sram:years=5,fit=700, dram:years=2,bram-undervolt,1e-3") == [
        "1e-5",
        "sram:years=5,fit=700",
        "dram:years=2",
        "bram-undervolt",
        "1e-3",
    ]
    assert split_rates("1e-4,") == ["1e-4", ""]


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("sarm:years=5", "is not a number and no memory", "did you mean 'sram'"),
        ("sram", "--ber sram: needs years=", "sram:years=5"),
        ("sram:yaers=5", "unknown parameter of sram 'yaers'", "did you mean 'years'"),
        ("sram:years", "'years' is not of the form key=value", "sram:years=5"),
        ("sram:years=0", "years is not a number above 0", "sram:years=5"),
        ("sram:years=inf", "years is not a number above 0", "sram:years=5"),
        ("bram-undervolt:volt=0.5", "0.5 was not measured", "volt=0.6, 0.59"),
        ("rram-mlc:bits=1", "1 was not measured", "bits=2, 3"),
        ("1.1", "lies between 0 and 1", "1e-4"),
    ],
)
def test_mistakes(text: str, message: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_rate(text)
    assert remedy in str(error.value.remedy)
