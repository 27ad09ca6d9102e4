"""Every law against what it promises, on the words of real tensors."""

import numpy as np
import pytest
import torch
from scipy import stats

from faultcli.errors import FaultcliError
from faultcli.faults import sampling
from faultcli.faults.laws import LAWS, FaultLaw, parse_law
from faultcli.faults.maps import WordFaults
from faultcli.memory import MemoryImage

EXAMPLES = {
    "bitflip": "bitflip:0.01",
    "flips": "flips:37",
    "stuck-at-0": "stuck-at-0:0.02",
    "stuck-at-1": "stuck-at-1:0.02",
    "burst": "burst:0.003,length=3",
    "columns": "columns:0.01,pitch=48",
    "zero": "zero:0.3",
    "gaussian": "gaussian:0.1",
}


def image(format: str = "q2.5", **tensors: torch.Tensor) -> MemoryImage:
    generator = torch.Generator().manual_seed(1)
    made = {"a.weight": torch.randn(40, 25, generator=generator), "b.weight": torch.randn(300, generator=generator)}
    return MemoryImage(tensors or made, format)


def draw(law: str, memory: MemoryImage, seed: int = 0, trial: int = 0) -> dict[str, WordFaults]:
    return dict(memory.draw(parse_law(law), seed=seed, trial=trial).faults)


def test_every_law_has_an_example_here() -> None:
    assert EXAMPLES.keys() | {"measured"} == LAWS.keys()  # test_measured.py has the one that needs a file


@pytest.mark.parametrize("law", [LAWS[name] for name in EXAMPLES], ids=lambda law: law.name)
def test_a_law_survives_its_own_text(law: type[FaultLaw]) -> None:
    spec = EXAMPLES[law.name] + ",include=conv*"
    assert parse_law(parse_law(spec).spec) == parse_law(spec)
    assert law.__doc__
    assert law.unit


def test_a_rate_keeps_all_its_digits() -> None:
    assert parse_law("bitflip:1.23456789e-4").spec == "bitflip:0.000123456789"


@pytest.mark.parametrize("spec", EXAMPLES.values())
def test_faults_of_a_tensor_do_not_depend_on_the_others(spec: str) -> None:
    if spec.startswith("flips"):
        pytest.skip("a fixed number of flips is shared out over what is selected")
    both, alone = image(), MemoryImage({"b.weight": image().tensors["b.weight"].read()}, "q2.5")
    for trial in range(3):
        together, apart = draw(spec, both, trial=trial), draw(spec, alone, trial=trial)
        assert np.array_equal(together["b.weight"].words, apart["b.weight"].words)
        assert np.array_equal(together["b.weight"].masks, apart["b.weight"].masks)


@pytest.mark.parametrize("spec", EXAMPLES.values())
def test_seed_and_trial_choose_the_faults(spec: str) -> None:
    memory = image()

    def masks(seed: int, trial: int) -> bytes:
        hit = draw(spec, memory, seed, trial)["a.weight"]
        return hit.words.tobytes() + hit.masks.tobytes()

    assert masks(0, 0) == masks(0, 0)
    assert len({masks(0, 0), masks(0, 1), masks(1, 0)}) == 3


@pytest.mark.parametrize("spec", EXAMPLES.values())
@pytest.mark.parametrize("format", ["native", "q2.5", "fp16", "fp6-e2m3", "int8-channel"])
def test_maps_are_sorted_and_fit_the_words(spec: str, format: str) -> None:
    memory = image(format)
    for words, masks in draw(spec, memory).values():
        assert (np.diff(words) > 0).all()
        assert (masks != 0).all()
        assert int(masks.max()) < 1 << memory.tensors["a.weight"].format.bits


def test_narrowing_by_name_draws_the_same_faults_there() -> None:
    memory = image()
    narrowed, plain = draw("bitflip:0.01,include=b.*", memory), draw("bitflip:0.01", memory)
    assert narrowed.keys() == {"b.weight"}
    assert np.array_equal(narrowed["b.weight"].masks, plain["b.weight"].masks)


@pytest.mark.parametrize(
    ("format", "bits", "allowed"),
    [
        ("q2.5", "sign", 0x80),
        ("q2.5", "0-2", 0x07),
        ("native", "exponent", 0x7F800000),
        ("native", "mantissa", 0x007FFFFF),
        ("fp16", "msb:2", 0xC000),
    ],
)
@pytest.mark.parametrize("law", ["bitflip:0.2", "flips:60", "stuck-at-1:0.3", "burst:0.1,length=2", "columns:0.1"])
def test_only_the_bits_named_are_hit(law: str, format: str, bits: str, allowed: int) -> None:
    if law.startswith("burst") and bits == "sign":
        pytest.skip("a burst of two bits does not fit into one")
    hit = draw(f"{law},bits={bits}", image(format))
    union = np.bitwise_or.reduce(np.concatenate([f.masks for f in hit.values()]))
    assert 0 < int(union) & allowed == int(union)
    if law.startswith("bitflip"):
        assert int(union) == allowed


def test_flips_are_exactly_as_many_and_spread_by_size() -> None:
    memory = image()
    law = parse_law("flips:13")
    in_a = []
    for trial in range(3000):
        drawn = memory.draw(law, seed=0, trial=trial)
        assert drawn.flips == 13
        hit = drawn.faults.get("a.weight")
        in_a.append(0 if hit is None else int(np.bitwise_count(hit.masks).sum()))
    expected = stats.hypergeom(1300 * 8, 1000 * 8, 13)
    counts, probabilities = np.bincount(in_a, minlength=14), expected.pmf(np.arange(14))
    kept = probabilities * 3000 > 5
    statistic = ((counts[kept] - 3000 * probabilities[kept]) ** 2 / (3000 * probabilities[kept])).sum()
    assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-4


def test_flips_can_take_every_bit_and_not_one_more() -> None:
    memory = image()
    everything = memory.draw(parse_law(f"flips:{memory.bits}"), seed=0, trial=0)
    assert everything.flips == memory.bits
    assert memory.draw(parse_law("flips:0"), seed=0, trial=0).flips == 0
    with pytest.raises(FaultcliError, match=r"only 10400 bits are at risk"):
        memory.draw(parse_law("flips:10401"), seed=0, trial=0)


@pytest.mark.parametrize(("law", "value"), [("stuck-at-0", 0), ("stuck-at-1", 1)])
def test_stuck_bits_read_their_value(law: str, value: int) -> None:
    memory = image()
    stored = memory.tensors["a.weight"]
    rate, changed, held = 0.2, 0, 0
    for trial in range(50):
        words, masks = draw(f"{law}:{rate}", memory, trial=trial)["a.weight"]
        after = stored.codes(words) ^ masks
        assert np.array_equal(after & masks, masks if value else np.zeros_like(masks))
        changed += int(np.bitwise_count(masks).sum())
        held += int(np.bitwise_count(stored.codes(slice(None))).sum()) if not value else 0
    if not value:  # only bits that held a 1 can change to 0
        assert changed / held == pytest.approx(rate, rel=0.05)


def test_a_rate_of_one_sticks_everything() -> None:
    memory = image()
    patch = memory.patch(memory.draw(parse_law("stuck-at-0:1"), seed=0, trial=0))
    state = {name: values.clone() for name, values in memory.values()}
    with patch.applied(state):
        assert all((values == 0).all() for values in state.values())


def flipped(law: str, memory: MemoryImage, trial: int) -> tuple[np.ndarray, np.ndarray]:
    """All stored bits of `w` in the order they lie in, and which of them flip, found one by one."""
    stored = memory.tensors["w"]
    words, masks = draw(law, memory, trial=trial)["w"]
    mask_of = dict(zip(words.tolist(), masks.tolist(), strict=True))
    places = [(word, bit) for word in range(stored.layout.words) for bit in range(stored.layout.bits)]
    codes = stored.codes(slice(None)).tolist()
    held = np.array([codes[word] >> bit & 1 for word, bit in places])
    return held, np.array([mask_of.get(word, 0) >> bit & 1 for word, bit in places])


@pytest.mark.parametrize(("format", "pitch"), [("q2.5", 48), ("q2.5", 37), ("fp16", 100), ("fp6-e2m3", 64)])
def test_only_cells_of_weak_columns_flip_at_their_rates(format: str, pitch: int) -> None:
    rate, weak, up = 0.02, 0.25, 0.8
    memory = image(format, w=torch.randn(2000, generator=torch.Generator().manual_seed(3)))
    law = f"columns:{rate},pitch={pitch},weak={weak},up={up}"
    hit_columns, cells = [], {0: 0, 1: 0}
    flips = {0: 0, 1: 0}
    for trial in range(20):
        held, flips_here = flipped(law, memory, trial)
        columns = set((np.flatnonzero(flips_here) % pitch).tolist())
        hit_columns.append(columns)
        inside = np.isin(np.arange(len(held)) % pitch, sorted(columns))
        for value in (0, 1):
            cells[value] += int((inside & (held == value)).sum())
            flips[value] += int((flips_here & (held == value)).sum())
    asked = max(1, round(weak * pitch))
    assert all(len(columns) == asked for columns in hit_columns)  # so many flips that every weak column shows
    assert len(set(map(frozenset, hit_columns))) == 20  # other columns in every trial
    share = asked / pitch
    for value, of_flips in ((0, up), (1, 1 - up)):
        chance = 2 * rate * of_flips / share
        assert stats.binomtest(flips[value], cells[value], chance).pvalue > 1e-4


@pytest.mark.parametrize("spec", ["columns:0.3", "columns:0.9", "columns:0.9,up=0.75", "columns:0.5,up=1,weak=0.3"])
def test_what_weak_columns_cannot_hold_comes_with_what_they_can(spec: str) -> None:
    with pytest.raises(FaultcliError) as caught:
        parse_law(spec)
    assert caught.value.remedy is not None
    parse_law(caught.value.remedy.rpartition(": ")[2])


def test_weak_columns_that_are_all_columns_are_bit_flips() -> None:
    memory = image("q2.5", w=torch.randn(3000, generator=torch.Generator().manual_seed(4)))
    flips = [memory.draw(parse_law("columns:0.03,weak=1"), seed=0, trial=trial).flips for trial in range(100)]
    assert stats.binomtest(sum(flips), 100 * memory.bits, 0.03).pvalue > 1e-4
    one_way = draw("columns:0.03,up=1", memory)["w"]
    assert not (memory.tensors["w"].codes(one_way.words) & one_way.masks).any()


def test_zero_sets_values_to_zero_at_its_rate() -> None:
    memory = image()
    state = {name: values.clone() for name, values in memory.values()}
    zeros, before = 0, sum(int((v == 0).sum()) for v in state.values())
    for trial in range(100):
        with memory.patch(memory.draw(parse_law("zero:0.3"), seed=0, trial=trial)).applied(state):
            zeros += sum(int((v == 0).sum()) for v in state.values()) - before
    assert zeros / (100 * (1300 - before)) == pytest.approx(0.3, abs=0.01)


def test_gaussian_noise_has_its_spread() -> None:
    weights = torch.linspace(-1, 1, 20_000).view(100, 200)
    memory = MemoryImage({"w": weights}, "native")
    state = {"w": weights.clone()}
    with memory.patch(memory.draw(parse_law("gaussian:0.1"), seed=0, trial=0)).applied(state):
        noise = (state["w"] - weights).numpy().ravel()
    assert stats.kstest(noise / 0.1, "norm").pvalue > 1e-3
    assert torch.equal(state["w"], weights)


def test_bursts_have_their_length_inside_a_word() -> None:
    for words, masks in draw("burst:0.0005,length=3", image()).values():
        assert len(words)
        for mask in masks.tolist():
            low = (mask & -mask).bit_length() - 1
            assert mask >> low == 0b111


def test_bursts_run_on_into_the_next_word() -> None:
    memory = image(w=torch.zeros(4000, 2))
    starts_at_the_top = 0
    for trial in range(20):
        words, masks = draw("burst:0.0001,length=4,across=row", memory, trial=trial)["w"]
        hit = {int(w) * 8 + bit for w, m in zip(words, masks.tolist(), strict=True) for bit in range(8) if m >> bit & 1}
        runs = [bit for bit in hit if bit - 1 not in hit]
        assert all({run + k for k in range(4)} <= hit for run in runs if run + 4 <= 64_000)
        starts_at_the_top += sum(run % 8 > 4 for run in runs)
    assert starts_at_the_top > 0


def test_bursts_down_a_column_hit_one_bit_of_neighbours() -> None:
    words, masks = draw("burst:0.0001,length=3,across=column", image(w=torch.zeros(4000, 2)))["w"]
    by_bit: dict[int, list[int]] = {}
    for word, mask in zip(words.tolist(), masks.tolist(), strict=True):
        by_bit.setdefault(mask, []).append(word)
    assert all(mask.bit_count() == 1 for mask in by_bit)
    assert all(w + 1 in ws or w - 1 in ws for ws in by_bit.values() for w in ws)


def test_the_rate_of_a_burst_is_that_of_its_starts() -> None:
    memory = image(w=torch.zeros(4000, 10))
    drawn = [memory.draw(parse_law("burst:0.0002,length=4"), seed=0, trial=t).flips for t in range(100)]
    expected = parse_law("burst:0.0002,length=4").expected_flips(list(memory.tensors.values()))
    assert expected == pytest.approx(0.0002 * 4 * 40_000 * 5)
    assert np.mean(drawn) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("bitflop:1e-4", r"unknown fault law 'bitflop'.*did you mean 'bitflip'"),
        ("bitflip", r"bitflip needs a number"),
        ("bitflip:", r"bitflip needs a number"),
        ("bitflip:often", r"'often' is not a number"),
        ("bitflip:1.5", r"must lie between 0 and 1"),
        ("bitflip:-1e-4", r"must lie between 0 and 1"),
        ("bitflip:nan", r"must lie between 0 and 1"),
        ("flips:2.5", r"'2.5' is not a whole number"),
        ("flips:-1", r"0 or more"),
        ("gaussian:-0.1", r"0 or more"),
        ("gaussian:inf", r"0 or more"),
        ("zero:0.5,bits=sign", r"takes no bits="),
        ("burst:1e-4,length=0", r"1 bit long or longer"),
        ("columns:1e-4,pitch=0", r"1 cell long or longer"),
        ("columns:1e-4,weak=0", r"share above 0, up to 1"),
        ("columns:1e-4,up=1.5", r"between 0 and 1"),
        ("columns:0.3,weak=0.25", r"hold 0.25 of such flips at the most.*columns:0.3,weak=0.5"),
        ("burst:1e-4,across=wrod", r"unknown direction of a burst 'wrod'.*did you mean 'word'"),
        ("bitflip:1e-4,lenght=4", r"unknown option of bitflip 'lenght'"),
        ("burst:1e-4,lenght=4", r"unknown option of burst 'lenght'.*did you mean 'length'"),
        ("bitflip:1e-4,bits", r"not of the form key=value"),
    ],
)
def test_malformed_laws_are_explained(spec: str, complaint: str) -> None:
    with pytest.raises(FaultcliError) as caught:
        parse_law(spec)
    assert caught.match(complaint.partition(".*")[0])
    assert complaint.partition(".*")[2] in f"{caught.value.remedy}"


@pytest.mark.parametrize("spec", ["bitflip:1e-4,include=nothing*", "flips:1,include=nothing*"])
def test_a_law_that_covers_nothing_is_refused(spec: str) -> None:
    with pytest.raises(FaultcliError, match=r"matches none of the selected tensors"):
        draw(spec, image())


def test_bits_that_a_format_lacks_are_refused() -> None:
    with pytest.raises(FaultcliError, match=r"exponent"):
        draw("bitflip:1e-4,bits=exponent", image())


def test_any_number_of_flips_stands_for_all_of_them_and_draws_none() -> None:
    law = parse_law("flips:any")
    assert parse_law(law.spec) == law
    with pytest.raises(FaultcliError, match="names no number of flips"):
        image().draw(law, seed=0, trial=0)
    with pytest.raises(FaultcliError, match="over all bits"):
        parse_law("flips:any,bits=sign")


@pytest.mark.parametrize("rate", [0.02, 0.3, 1.0])
def test_bits_drawn_in_pieces_are_those_drawn_at_once(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for chunk in (1 << 20, 7):
        monkeypatch.setattr(sampling, "_CHUNK", chunk)
        drawn.append(draw(f"bitflip:{rate}", image()))
    one, other = drawn
    for name in ("a.weight", "b.weight"):
        assert (np.diff(one[name].words) > 0).all()
        assert np.array_equal(one[name].words, other[name].words)
        assert np.array_equal(one[name].masks, other[name].masks)
