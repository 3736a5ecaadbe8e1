"""Augmentation against slices, flips, quarter turns and colour formulas written out by hand."""

import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn.functional import interpolate, pad

import zoo.augment as module
from zoo.augment import NUMBERS, augment, black_and_white, check
from zoo.config import parse
from zoo.data import load
from zoo.errors import ConfigError
from zoo.sections import AugmentConfig, DataConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
# Every change at once, each that has a probability at less than 1.
ALL = {
    "crop": 2,
    "resized_crop": 0.4,
    "rotate": 30.0,
    "flip": 0.5,
    "vertical_flip": 0.5,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.2,
    "greyscale": 0.3,
}
COLOURS = ("brightness", "contrast", "saturation", "hue", "greyscale")


def seeds(*values):
    return torch.tensor(values, dtype=torch.int64)


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def coordinates(members, samples, height, width):
    """Images whose first channel is each pixel's row and whose second is its column."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([row, column]).float().expand(members, samples, -1, -1, -1)


@pytest.fixture
def draw(monkeypatch):
    """Fix some of the numbers that are drawn, for all samples or each; the others are 1/2."""

    def fix(**numbers):
        def drawn(like, seed_K, draw):
            u = torch.full(like.shape, 0.5)
            for name, value in numbers.items():
                u[..., NUMBERS.index(name)] = torch.as_tensor(value)
            return u

        monkeypatch.setattr(module, "uniform_like", drawn)

    return fix


def one(x, **asked):
    """Augment images (N, C, H, W) of one member."""
    return augment(x[None], seeds(7), AugmentConfig(**asked))[0]


# Moves


def test_a_certain_flip_is_torch_flip_bit_for_bit():
    x = images(2, 5, 3, 6, 7)
    for asked, axes in [
        ({"flip": 1}, [4]),
        ({"vertical_flip": 1}, [3]),
        ({"flip": 1, "vertical_flip": 1}, [3, 4]),
    ]:
        assert torch.equal(augment(x, seeds(1, 2), AugmentConfig(**asked)), x.flip(axes))


def test_flips_come_with_their_probability_and_independently():
    x = coordinates(1, 20_000, 2, 2)
    flipped = one(x[0], flip=0.3, vertical_flip=0.6)
    sideways, upset = flipped[:, 1, 0, 0] == 1, flipped[:, 0, 0, 0] == 1
    for hits, share in [(sideways, 0.3), (upset, 0.6), (sideways & upset, 0.18)]:
        assert abs(hits.double().mean().item() - share) < 6 * (share / 20_000) ** 0.5


@pytest.mark.parametrize(("mode", "torch_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_a_crop_is_a_slice_of_the_padded_image_bit_for_bit(draw, mode, torch_mode):
    x = images(49, 3, 8, 9)
    step = (torch.arange(7) + 0.5) / 7
    draw(crop_y=step.repeat_interleave(7), crop_x=step.repeat(7))
    cropped = one(x, crop=3, pad=mode)
    padded = pad(x, (3, 3, 3, 3), mode=torch_mode)
    for n in range(49):
        i, j = divmod(n, 7)
        assert torch.equal(cropped[n], padded[n, :, i : i + 8, j : j + 9])


def test_every_shift_of_a_crop_is_as_likely_as_any_other():
    moved = one(coordinates(1, 20_000, 9, 9)[0], crop=2)[:, :, 4, 4].long() - 4
    counts = torch.zeros(5, 5).index_put_(tuple((moved + 2).T), torch.ones(20_000), accumulate=True)
    assert stats.chisquare(counts.numpy().ravel()).pvalue > 1e-4


@pytest.mark.parametrize("asked", [{"crop": 4}, {"rotate": 45.0}, {"crop": 4, "rotate": 45.0}])
def test_padding_is_black_and_not_zero(asked):
    x = images(1, 50, 1, 9, 9)
    assert augment(x, seeds(3), AugmentConfig(**asked), (-2.0, 1.0)).min() == -2
    assert augment(x, seeds(3), AugmentConfig(pad="reflect", **asked), (-2.0, 1.0)).min() >= 0


@pytest.mark.parametrize(("u", "quarters"), [(1.0, 1), (0.0, -1)])
@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_a_rotation_by_a_right_angle_is_rot90(draw, u, quarters, mode):
    x = images(4, 3, 8, 8)
    draw(rotate=u)
    turned = one(x, rotate=90.0, pad=mode)
    assert torch.allclose(turned, torch.rot90(x, quarters, (2, 3)), atol=1e-5)


def test_a_rotation_keeps_the_proportions_of_a_wide_image(draw):
    draw(rotate=1.0)
    turned = one(coordinates(1, 1, 5, 9)[0], rotate=90.0)[0]
    assert torch.allclose(
        turned[:, :, 2:7],
        torch.rot90(coordinates(1, 1, 5, 9)[0, 0, :, :, 2:7], 1, (1, 2)),
        atol=1e-5,
    )


def test_angles_are_uniform_between_the_limits():
    # Around the centre of a ramp, one step to the right goes (cos, sin) of the angle.
    turned = one(coordinates(1, 5_000, 9, 9)[0], rotate=30.0, pad="reflect")
    right = (turned[:, :, 4, 5] - turned[:, :, 4, 3]) / 2
    angle = torch.rad2deg(torch.atan2(right[:, 0], right[:, 1])).numpy()
    assert stats.kstest(angle, stats.uniform(-30, 60).cdf).pvalue > 1e-4


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_moves_in_one_map_are_the_moves_by_whole_pixels_where_the_angle_is_nought(draw, mode):
    x, u = images(64, 3, 7, 8), images(4, 64, seed=1)
    draw(crop_y=u[0], crop_x=u[1], flip=u[2], vertical_flip=u[3], rotate=0.5)
    asked = {"crop": 3, "pad": mode, "flip": 0.5, "vertical_flip": 0.5}
    assert torch.allclose(one(x, rotate=90.0, **asked), one(x, **asked), atol=1e-5)


@pytest.mark.parametrize("flip", [0, 1])
def test_flips_follow_rotations(draw, flip):
    x = images(3, 1, 6, 6)
    draw(rotate=0.75)
    turned = one(x, rotate=90.0)
    assert torch.allclose(
        one(x, rotate=90.0, flip=flip), turned.flip(3) if flip else turned, atol=1e-5
    )


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_resized_crop_of_a_quarter_is_that_quarter_interpolated(draw, top, left):
    x = images(4, 3, 12, 16)
    draw(area=0.0, box_y=float(top), box_x=float(left))
    enlarged = one(x, resized_crop=0.25)
    quarter = x[:, :, 6 * top : 6 * top + 6, 8 * left : 8 * left + 8]
    expected = interpolate(quarter, size=(12, 16), mode="bilinear", align_corners=False)
    # Next to the cuts, ours goes on into the rest of the image.
    rows, columns = slice(top, 11 + top), slice(left, 15 + left)
    assert torch.allclose(enlarged[:, :, rows, columns], expected[:, :, rows, columns], atol=1e-5)


def test_parts_that_are_enlarged_have_the_area_and_ratio_asked_for_and_lie_inside():
    count, height, width = 5_000, 20, 30
    part = one(coordinates(1, count, height, width)[0], resized_crop=0.3)
    row, column = part[:, 0, :, 15], part[:, 1, 10]
    # Away from the edges a ramp grows by the scale with every pixel.
    down, right = (row[:, 12] - row[:, 7]) / 5, (column[:, 18] - column[:, 11]) / 7
    area, ratio = (down * right).numpy(), right / down
    assert stats.kstest(area, stats.uniform(0.3, 0.7).cdf).pvalue > 1e-4
    assert ratio.min() > 3 / 4 - 1e-3
    assert ratio.max() < 4 / 3 + 1e-3
    likely = (ratio.log() / torch.from_numpy(-np.log(area)).clamp(max=math.log(4 / 3))).numpy()
    assert stats.kstest(likely, stats.uniform(-1, 2).cdf).pvalue > 1e-4
    middle_row, middle_column = (row[:, 9] + row[:, 10]) / 2, (column[:, 14] + column[:, 15]) / 2
    for middle, scale, size in [(middle_row, down, height), (middle_column, right, width)]:
        assert (middle + 0.5 - scale * size / 2).min() > -1e-3
        assert (middle + 0.5 + scale * size / 2).max() < size + 1e-3


# Colours, as torchvision's documentation of ColorJitter has them


def factor(u, strength):
    return 1 - strength + 2 * strength * u


def grey_of(x):
    """Luma of one image (3, H, W)."""
    return 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]


FORMULAS = {
    "brightness": lambda x, f: x * f,
    "contrast": lambda x, f: f * x + (1 - f) * grey_of(x).mean(),
    "saturation": lambda x, f: f * x + (1 - f) * grey_of(x),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("u", [0.0, 0.2, 0.5, 0.99])
def test_jitter_of_an_image_is_the_formula(draw, name, u):
    x = images(3, 3, 5, 6)
    draw(**{name: u})
    changed = one(x, **{name: 0.8})
    for n in range(3):
        expected = FORMULAS[name](x[n].double().numpy(), factor(u, 0.8)).clip(0, 1)
        np.testing.assert_allclose(changed[n].numpy(), expected, atol=1e-6)


def test_contrast_of_images_without_colours_is_about_their_mean(draw):
    x = images(3, 1, 5, 6)
    draw(contrast=1.0)
    mean = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(one(x, contrast=0.5), (1.5 * x - 0.5 * mean).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("u", [0.0, 0.3, 0.5, 0.75, 0.999])
def test_hue_is_that_of_colorsys(draw, u):
    x = images(1, 3, 8, 8)
    corners = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).T
    x[0, :, 0] = corners  # black, white, and all pure colours
    x[0, :, 1, :2] = torch.tensor([[0.5, 0.2], [0.5, 0.2], [0.5, 0.7]])  # grey, and two the same
    draw(hue=u)
    turned = one(x, hue=0.5)[0]
    for i in range(8):
        for j in range(8):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            expected = colorsys.hsv_to_rgb((hue + u - 0.5) % 1, saturation, value)
            assert turned[:, i, j].tolist() == pytest.approx(expected, abs=1e-5)


def test_greyscale_is_the_luma_in_all_channels_at_its_probability():
    x = images(2_000, 3, 2, 2)
    changed = one(x, greyscale=0.25)
    grey = torch.stack([grey_of(image) for image in x])[:, None].expand_as(x)
    hit = (changed != x).flatten(1).any(1)
    assert torch.allclose(changed[hit], grey[hit], atol=1e-6)
    assert abs(hit.double().mean().item() - 0.25) < 6 * (0.25 / 2_000) ** 0.5


def test_jitter_factors_are_uniform_between_the_limits():
    x = torch.full((5_000, 1, 1, 1), 0.5)
    factors = one(x, brightness=0.4).flatten() / 0.5
    assert stats.kstest(factors.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4


def test_the_order_is_brightness_contrast_saturation_hue_grey():
    x = images(1, 6, 3, 4, 4)
    names = ["brightness", "contrast", "saturation", "hue", "greyscale"]
    step = x
    for name in names:
        step = augment(step, seeds(5), AugmentConfig(**{name: ALL[name]}))
    assert torch.equal(augment(x, seeds(5), AugmentConfig(**{n: ALL[n] for n in names})), step)


# Scales


def test_standardised_images_become_what_they_would_have_become_before():
    x = images(2, 8, 3, 9, 9)
    mean, std = 0.3, 0.2
    levels = black_and_white({"mean": mean, "std": std})
    for name in [*COLOURS, "crop", "rotate"]:
        config = AugmentConfig(**{name: ALL[name]})
        before = (augment(x, seeds(1, 2), config) - mean) / std
        after = augment((x - mean) / std, seeds(1, 2), config, levels)
        assert torch.allclose(after, before, atol=2e-5), name
        assert not torch.allclose(after, (x - mean) / std, atol=1e-2), name


def test_real_digits_stay_between_their_black_and_white():
    data = load(DataConfig(ref="digits"))
    levels = black_and_white(data.preprocessing)
    x = data.train.x[:256].view(2, 128, 1, 8, 8)
    assert levels == pytest.approx((data.train.x.min().item(), data.train.x.max().item()))
    asked = {key: ALL[key] for key in ALL if key not in ("saturation", "hue", "greyscale")}
    config = AugmentConfig(**asked)
    check(config, data.shape)
    changed = augment(x, seeds(0, 1), config, levels)
    assert changed.min() >= levels[0]
    assert changed.max() <= levels[1]
    assert (changed != x).flatten(2).any(2).all()


# Randomness


@pytest.mark.parametrize("asked", [{k: ALL[k]} for k in ALL] + [ALL], ids=[*ALL, "all"])
def test_a_member_gets_the_same_alone_and_at_any_place_of_any_stack(asked):
    x, config = images(3, 6, 3, 8, 8), AugmentConfig(**asked)
    together = augment(x, seeds(5, -9, 2**40), config)
    for k, seed in enumerate([5, -9, 2**40]):
        assert torch.equal(augment(x[k : k + 1], seeds(seed), config)[0], together[k])
    turned = augment(x.flip(0), seeds(2**40, -9, 5), config)
    assert torch.equal(turned.flip(0), together)


def test_threads_that_share_one_large_image_do_not_change_it():
    x, config = images(4, 1, 1, 1000, 1000), AugmentConfig(contrast=0.4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = augment(x, seeds(5, 6, 7, 8), config)
        for k, seed in enumerate([5, 6, 7, 8]):
            assert torch.equal(augment(x[k : k + 1], seeds(seed), config)[0], together[k])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("key", ALL)
def test_a_sample_does_not_depend_on_how_many_follow_it(key):
    x, config = images(2, 6, 3, 8, 8), AugmentConfig(**{key: ALL[key]})
    assert torch.equal(
        augment(x[:, :2], seeds(5, 6), config), augment(x, seeds(5, 6), config)[:, :2]
    )


@pytest.mark.parametrize("key", ALL)
def test_samples_members_and_steps_differ(key):
    x = images(1, 1, 3, 8, 8).expand(2, 64, -1, -1, -1)
    config = AugmentConfig(**{key: ALL[key]})
    changed, next_step = (augment(x, seeds(*s), config) for s in [(1, 2), (3, 4)])
    assert len(changed[0].flatten(1).unique(dim=0)) >= 2
    assert not torch.equal(changed[0], changed[1])
    assert not torch.equal(changed, next_step)


def test_the_same_seeds_give_the_same_without_touching_the_global_generator():
    x, config = images(2, 6, 3, 8, 8), AugmentConfig(**ALL)
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), augment(x, seeds(5, 6), config)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augment(x, seeds(5, 6), config), first)


def test_a_change_draws_the_same_whatever_else_is_asked_for():
    x = coordinates(1, 200, 9, 9)
    shifted, both = (
        augment(x, seeds(5), AugmentConfig(crop=2, **more)) for more in ({}, {"flip": 0.5})
    )
    assert torch.equal(both[:, :, :, 4, 4], shifted[:, :, :, 4, 4])
    assert not torch.equal(both, shifted)


def test_what_is_drawn_is_pinned_so_that_old_runs_can_be_repeated():
    flipped = one(coordinates(1, 8, 1, 2)[0], flip=0.5)[:, 1, 0, 0].long().tolist()
    assert flipped == [0, 1, 1, 0, 0, 0, 1, 0]
    shifted = one(coordinates(1, 4, 9, 9)[0], crop=2)[:, :, 4, 4].long().tolist()
    assert shifted == [[6, 4], [2, 2], [4, 5], [4, 5]]


# Contract


def test_nothing_asked_for_gives_the_same_tensor_object():
    x = images(2, 3, 1, 4, 4)
    assert augment(x, seeds(1, 2), AugmentConfig()) is x
    assert augment(x, seeds(1, 2), AugmentConfig(pad="reflect")) is x


@settings(max_examples=60, deadline=None)
@given(
    asked=st.fixed_dictionaries(
        {},
        optional={
            "crop": st.integers(0, 3),
            "pad": st.sampled_from(["zero", "reflect"]),
            "resized_crop": st.floats(0.01, 1),
            "rotate": st.floats(0, 180),
            "hue": st.floats(0, 0.5),
            **{
                key: st.floats(0, 1)
                for key in ALL
                if key not in ("crop", "resized_crop", "rotate", "hue")
            },
        },
    ),
    size=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([1, 2, 3]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_any_settings_are_refused_or_keep_shape_type_range_and_input(asked, size, channels, seed):
    members, samples, height, width = size
    config, shape = AugmentConfig(**asked), (channels, height, width)
    try:
        check(config, shape)
    except ConfigError:
        return
    x = images(members, samples, *shape)
    given_x = x.clone()
    changed = augment(x, torch.arange(members) + seed, config)
    assert torch.equal(x, given_x)
    assert changed.shape == x.shape
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()
    assert changed.min() >= -1e-6
    assert changed.max() <= 1 + 1e-6


@pytest.mark.parametrize("key", ["saturation", "hue", "greyscale"])
def test_colours_are_refused_for_images_that_have_none(key):
    with pytest.raises(ConfigError, match=rf"^augment\.{key}: .*3 channels, however these have 1$"):
        check(AugmentConfig(**{key: 0.1}), (1, 8, 8))


@pytest.mark.parametrize("key", ALL)
def test_data_that_are_not_images_are_refused(key):
    with pytest.raises(ConfigError, match=rf"^augment\.{key}: needs images .* shape \(20,\)$"):
        check(AugmentConfig(**{key: ALL[key]}), (20,))
    check(AugmentConfig(), (20,))


def test_a_crop_by_as_much_as_the_image_is_refused():
    with pytest.raises(ConfigError, match=r"^augment\.crop: .* 8 pixels, however it is 8$"):
        check(AugmentConfig(crop=8), (1, 9, 8))
    check(AugmentConfig(crop=7), (1, 9, 8))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", -1),
        ("crop", 1.5),
        ("pad", "edge"),
        ("resized_crop", 0),
        ("resized_crop", 1.1),
        ("rotate", 181),
        ("rotate", math.nan),
        ("flip", -0.1),
        ("flip", True),
        ("vertical_flip", 1.1),
        ("brightness", 1.1),
        ("contrast", -0.1),
        ("saturation", math.inf),
        ("hue", 0.6),
        ("greyscale", 2),
        ("colour", 0.1),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"^augment\.{key}: "):
        parse({"data": {"ref": "digits"}, "augment": {key: value}})


def test_augmentation_can_be_a_grid_and_is_part_of_the_hash():
    asked = {"data": {"ref": "digits"}, "seeds": 1, "grid": {"augment.crop": [0, 2]}}
    runs = [run for run, _, _ in parse(asked).runs()]
    assert [run.augment.crop for run in runs] == [0, 2]
    assert len({run.hash for run in runs}) == 2


def test_every_setting_is_in_the_page_on_training():
    section = PAGE.partition("## Augmentation")[2].partition("\n## ")[0]
    for key in AugmentConfig.model_fields:
        assert f"`{key}`" in section, key
