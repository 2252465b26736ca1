"""Patients in and out as NIfTI, by nibabel."""

import json
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

# Slices from the feet to the head, rows from front to back, columns from right to left.
AXIAL = axcodes2ornt(("S", "P", "L"))


@dataclass
class Grid:
    """Where the slices come from."""

    affine: np.ndarray
    header: nibabel.Nifti1Header


def read(folder, sequences):
    """The sequences of a patient as stacks of slices, (C, N, H, W), and the grid of its files."""
    images = [nibabel.load(folder / f"{folder.name}_{sequence}.nii.gz") for sequence in sequences]
    grid = Grid(images[0].affine, images[0].header)
    for image in images[1:]:
        if image.shape != images[0].shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
            raise ValueError(f"{image.get_filename()} lies on another grid than {images[0].get_filename()}")
    turn = ornt_transform(io_orientation(grid.affine), AXIAL)
    volumes = [image.get_fdata(dtype=np.float32, caching="unchanged") for image in images]
    stacks = np.stack([apply_orientation(volume, turn) for volume in volumes])
    if not np.isfinite(stacks).all():
        raise ValueError(f"{folder}: a voxel isn't finite")
    return stacks, grid


def restore(stack, grid):
    """A stack (N, H, W) in the axes of the files."""
    return apply_orientation(stack, ornt_transform(AXIAL, io_orientation(grid.affine)))


def write(folder, grid, mask, anomaly, report):
    """Writes a patient's results, volumes in the axes of the files, into a new folder that has the patient's id as its name."""
    folder.mkdir(parents=True)
    save(folder / f"{folder.name}_mask.nii.gz", mask.astype(np.uint8), grid)
    save(folder / f"{folder.name}_anomaly.nii.gz", anomaly, grid)
    (folder / f"{folder.name}_report.json").write_text(json.dumps(report, indent=1) + "\n")


def save(file, volume, grid):
    image = nibabel.Nifti1Image(volume, grid.affine, grid.header)
    image.set_data_dtype(volume.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0
    nibabel.save(image, file)
