"""Random changes of training images: each sample its own, for all members at once.

What a sample becomes is a function of (the member's seed for this step, the sample's place in the
batch, the settings) alone, by the hashed numbers of :mod:`zoo.noise`: it does not depend on who
else is in the stack, and the same step can be taken again.

The order is crop, resized crop, rotation, flips, then brightness, contrast, saturation, hue, grey.
Moves by whole pixels copy values bit for bit.  As soon as a rotation or a resized crop is asked
for, all moves are one affine map, sampled once (bilinear), so that nothing is blurred twice.

Axes: K member, N sample, B = K x N image, C channel, H row, W column.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name that PyTorch's documentation uses
from torch import Tensor

from zoo.errors import ConfigError
from zoo.noise import uniform_like
from zoo.sections import AugmentConfig

Levels = tuple[float, float]  # the values that stand for black and for white
Draws = dict[str, Tensor]  # a number in [0, 1) per image (B,), by its name

# Its place here makes a number what it is: append, lest old runs cannot be repeated.
NUMBERS = (
    "crop_y",
    "crop_x",
    "area",
    "aspect",
    "box_y",
    "box_x",
    "rotate",
    "flip",
    "vertical_flip",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "greyscale",
)
MOST_NUMBERS = 16  # of a sample; the others' places do not change when one is appended
DRAW = 2**20  # the network's dropout, which has the same seed, counts its draws from 1
ASPECT = 4 / 3
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
COLOUR = ("saturation", "hue", "greyscale")


def check(settings: AugmentConfig, shape: tuple[int, ...]) -> None:
    """Check that samples of this shape can be changed as asked.

    Raises:
        ConfigError: naming the first key that cannot be.

    >>> check(AugmentConfig(hue=0.1), (1, 28, 28))
    Traceback (most recent call last):
    zoo.errors.ConfigError: augment.hue: needs images of 3 channels, however these have 1
    """
    for key in sorted(settings.asked):
        if len(shape) != 3:
            raise ConfigError(
                f"augment.{key}: needs images (channels, height, width), however a sample of "
                f"these data has the shape {shape}"
            )
        if key in COLOUR and shape[0] != 3:
            raise ConfigError(
                f"augment.{key}: needs images of 3 channels, however these have {shape[0]}"
            )
    if settings.crop and settings.crop >= min(shape[1:]):
        raise ConfigError(
            f"augment.crop: must be less than the images' shorter side, {min(shape[1:])} pixels, "
            f"however it is {settings.crop}"
        )


def black_and_white(preprocessing: dict[str, Any]) -> Levels:
    """Return what became of raw black (0) and of the brightest raw value in prepared images.

    >>> black_and_white({"kind": "images", "scale": 8.0, "mean": 0.5, "std": 0.25})
    (-2.0, 2.0)
    """
    mean, std = preprocessing["mean"], preprocessing["std"]
    return -mean / std, (1 - mean) / std


def augment(
    x_KN: Tensor, seed_K: Tensor, settings: AugmentConfig, levels: Levels = (0.0, 1.0)
) -> Tensor:
    """Change every image of every member's batch at random.

    Args:
        x_KN: float32 (K, N, C, H, W), left as they are.
        seed_K: int64 (K,), of each member's step.
        settings: which changes, and how strong; :func:`check` says whether they suit the images.
        levels: the values of black and white in ``x_KN``, from :func:`black_and_white`.  Padding
            is black, brightness scales the distance from black, and values are clamped to these
            levels after each of brightness, contrast and saturation; so standardised images become
            what they would have become before they were standardised.

    Returns:
        float32 (K, N, C, H, W); ``x_KN`` itself where nothing is asked for.

    >>> x_KN = torch.arange(6.0).view(2, 1, 1, 1, 3)
    >>> augment(x_KN, torch.tensor([7, 8]), AugmentConfig(flip=1)).flatten().tolist()
    [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]
    """
    if not settings.asked:
        return x_KN
    x_BCHW, drawn = x_KN.flatten(0, 1), _numbers(x_KN, seed_K)
    if settings.asked & {"resized_crop", "rotate"}:
        x_BCHW = _warped(x_BCHW, drawn, settings, levels)
    elif settings.asked & {"crop", "flip", "vertical_flip"}:
        x_BCHW = _moved(x_BCHW, drawn, settings, levels)
    return _coloured(x_BCHW, drawn, settings, levels).view(x_KN.shape)


def _numbers(x_KN: Tensor, seed_K: Tensor) -> Draws:
    like = x_KN.new_empty(*x_KN.shape[:2], MOST_NUMBERS)
    drawn_B = uniform_like(like, seed_K, DRAW).flatten(0, 1).unbind(1)
    return dict(zip(NUMBERS, drawn_B, strict=False))


def _shift(drawn_B: Tensor, most: int) -> Tensor:
    """Turn numbers in [0, 1) into whole ones from ``-most`` to ``most``, as floats."""
    return (drawn_B * (2 * most + 1)).floor() - most


def _moved(x_BCHW: Tensor, drawn: Draws, settings: AugmentConfig, levels: Levels) -> Tensor:
    """Shift and mirror by whole pixels: fetch rows first, then columns."""
    crop = settings.crop
    images, channels, height, width = x_BCHW.shape
    if crop and settings.pad == "reflect":
        x_BCHW = F.pad(x_BCHW, (crop,) * 4, mode="reflect")
    elif crop:
        x_BCHW = F.pad(x_BCHW, (crop,) * 4, value=levels[0])
    upset_B = drawn["vertical_flip"] < settings.vertical_flip
    row_BH = _places(height, upset_B, drawn["crop_y"], crop)
    column_BW = _places(width, drawn["flip"] < settings.flip, drawn["crop_x"], crop)
    lines = x_BCHW.flatten(0, 2)
    first_BC1 = torch.arange(0, len(lines), x_BCHW.shape[2], device=lines.device).view(
        images, channels, 1
    )
    lines = lines.index_select(0, (first_BC1 + row_BH[:, None]).flatten())
    column_BLW = column_BW[:, None].expand(-1, channels * height, -1)
    return (
        lines.view(images, channels * height, -1)
        .gather(2, column_BLW)
        .view(images, channels, height, width)
    )


def _places(size: int, mirrored_B: Tensor, shift_B: Tensor, crop: int) -> Tensor:
    """Return where in the padded side each of the ``size`` pixels comes from, int64 (B, size)."""
    place = torch.arange(size, device=shift_B.device)
    start_B1 = _shift(shift_B, crop).long()[:, None] + crop
    return torch.where(mirrored_B[:, None], place.flip(0), place) + start_B1


def _warped(x_BCHW: Tensor, drawn: Draws, settings: AugmentConfig, levels: Levels) -> Tensor:
    """Apply all moves as one affine map."""
    height, width = x_BCHW.shape[2:]
    map_B23 = _map(drawn, settings, height, width)
    device = x_BCHW.device
    x_W = torch.arange(width, device=device) - (width - 1) / 2
    y_H = torch.arange(height, device=device) - (height - 1) / 2
    # The same numbers as F.affine_grid's, as two planes, which is three times faster here.
    row_B2H = map_B23[:, :, 1:2] * y_H + map_B23[:, :, 2:]
    grid_B2HW = map_B23[:, :, :1, None] * x_W + row_B2H[..., None]
    # Pixel centres at the corners, so that "reflection" mirrors as F.pad does.
    sample = partial(F.grid_sample, grid=grid_B2HW.permute(0, 2, 3, 1), align_corners=True)
    if settings.pad == "reflect":
        return sample(x_BCHW, padding_mode="reflection")
    if not settings.asked & {"crop", "rotate"}:  # nothing but half pixels lies beyond the edges
        return sample(x_BCHW, padding_mode="border")
    return sample(x_BCHW - levels[0], padding_mode="zeros").add_(levels[0])


def _map(drawn: Draws, settings: AugmentConfig, height: int, width: int) -> Tensor:
    """Return maps (B, 2, 3) from target pixels to source places in the units of ``grid_sample``.

    Target pixels are counted from the centre of the image.  The part that a resized crop enlarges
    is that of Szegedy et al. (2015, arXiv:1409.4842, section 6), with the ratio of the sides drawn
    from what fits into the image at the drawn area, so that no draw is ever repeated.
    """
    angle_B = torch.deg2rad(settings.rotate * (2 * drawn["rotate"] - 1))
    mirror_x_B = 1 - 2 * (drawn["flip"] < settings.flip).float()
    mirror_y_B = 1 - 2 * (drawn["vertical_flip"] < settings.vertical_flip).float()
    area_B = settings.resized_crop + (1 - settings.resized_crop) * drawn["area"]
    most_B = torch.minimum(-area_B.log(), area_B.new_tensor(math.log(ASPECT)))
    aspect_B = (most_B * (2 * drawn["aspect"] - 1)).exp()
    scale_x_B, scale_y_B = (area_B * aspect_B).sqrt(), (area_B / aspect_B).sqrt()
    shift_x_B = _shift(drawn["crop_x"], settings.crop)
    shift_y_B = _shift(drawn["crop_y"], settings.crop)
    shift_x_B = shift_x_B + (drawn["box_x"] - 0.5) * (1 - scale_x_B) * width
    shift_y_B = shift_y_B + (drawn["box_y"] - 0.5) * (1 - scale_y_B) * height
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    x_B3 = torch.stack(
        [scale_x_B * cos_B * mirror_x_B, -scale_x_B * sin_B * mirror_y_B, shift_x_B], dim=1
    )
    y_B3 = torch.stack(
        [scale_y_B * sin_B * mirror_x_B, scale_y_B * cos_B * mirror_y_B, shift_y_B], dim=1
    )
    return torch.stack([x_B3 * (2 / max(width - 1, 1)), y_B3 * (2 / max(height - 1, 1))], dim=1)


def _coloured(x_BCHW: Tensor, drawn: Draws, settings: AugmentConfig, levels: Levels) -> Tensor:
    """Change brightness, contrast, saturation and hue as torchvision's ``ColorJitter`` does.

    Contrast, saturation, hue and grey give the same in any linear scale of the pixels.
    """

    def blended(start: Tensor, x_BCHW: Tensor, name: str, strength: float) -> Tensor:
        factor_B111 = (1 + strength * (2 * drawn[name] - 1)).view(-1, 1, 1, 1)
        return torch.lerp(start, x_BCHW, factor_B111).clamp_(*levels)

    if settings.brightness:
        black = x_BCHW.new_tensor(levels[0])
        x_BCHW = blended(black, x_BCHW, "brightness", settings.brightness)
    if settings.contrast:
        # Two means: a single one over all pixels may be split by threads where there is one image.
        mean_B111 = _grey(x_BCHW).mean(3, keepdim=True).mean((1, 2), keepdim=True)
        x_BCHW = blended(mean_B111, x_BCHW, "contrast", settings.contrast)
    if settings.saturation:
        x_BCHW = blended(_grey(x_BCHW), x_BCHW, "saturation", settings.saturation)
    if settings.hue:
        turn_B = settings.hue * (2 * drawn["hue"] - 1)
        x_BCHW = _turned(x_BCHW, turn_B)
    if settings.greyscale:
        grey_B111 = (drawn["greyscale"] < settings.greyscale).view(-1, 1, 1, 1)
        x_BCHW = torch.where(grey_B111, _grey(x_BCHW), x_BCHW)
    return x_BCHW


def _grey(x_BCHW: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of colours; images that have none stay as they are."""
    if x_BCHW.shape[1] != 3:
        return x_BCHW
    red, green, blue = x_BCHW.unsqueeze(2).unbind(1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def _turned(x_B3HW: Tensor, turn_B: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle, at the same value and saturation of HSV.

    With M the largest and m the smallest channel and the hue h in [0, 6), channel n of (5, 3, 1)
    is M - (M - m) clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6.
    """
    red, green, blue = x_B3HW.unsqueeze(2).unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    range_ = most - least
    share = range_.clamp(min=torch.finfo(range_.dtype).tiny).reciprocal_()
    hue_B1HW = torch.where(
        most == red,
        (green - blue) * share,
        torch.where(most == green, ((blue - red) * share).add_(2), ((red - green) * share).add_(4)),
    )
    hue_B1HW += 6 * turn_B.view(-1, 1, 1, 1)
    k_B3HW = hue_B1HW + hue_B1HW.new_tensor([5, 3, 1]).view(3, 1, 1)
    k_B3HW.sub_((k_B3HW / 6).floor_(), alpha=6)
    # min(k, 4 - k) is 2 - |k - 2|.
    return torch.addcmul(most, range_, k_B3HW.sub_(2).abs_().neg_().add_(2).clamp_(0, 1), value=-1)
