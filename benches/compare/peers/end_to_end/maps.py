"""What coarse maps and anomaly maps have in common: smoothing, Otsu's threshold, masks. All maps are (N, H, W)."""

import numpy as np
from scipy import ndimage

# Neighbours by sides, in the slice alone.
CROSS = ndimage.generate_binary_structure(2, 1)[None]


def smooth(maps, sigma):
    """By a Gaussian in the plane, cut at 4 sigma; beyond the edge lies the map's mirror image."""
    return ndimage.gaussian_filter(maps, (0, sigma, sigma)) if sigma > 0 else maps


def otsu(values):
    """Otsu's threshold: the centre of one of 256 bins between the least and the largest value, as scikit-image has it."""
    counts, edges = np.histogram(values, 256)
    counts = counts.astype(np.float32)
    centres = (edges[1:] + edges[:-1]) / 2
    moments = counts * centres
    # Of all bins up to one, and of all after it.
    below, sums_below = counts.cumsum()[:-1], moments.cumsum()[:-1]
    above, sums_above = counts[::-1].cumsum()[-2::-1], moments[::-1].cumsum()[-2::-1]
    between = below * above * (sums_below / below - sums_above / above) ** 2
    return centres[between.argmax()]


def thresholds(maps, inside):
    """Otsu's threshold of each slice's values inside; infinite where there are none."""
    found = [otsu(values) if (values := one[within]).size else np.inf for one, within in zip(maps, inside)]
    return np.array(found, np.float32)


def inner(head, pixels):
    """The head without its outer pixels, by city-block steps; the border of the slice counts as outside."""
    return ndimage.binary_erosion(head, CROSS, pixels) if pixels else head


def disc(radius):
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (y * y + x * x <= radius * radius)[None]
