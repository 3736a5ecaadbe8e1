"""Which units permute together is found for modules of any kind, and proved."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ensemble.axes import cut, fresh, length, reshape, resolve, unify
from ensemble.errors import SymmetryError
from ensemble.symmetries import Symmetry, symmetry
from zoo import models


def randomised(module):
    """Let all numbers of a module differ, statistics too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in (*module.parameters(), *module.buffers()):
            if leaf.is_floating_point():
                leaf += 0.2 * torch.rand(leaf.shape, generator=generator)
    return module.eval()


def assert_same_function(module, found, *inputs):
    """Permuted states compute the same; and something does move."""
    module = randomised(module).double()
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    state = module.state_dict()
    with torch.no_grad():
        before = module(*inputs)
        for seed in range(3):
            orders = found.random(torch.Generator().manual_seed(seed))
            turned = found.permute(state, orders)
            after = torch.func.functional_call(module, turned, tuple(inputs), tie_weights=False)
            torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)
            moved = [key for key in state if not torch.equal(turned[key], state[key])]
            assert set(moved) <= set(found.axes)
            assert moved


SHAPES = {
    "mlp": [((5,), {"hidden": (6, 7)}), ((5,), {"norm": "batch"}), ((5,), {"norm": "layer"})],
    "resmlp": [((5,), {})],
    "cnn": [((1, 12, 12), {"channels": (4, 6)})],
    "resnet": [((3, 12, 12), {})],
    "ft_transformer": [((4,), {}), ((4,), {"activation": "gelu"})],
}


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [(name, *each) for name, cases in SHAPES.items() for each in cases],
)
def test_every_model_of_ours_has_its_hidden_units_free(name, shape, options):
    module = models.build(name, options, shape, 3, 0)
    x = torch.rand(4, *shape)
    found = symmetry(module, x)
    assert found.unknown == ()
    assert_same_function(module, found, x)
    # Everything but what faces inputs and outputs alone is permuted by something.
    fixed = {key for key in module.state_dict() if key not in found.axes}
    last = [key for key in module.state_dict() if key.endswith("bias")][-1]
    assert {key for key in fixed if "num_batches" not in key} == {last}


def test_the_units_of_a_plain_network_are_those_of_its_hidden_layers():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    found = symmetry(net, torch.zeros(1, 3))
    assert found.sizes == (5, 4)
    first, second = found.axes["0.bias"][0], found.axes["2.bias"][0]
    assert found.axes["0.weight"] == (first, (((None, 3),),))
    assert found.axes["2.weight"] == (second, first)
    assert found.axes["4.weight"] == ((((None, 2),),), second)
    assert "4.bias" not in found.axes


class Between(nn.Module):
    """Two layers, and something between them."""

    def __init__(self, between, width):
        super().__init__()
        self.a, self.between, self.b = nn.Linear(3, 8), between, nn.Linear(width, 2)

    def forward(self, x):
        return self.b(self.between(torch.relu(self.a(x))))


@pytest.mark.parametrize(
    ("between", "width", "sizes"),
    [
        (lambda h: F.pad(h, (1, 2)), 11, (8,)),
        (lambda h: F.pad(h, (-2, 1)), 7, (2, 6)),
        (lambda h: F.pad(h, (0, -3)), 5, (5, 3)),
        (lambda h: torch.stack([h, h.tanh()]).sum(0), 8, (8,)),
        (lambda h: torch.stack([h, h.tanh()], -1)[..., 1], 8, (8,)),
        (lambda h: sum(torch.stack([h, 2 * h], 1).unbind(1)), 8, (8,)),
        (lambda h: sum(h.view(-1, 2, 4).unbind(1)), 4, (4,)),
        (lambda h: h + h.select(1, 0)[:, None], 8, ()),
        (lambda h: h[:, ::2], 4, ()),
        (lambda h: h[:, 2:], 6, (2, 6)),
        (lambda h: h[:, -3:], 3, (5, 3)),
        (lambda h: h.flip(1), 8, ()),
        (lambda h: h.roll(1, 1), 8, ()),
        (lambda h: h.roll(3), 8, ()),
        (lambda h: h.flip(0), 8, (8,)),
    ],
)
def test_units_stay_free_through_what_moves_cuts_and_pads_as_far_as_they_can(between, width, sizes):
    module, x = Between(between, width), torch.rand(4, 3)
    found = symmetry(module, x)
    assert found.unknown == ()
    assert sorted(found.sizes) == sorted(sizes)
    if sizes:
        assert_same_function(module, found, x)


def test_groups_of_a_transposed_convolution_move_as_wholes():
    net = nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Conv2d(6, 3, 1)
    )
    x = torch.rand(2, 2, 4, 4)
    found = symmetry(net, x)
    assert found.unknown == ()
    assert sorted(found.sizes) == [2, 3, 4]  # the groups, and the channels in each, in and out
    assert_same_function(net, found, x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Linear(3, 6), nn.Linear(6, 4)
        self.outer, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):  # the same block twice
            x = x + self.outer(F.gelu(self.inner(x)))
        return self.head(x)


class Convolutions(nn.Module):
    """Depthwise, pointwise, grouped; concatenated with another branch; gated."""

    def __init__(self):
        super().__init__()
        self.a, self.depth = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
        self.point, self.norm = nn.Conv2d(8, 12, 1), nn.GroupNorm(4, 12)
        self.grouped, self.b = nn.Conv2d(12, 8, 3, groups=2), nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.hidden, self.gate, self.out = nn.Linear(40, 5), nn.Linear(5, 10), nn.Linear(5, 3)

    def forward(self, x):
        y = self.point(self.depth(torch.relu(self.a(x))))
        y = self.up(self.grouped(F.relu(self.norm(y), inplace=True)))
        parts = [F.adaptive_avg_pool2d(part, 2) for part in (y, self.b(x))]
        h = torch.tanh(self.hidden(torch.cat(parts, 1).flatten(1)))
        u, v = self.gate(h).chunk(2, -1)
        return self.out(u * torch.sigmoid(v))


class Language(nn.Module):
    """Embedding tied to the head, attention of PyTorch's own, LayerNorm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.layer(self.embed(x)))


class Padded(nn.Module):
    """A shortcut that pads channels with zeros."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.b(x)) + F.pad(x, (0, 0, 0, 0, 1, 1))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("module", "x", "sizes"),
    [
        (Residual, torch.rand(3, 3), [4, 6]),
        (Convolutions, torch.rand(2, 3, 10, 10), [2, 2, 2, 3, 4, 4, 5, 5, 6, 8]),
        (Language, torch.arange(10).view(2, 5), [4, 4, 16, 32]),
        (Padded, torch.rand(2, 2, 3, 3), [3]),
    ],
)
def test_modules_of_many_kinds(module, x, sizes):
    torch.manual_seed(0)
    module = module()
    found = symmetry(module, x)
    assert found.unknown == ()
    assert_same_function(module, found, x)
    assert sorted(found.sizes) == sizes or module.__class__ is Convolutions


def test_tied_weights_stay_tied():
    module = Language()
    found = symmetry(module, torch.arange(10).view(2, 5))
    turned = found.permute(module.state_dict(), found.random())
    assert turned["head.weight"].data_ptr() == turned["embed.weight"].data_ptr()


class Sorting(nn.Module):
    """What orders units by their values is no symmetry of theirs to this tracer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.c(F.relu(self.b(torch.cumsum(self.a(x), -1))))


def test_what_is_not_known_is_frozen_and_said():
    found = symmetry(Sorting(), torch.rand(2, 3))
    assert found.unknown == ("cumsum",)
    assert found.sizes == (4,)
    assert_same_function(Sorting(), found, torch.rand(2, 3))


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x))) + torch.rand(2)


class InPlace(nn.Module):
    """Operations that write in place, and are known by what they are without that."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(self.a(x).abs_().masked_fill_(torch.zeros(5, dtype=torch.bool), 1.0))


class Telling(nn.Module):
    """Besides a tensor of floats it returns one of integers, and what is no tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        out = self.b(torch.relu(self.a(x)))
        return {"out": out, "row": torch.arange(len(x)), "note": "sure"}


class Repeating(nn.Module):
    """Rows that are all alike, and that no weight knows of."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        rows = torch.relu(self.a(x)).mean(0, keepdim=True).expand(7, 5)
        return self.b(rows).mean(0)


class Empty(nn.Module):
    """What is empty is looked at in another shape."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(h) + h[:, :0].reshape(0, 3).sum()


@pytest.mark.parametrize("module", [InPlace, Telling, Repeating, Empty])
def test_the_hidden_units_are_found_whatever_is_done_beside_them(module):
    torch.manual_seed(0)
    module, x = module(), torch.rand(4, 3)
    found = symmetry(module, x)
    assert (found.unknown, found.sizes) == ((), (5,))
    units = found.axes["a.bias"][0]
    assert found.axes["b.weight"][1] == units
    assert [layouts[1] for layouts in found.sites.values()] == [units]
    assert all(group is None for layouts in found.sites.values() for group, _ in layouts[0][0])


def test_an_example_without_rows_will_do():
    net = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 2))
    assert symmetry(net, torch.zeros(0, 4)).sizes == (5,)


def test_a_specification_that_does_not_hold_is_refused():
    with pytest.raises(SymmetryError, match=r"change the output by .*; merge without alignment"):
        symmetry(Random(), torch.rand(2, 3))


def test_a_module_that_cannot_compute_is_refused_in_a_line():
    with pytest.raises(SymmetryError, match="however: mat1 and mat2 shapes cannot be multiplied"):
        symmetry(nn.Linear(3, 2), torch.rand(2, 4))


def test_the_module_is_left_as_it_was():
    module = models.build("cnn", {"channels": (4,)}, (1, 8, 8), 3, 0).train()
    before = {key: leaf.clone() for key, leaf in module.state_dict().items()}
    symmetry(module, torch.rand(4, 1, 8, 8))
    assert module.training
    for key, leaf in module.state_dict().items():
        assert torch.equal(leaf, before[key])
        assert leaf.dtype == before[key].dtype


# -- The algebra of axes


def sizes(axis):
    return [[atom.size for atom in segment] for segment in resolve(axis)]


def test_what_is_flattened_is_a_product_and_what_is_split_is_bound_to_one():
    channels, height, flat = fresh(6), fresh(4, frozen=True), fresh(24)
    (merged,) = reshape([channels, height], [24])
    assert sizes(merged) == [[6, 4]]
    unify(flat, merged)
    assert sizes(flat) == [[6, 4]]
    heads = reshape([channels], [2, 3])
    assert [sizes(axis) for axis in heads] == [[[2]], [[3]]]
    assert sizes(flat) == [[2, 3, 4]]


def test_concatenated_axes_are_read_piece_by_piece():
    a, b, reader = fresh(3), fresh(4), fresh(7)
    unify(reader, (*a, *b))
    assert sizes(reader) == [[3], [4]]
    assert resolve(cut(reader, 3, 7)) == resolve(b)
    assert sizes(cut(reader, 1, 5)) == [[2], [2]]
    assert length(reader) == 7


def frozen(axis):
    return [atom.frozen for segment in resolve(axis) for atom in segment]


def test_a_view_across_the_borders_of_its_factors_is_frozen():
    six, four = fresh(6), fresh(4)
    made = reshape([six, four], [4, 6])
    assert [sizes(axis) for axis in made] == [[[4]], [[6]]]
    assert all(map(all, map(frozen, [*made, six, four])))


def test_a_sum_that_is_split_is_frozen():
    one, other = fresh(4), fresh(4)
    made = reshape([(*one, *other)], [2, 4])
    assert [sizes(axis) for axis in made] == [[[2]], [[4]]]
    assert all(map(all, map(frozen, [*made, one, other])))


def test_sums_that_are_left_as_they_are_or_come_first_in_a_product_stay_free():
    three, four, two, five = fresh(3), fresh(4), fresh(2), fresh(5)
    made = reshape([(*three, *four), fresh(1), (*two, *five)], [7, 1, 7, 1])
    assert [sizes(axis) for axis in made] == [[[3], [4]], [[]], [[2], [5]], [[]]]
    (merged,) = reshape([(*three, *four), two], [14])
    assert sizes(merged) == [[3, 2], [4, 2]]
    assert not any(map(any, map(frozen, [*made, merged])))


def test_factors_are_split_and_joined_where_a_view_asks_for_it():
    six, four = fresh(6), fresh(4)
    made = reshape([six, four], [3, 8])
    assert [sizes(axis) for axis in made] == [[[3]], [[2, 4]]]
    assert sizes(six) == [[3, 2]]
    assert not any(map(any, map(frozen, [*made, six, four])))


def test_a_sum_that_comes_later_in_a_product_is_frozen():
    two, three, four = fresh(2), fresh(3), fresh(4)
    (merged,) = reshape([two, (*three, *four)], [14])
    assert sizes(merged) == [[14]]
    assert all(map(all, map(frozen, [merged, two, three, four])))


def test_a_cut_within_a_row_is_frozen():
    two, three = fresh(2), fresh(3)
    (flat,) = reshape([two, three], [6])
    made = cut(flat, 0, 2)
    assert sizes(made) == [[2]]
    assert all(map(all, map(frozen, [made, two, three])))


def test_a_cut_between_rows_leaves_the_rows_free():
    two, three = fresh(5), fresh(3)
    (flat,) = reshape([two, three], [15])
    assert sizes(cut(flat, 6, 15)) == [[3, 3]]
    assert sizes(flat) == [[2, 3], [3, 3]]
    assert not any(frozen(flat))


def test_what_is_empty_has_nothing_to_permute():
    two, none = fresh(2), fresh(0)
    made = reshape([none, two], [0, 3, 5])
    assert list(map(length, made)) == [0, 3, 5]
    assert all(map(all, map(frozen, [*made, none, two])))


def test_what_cannot_agree_is_frozen():
    a, b = fresh(6), fresh(6)
    reshape([a], [2, 3])
    reshape([b], [3, 2])
    unify(a, b)
    assert all(atom.frozen for axis in (a, b) for segment in resolve(axis) for atom in segment)


def test_a_symmetry_is_a_plain_value():
    assert Symmetry((), {}, ()) == Symmetry((), {})


def test_watching_a_module_does_not_import_pytorchs_compiler():
    code = (
        "import sys, torch; from ensemble import activations, align, symmetry\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))\n"
        "states, x = [net.state_dict()] * 2, torch.randn(9, 3)\n"
        "found = symmetry(net, x)\n"
        "align(states, found, activations=activations(net, states, [x], found))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
