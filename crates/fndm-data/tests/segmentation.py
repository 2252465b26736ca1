"""Reads a Segmentation by pydicom and highdicom and compares it with a NIfTI mask, voxel by voxel in space.

usage: segmentation.py SEG.dcm MASK.nii.gz SOURCE_FOLDER
"""

import pathlib
import sys

import highdicom
import nibabel
import numpy
import pydicom

path, mask_path, source = sys.argv[1:]
print("pydicom", pydicom.__version__, "highdicom", highdicom.__version__)
seg = highdicom.seg.segread(path)
print("segments:", seg.number_of_segments, seg.get_segment_description(1).segment_label)
print("algorithm:", seg.get_segment_description(1).algorithm_type)
print("property:", seg.get_segment_description(1).segmented_property_type.meaning)
instances = {}
for file in pathlib.Path(source).rglob("*"):
    if file.is_file():
        dataset = pydicom.dcmread(file)
        instances[dataset.SOPInstanceUID] = dataset
# What the object refers to is there, and is of one study.
refers = seg.get_source_image_uids()
assert refers, "no source image"
for study, series, instance in refers:
    dataset = instances[instance]
    assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == (study, series)
first = instances[refers[0][2]]
for name in ["PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"]:
    assert getattr(seg, name) == getattr(first, name), name
# As a volume, with an affine in the patient's coordinates of DICOM (left, back, up).
volume = seg.get_volume(combine_segments=True)
mask = nibabel.load(mask_path)
expected = numpy.asarray(mask.dataobj)
turn = numpy.diag([-1, -1, 1, 1])
found = numpy.zeros_like(expected)
to = numpy.linalg.inv(mask.affine) @ turn @ volume.affine
assert numpy.abs(to - to.round()).max() < 1e-3, to
index = numpy.argwhere(volume.array)
index = (index @ to[:3, :3].T + to[:3, 3]).round().astype(int)
found[tuple(index.T)] = 1
assert volume.array.size == expected.size
assert (found == (expected > 0)).all()
print(f"{expected.size} voxels, {int(found.sum())} of a lesion: all alike")
