"""From slices and their healthy reconstructions to anomaly maps and masks."""

import numpy as np

from peers.end_to_end import maps


def anomaly_map(images, healthy, soft, calibrated, settings):
    """The differences of all sequences, (N, C, H, W) to (N, H, W), smoothed, times the soft coarse map to a power."""
    differences = np.abs(images - healthy)
    np.minimum(differences, settings["residual_limit"], out=differences)
    found = maps.smooth(differences.sum(1), settings["smoothing"])
    if settings["coarse_weight"] > 0:
        found *= (np.maximum(soft, 0) / (calibrated if calibrated > 0 else 1)) ** settings["coarse_weight"]
    return found


def masks(anomaly, head, settings):
    """Masks and their thresholds, by Otsu's of each slice. The map is set to 0 outside of the inner head."""
    inner = maps.inner(head, settings["head_erosion"])
    anomaly[~inner] = 0
    thresholds = maps.thresholds(anomaly, inner)
    return inner & (anomaly > thresholds[:, None, None]), thresholds
