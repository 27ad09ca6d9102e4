"""Where the model that runs has the tensors of a file: read off numbers, held to slow truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from faultcli.live import LivePart, LiveTensor, Scattered, fill, places
from faultcli.workload.models.binding import Binding, Spot, by_storage
from faultcli.workload.models.coding import counted, decoded, strided, unread
from faultcli.workload.models.rearranged import rearranged

State = dict[str, Tensor]
A, B = (4, 6), (4, 6)


def rope(tensor: Tensor) -> Tensor:
    """The rows of two heads, of which every second one comes first."""
    return tensor.view(2, 3, 2, 4).transpose(1, 2).reshape(12, 4)


def cut(state: State) -> State:
    """Query, key and value of different widths, and a head in the middle that is not kept."""
    q, _, k, v = state["qkv"].split([6, 1, 2, 3])
    return {"q": q.clone(), "kv": torch.cat([v, k])}


MOVES: dict[str, tuple[dict[str, tuple[int, ...]], Callable[[State], State]]] = {
    "renamed": ({"a": A}, lambda s: {"x": s["a"].clone()}),
    "scalar": ({"a": ()}, lambda s: {"x": s["a"].clone()}),
    "stacked": ({"a": A, "b": B}, lambda s: {"x": torch.stack([s["b"], s["a"]])}),
    "stacked and concatenated": (
        {f"{k}{i}": A for k in "gu" for i in range(3)},
        lambda s: {"x": torch.cat([torch.stack([s[f"{k}{i}"] for i in range(3)]) for k in "gu"], 1)},
    ),
    "beside each other": ({"a": (4, 2), "b": (4, 3)}, lambda s: {"x": torch.cat([s["a"], s["b"]], 1)}),
    "transposed": ({"a": (3, 1, 5)}, lambda s: {"x": s["a"].transpose(0, 2).contiguous()}),
    "reshaped": ({"a": (4, 6)}, lambda s: {"x": s["a"].reshape(4, 2, 1, 3).clone()}),
    "in halves by columns": ({"a": (4, 6)}, lambda s: dict(zip("xy", s["a"].chunk(2, 1), strict=True))),
    "permuted for rotary embeddings": ({"a": (12, 4)}, lambda s: {"x": rope(s["a"])}),
    "permuted and cut": ({"a": (12, 4)}, lambda s: dict(zip("xy", rope(s["a"]).chunk(2), strict=True))),
    "interleaved": ({"a": (4, 6)}, lambda s: {"x": s["a"].reshape(4, 3, 2).transpose(1, 2).reshape(4, 6)}),
    "cut unevenly": ({"qkv": (12, 5)}, cut),
    "padded": ({"a": (3, 5)}, lambda s: {"x": torch.nn.functional.pad(s["a"], (0, 3, 1, 0))}),
    "without its padding": ({"a": (5, 3)}, lambda s: {"x": s["a"][:4].clone()}),
    "in two places": ({"a": A}, lambda s: {"x": s["a"].clone(), "y": s["a"].T.contiguous()}),
}
COMPUTED: dict[str, Callable[[State], State]] = {
    "scaled": lambda s: {"x": s["a"] * 2},
    "shifted": lambda s: {"x": s["a"] + 1},
    "added": lambda s: {"x": s["a"] + s["b"]},
    "averaged": lambda s: {"x": (s["a"] + s["b"]) / 2},
    "backwards": lambda s: {"x": s["a"].flip(1), "y": s["b"].flip(0)},
    "shuffled": lambda s: {"x": s["a"].reshape(-1)[torch.randperm(24, generator=torch.manual_seed(0))]},
    "repeated": lambda s: {"x": torch.cat([s["a"], s["a"]])},
}


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("move", MOVES)
def test_what_only_moves_is_found_element_by_element(move: str) -> None:
    shapes, load = MOVES[move]
    state = random_state(shapes)
    own = {name: tensor.contiguous() for name, tensor in load(state).items()}
    found = rearranged(state, own, load)
    spots = {name: places for name, places in found.items() if places}
    assert spots.keys() == shapes.keys()
    live = Binding(spots, shapes).live(own)
    for name, tensor in state.items():  # element by element: the value in the file, and what the library makes of it
        for element in range(tensor.numel()):
            changed = {key: other.clone() for key, other in state.items()}
            changed[name].view(-1)[element] = 99.0
            for view, where, _ in places(live[name], torch.tensor([element])):
                at = torch.unravel_index(where, view.shape)
                view[at] = 99.0
            wanted = load(changed)
            assert all(torch.equal(own[key], wanted[key]) for key in own)
            fill(live[name], tensor)
    assert all(torch.equal(own[key], made) for key, made in load(state).items())


@pytest.mark.parametrize("move", MOVES)
def test_the_quick_way_and_the_thorough_one_agree(move: str) -> None:
    shapes, load = MOVES[move]
    thorough = decoded(shapes, load(counted(shapes)))
    for name, spots in strided(shapes, load).items():
        there = thorough[name]
        assert there is not None
        own = {key: torch.zeros(made.shape) for key, made in load(counted(shapes)).items()}
        for box in (spots, there):
            for spot in box:
                spot.view(own[spot.name]).add_(1)
        assert {float(value) for made in own.values() for value in made.unique()} <= {0.0, 2.0}


def test_the_quick_way_takes_what_is_large() -> None:
    for move in ("renamed", "stacked", "stacked and concatenated", "beside each other", "transposed"):
        shapes, load = MOVES[move]
        assert strided(shapes, load).keys() == shapes.keys(), move


@pytest.mark.parametrize("kind", COMPUTED)
def test_what_is_computed_has_no_place(kind: str) -> None:
    def load(given: State) -> State:
        return COMPUTED[kind]({"a": torch.zeros(A), "b": torch.zeros(B)} | given)

    state = random_state({"a": A, "b": B})
    found = rearranged(state, {name: tensor.contiguous() for name, tensor in load(state).items()}, load)
    assert found["a"] is None


def test_what_is_not_read_is_told_from_it() -> None:
    state = random_state({"a": A, "b": B})

    def load(given: State) -> State:
        return {"x": given["a"].T.contiguous()} if "a" in given else {}

    found = rearranged(state, load(state), load)
    assert found["b"] == ()
    assert found["a"]
    assert unread({"a": A, "b": B}, load) == {"b"}
    assert unread({"a": A, "b": B}, lambda s: {"x": s.get("b", torch.zeros(A)) / 2}) == set()  # it looks like a


def test_layers_that_are_alike_are_looked_at_once_and_held_to_their_values() -> None:
    calls = []

    def load(given: State) -> State:
        calls.append(sorted(given))
        layers = sorted({name.split(".")[1] for name in given})
        return {
            f"h.{i}.w": torch.stack([given[f"l.{i}.{x}"] for x in ("ab" if i != "2" else "ba")])
            for i in layers
            if f"l.{i}.a" in given
        }

    state = random_state({f"l.{i}.{x}": A for i in range(4) for x in "ab"})
    own = load(state)
    calls.clear()
    found = rearranged(state, own, load)
    asked = {name.split(".")[1] for call in calls for name in call}
    assert asked == {"0", "2"}  # the third is the other way round, which its values show
    for name, spots in found.items():
        assert spots
        assert torch.equal(spots[0].part(own[spots[0].name]).view.reshape(A), state[name])


def test_shared_memory_needs_no_numbers() -> None:
    given = {"qkv": torch.arange(24.0).view(6, 4), "t": torch.arange(6.0).view(2, 3), "part": torch.arange(4.0)}
    q, k, _ = given["qkv"].chunk(3)
    own = {"q": q, "k": k, "kept": given["qkv"][4:], "tied": q, "t": given["t"].T, "part": given["part"][:2]}
    found = by_storage(given, own)
    assert [spot.name for spot in found["qkv"]] == ["q", "k", "kept"]
    assert found["t"] == (Spot("t", (2, 3), 0, (1, 2), 0, (3, 1)),)
    assert "part" not in found


def test_a_part_of_a_tensor_is_written_and_the_rest_is_nowhere() -> None:
    live: LiveTensor = Scattered((4, 3), (LivePart(torch.zeros(2, 2), 4, (3, 1)),))
    fill(live, torch.arange(12.0).view(4, 3))
    (part,) = live.parts  # type: ignore[union-attr]
    assert part.view.tolist() == [[4, 5], [7, 8]]
    found = list(places(live, torch.tensor([0, 4, 6, 8, 11])))
    assert [(where.tolist(), which.tolist()) for _, where, which in found] == [  # type: ignore[union-attr]
        ([0, 3], [False, True, False, True, False])
    ]
