"""Opens files by nibabel and compares them with what is expected: nibabel.py EXPECTED.json

A list of {"file", "values" (32-bit floats, first axis fastest), "shape", "affine", "dtype", "description"}.
"""

import json
import pathlib
import sys

# This script's own name must not stand in for the package.
sys.path.pop(0)

import nibabel  # noqa: E402
import numpy as np  # noqa: E402

cases = json.loads(pathlib.Path(sys.argv[1]).read_text())
for case in cases:
    image = nibabel.load(case["file"])
    name = pathlib.Path(case["file"]).name
    assert list(image.shape) == case["shape"], (name, image.shape)
    affine = np.array(case["affine"])
    # A quaternion's matrix is rounded by the order of its terms; stored matrices are equal.
    exact = image.header["sform_code"] > 0
    error = np.abs(image.affine - affine).max() / max(1, np.abs(affine).max())
    assert error == 0 if exact else error < 1e-14, (name, image.affine, affine)
    assert image.get_data_dtype() == np.dtype(case["dtype"]), (name, image.get_data_dtype())
    wanted = np.fromfile(case["values"], "<f4").reshape(case["shape"], order="F")
    found = image.get_fdata(dtype=np.float32)
    assert np.array_equal(found, wanted, equal_nan=True), name
    described = image.header["descrip"].item().decode()
    assert described == case["description"], (name, described)
print(f"nibabel {nibabel.__version__}: {len(cases)} files, affines and values equal")
