"""Reads a DICOM series by SimpleITK and compares it with what is expected: dicom.py FOLDER EXPECTED.json"""

import json
import sys

import numpy as np
import SimpleITK as sitk

folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
image = sitk.ReadImage(files, sitk.sitkFloat32)
assert list(image.GetSize()) == expected["shape"], (image.GetSize(), expected["shape"])

# ITK's world has x to the left and y to the back.
affine = np.eye(4)
affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
affine[:3, 3] = image.GetOrigin()
affine = np.diag([-1, -1, 1, 1]) @ affine
worst = np.abs(affine - np.array(expected["affine"])).max()
assert worst < 1e-6, affine

# The array has the slices first, as the values have.
values = sitk.GetArrayFromImage(image).ravel()
difference = np.abs(values - np.array(expected["values"], np.float32)).max()
assert difference == 0, difference
print(f"{len(files)} slices, affine within {worst:.1e}, values equal")
