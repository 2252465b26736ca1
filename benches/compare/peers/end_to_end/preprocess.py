"""From stacks of intensities to slices in [-1, 1], with the head."""

import numpy as np
from scipy import ndimage

from peers.end_to_end.maps import CROSS

# A background is bright where the median of the corners is above this part of the scale, most corners are near it, and
# some of the volume isn't.
BRIGHT, SHARE, FLAT, LEAST_HEAD = 0.1, 0.8, 0.05, 0.02


def slices(stacks, config):
    """Images (N, C, H, W), the background -1, and the head (N, H, W), of stacks (C, N, H, W)."""
    size = config["image_size"]
    if stacks.shape[2:] != (size, size):
        raise NotImplementedError(f"slices of {stacks.shape[2:]}: expected {size} x {size}, which need no resizing")
    head = find_head(stacks, config["head"]["scale"])
    images = np.full((stacks.shape[1], len(stacks), size, size), -1, np.float32)
    for channel, stack in enumerate(stacks):
        inside = stack[head]
        low, high = np.percentile(inside, config["percentiles"])
        images[:, channel][head] = np.clip((inside - low) * (2 / (high - low)) - 1, -1, 1)
    return images, head


def find_head(stacks, scale):
    """Above Otsu's threshold, times a factor, of the mean of the sequences; the largest part, its holes filled."""
    mean = sum(stand_out(stack) for stack in stacks) / len(stacks)
    parts, _ = ndimage.label(mean > otsu_of_unit(mean) * scale)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == sizes.argmax(), CROSS)


def stand_out(stack):
    """How far each voxel stands out from the background: 0 to 1, which is the 99th percentile."""
    low, range_ = scale_of(stack)
    level = bright_background(stack, low, range_)
    if level is not None:
        stack = np.abs(stack - level)
        low, range_ = scale_of(stack)
    return np.minimum((stack - low) / range_, 1)


def scale_of(stack):
    low = stack.min()
    return low, np.percentile(stack[stack > low], 99) - low


def bright_background(stack, low, range_):
    """The level that the corners of the slices share, where it is one and not dark."""
    side = max(min(stack.shape[1:]) // 16, 1)
    ends = np.r_[:side, -side:0]
    corners = stack[:, ends[:, None], ends]
    level = np.median(corners)
    flat = lambda values: (np.abs(values - level) <= FLAT * range_).mean()
    if (level - low) / range_ <= BRIGHT or flat(corners) < SHARE or flat(stack) > 1 - LEAST_HEAD:
        return None
    return level


def otsu_of_unit(values):
    """Otsu's threshold of values in [0, 1]: an edge of 256 bins over all of that range."""
    counts, edges = np.histogram(values, 256, (0, 1))
    below = counts.cumsum()[:-1]
    sums = (counts * (edges[1:] + edges[:-1]) / 2).cumsum()
    above = values.size - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return edges[1 + np.nan_to_num(between, posinf=0).argmax()]
