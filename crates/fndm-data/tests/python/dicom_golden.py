"""Writes tests/golden/dicom: small series by other programs, and what those read: dicom_golden.py FOLDER

Writers: pydicom (uncompressed, RLE by pylibjpeg-rle, JPEG 2000 by pylibjpeg-openjpeg), SimpleITK (JPEG lossless,
JPEG 2000), DCMTK's dcmcjpeg (JPEG lossless with every predictor), highdicom (enhanced multi-frame).
Expected: values by pydicom with slope and intercept, which SimpleITK must read alike; places by SimpleITK.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import highdicom
import numpy as np
import pydicom
import pydicom.uid as uid
import SimpleITK as sitk
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

out = pathlib.Path(sys.argv[1])
# OpenJPEG wants 32 pixels.
ROWS, COLUMNS, SLICES = 32, 34, 3
rng = np.random.default_rng(7)
# Smooth, so that compression does something, with the ends of the range in it.
k, i, j = np.mgrid[:SLICES, :ROWS, :COLUMNS]
BASE = (700 + 900 * np.sin(0.35 * i + k) * np.cos(0.3 * j) + rng.integers(-40, 40, k.shape)).astype(int)


def number(x):
    return f"{x:.10g}"[:16]


def slice_of(k, pixels, bits=16, stored=None, signed=False, slope=None, intercept=None, colours="MONOCHROME2"):
    d = Dataset()
    d.SOPClassUID = uid.MRImageStorage
    d.SOPInstanceUID = f"1.2.3.4.5.{k + 1}"
    d.Modality = "MR"
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "A^B", "A", "", ""
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.3", "1.2.3.4.5", "1.2.3.6"
    d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber = "20200101", "120000", "1", ""
    d.ReferringPhysicianName = ""
    d.SeriesNumber, d.InstanceNumber, d.SeriesDescription = 7, k + 1, "flair"
    d.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber, d.SoftwareVersions = "x", "x", "1", "1"
    s, c = np.sin(0.3), np.cos(0.3)
    row, column = np.array([c, s, 0]), np.array([-s, c, 0])
    d.ImageOrientationPatient = [number(x) for x in (*row, *column)]
    d.ImagePositionPatient = [number(x) for x in (-20, 11.5, 30 + 4.5 * k)]
    d.PixelSpacing, d.SliceThickness, d.SpacingBetweenSlices = ["1.5", "1.25"], "4", "4.5"
    if slope is not None:
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = number(slope), number(intercept), "US"
    d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = ROWS, COLUMNS, 1, colours
    d.BitsAllocated, d.BitsStored, d.PixelRepresentation = bits, stored or bits, int(signed)
    d.HighBit = d.BitsStored - 1
    kind = f"{'i' if signed else 'u'}{bits // 8}"
    d.PixelData = pixels.astype(kind).tobytes()
    d["PixelData"].VR = "OW" if bits > 8 else "OB"
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    return d


def series(base=BASE, **how):
    return [slice_of(k, base[k], **how) for k in range(SLICES)]


def save(d, path, syntax=uid.ExplicitVRLittleEndian):
    d.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        words = np.frombuffer(d.PixelData, "u2")
        d.PixelData = words.byteswap().tobytes() if d.BitsAllocated == 16 else d.PixelData
    pydicom.dcmwrite(path, d, enforce_file_format=True)


def by_pydicom(name, slices, syntax=uid.ExplicitVRLittleEndian, compress=None):
    folder = out / name
    folder.mkdir(parents=True)
    for d in slices:
        if compress is not None:
            d.compress(syntax, generate_instance_uid=False, **compress)
        save(d, folder / f"IM{d.InstanceNumber}", syntax)


def by_simpleitk(name, slices, compressor):
    """Each slice read and written again by SimpleITK; the elements that say where it lies are kept."""
    folder = out / name
    folder.mkdir(parents=True)
    for d in slices:
        with tempfile.TemporaryDirectory() as tmp:
            plain = pathlib.Path(tmp) / "a.dcm"
            save(d, plain)
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(plain))
            image = reader.Execute()
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetUseCompression(True)
            writer.SetCompressor(compressor)
            writer.SetFileName(str(pathlib.Path(tmp) / "b.dcm"))
            writer.Execute(image)
            packed = pydicom.dcmread(pathlib.Path(tmp) / "b.dcm")
            # SimpleITK makes a series of its own of every file.
            d.PixelData = packed.PixelData
            d["PixelData"].VR, d["PixelData"].is_undefined_length = "OB", True
            d.BitsStored, d.HighBit = packed.BitsStored, packed.HighBit
            assert packed.PixelRepresentation == d.PixelRepresentation and packed.Rows == ROWS
            save(d, folder / f"IM{d.InstanceNumber}", packed.file_meta.TransferSyntaxUID)


def by_dcmtk(name, slices, *options):
    folder = out / name
    folder.mkdir(parents=True)
    for d in slices:
        with tempfile.TemporaryDirectory() as tmp:
            plain = pathlib.Path(tmp) / "a.dcm"
            save(d, plain)
            subprocess.run(["dcmcjpeg", "+un", *options, str(plain), str(folder / f"IM{d.InstanceNumber}")], check=True)


def lossless(pixels, precision, predictor, shift=0, rows_to_restart=0):
    """JPEG's process 14 with what DCMTK does not write: bits left out, and restarts. Codes of 5 bits."""
    rows, columns = pixels.shape
    p = pixels.astype(int) >> shift
    head = b"\xff\xd8\xff\xc4" + (19 + 17).to_bytes(2, "big") + bytes([0, 0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    head += b"\xff\xc3" + (11).to_bytes(2, "big") + bytes([precision]) + rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    head += bytes([1, 1, 0x11, 0])
    if rows_to_restart:
        head += b"\xff\xdd" + (4).to_bytes(2, "big") + (rows_to_restart * columns).to_bytes(2, "big")
    head += b"\xff\xda" + (8).to_bytes(2, "big") + bytes([1, 1, 0, predictor, 0, shift])
    out, bits = head, ""

    def flush(bits):
        bits += "1" * (-len(bits) % 8)
        return bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")

    for y in range(rows):
        first = y == 0 or (rows_to_restart and y % rows_to_restart == 0)
        if first and y:
            out, bits = out + flush(bits) + bytes([0xFF, 0xD0 + (y // rows_to_restart - 1) % 8]), ""
        for x in range(columns):
            a = p[y, x - 1] if x else 0
            b, c = (p[y - 1, x], p[y - 1, x - 1]) if y else (0, 0)
            if x == 0:
                guess = 1 << (precision - shift - 1) if first else b
            elif first:
                guess = a
            else:
                guess = [a, b, c, a + b - c, a + (b - c >> 1), b + (a - c >> 1), a + b >> 1][predictor - 1]
            d = (p[y, x] - guess + 32768) % 65536 - 32768
            size = 16 if d == -32768 else int(abs(d)).bit_length()
            bits += f"{size:05b}"
            if 0 < size < 16:
                bits += f"{d if d > 0 else d + (1 << size) - 1:0{size}b}"
    return out + flush(bits) + b"\xff\xd9"


def by_hand(name, slices, *how):
    folder = out / name
    folder.mkdir(parents=True)
    for d in slices:
        pixels = np.frombuffer(d.PixelData, "u2").reshape(ROWS, COLUMNS)
        d.PixelData = pydicom.encaps.encapsulate([lossless(pixels, d.BitsStored, *how)])
        d["PixelData"].VR, d["PixelData"].is_undefined_length = "OB", True
        save(d, folder / f"IM{d.InstanceNumber}", uid.JPEGLossless)


def groups(d, rescale):
    g = Dataset()
    position = Dataset()
    position.ImagePositionPatient = d.ImagePositionPatient
    g.PlanePositionSequence = Sequence([position])
    if rescale:
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = d.RescaleSlope, d.RescaleIntercept, "US"
        g.PixelValueTransformationSequence = Sequence([scale])
    return g


def unknown(sequence):
    """A sequence as an archive keeps one that it does not know: type UN, implicit inside (CP-246)."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    for item in sequence:
        inner = DicomBytesIO()
        inner.is_little_endian, inner.is_implicit_VR = True, True
        write_dataset(inner, item)
        content = inner.getvalue()
        buffer.write(b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content)
    return buffer.getvalue()


def enhanced(name, slices, order, shared_scale=False, compress=None, unknown_types=False):
    """Enhanced MR by the standard's functional groups; frames in another order than their places."""
    first = slices[0]
    d = slice_of(0, np.concatenate([np.frombuffer(slices[n].PixelData, "u2") for n in order]).reshape(-1, COLUMNS))
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = uid.EnhancedMRImageStorage
    for gone in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"):
        del d[gone]
    d.NumberOfFrames = len(order)
    shared = Dataset()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    if shared_scale:
        shared.PixelValueTransformationSequence = groups(first, True).PixelValueTransformationSequence
    d.SharedFunctionalGroupsSequence = Sequence([shared])
    d.PerFrameFunctionalGroupsSequence = Sequence([groups(slices[n], not shared_scale) for n in order])
    folder = out / name
    folder.mkdir(parents=True)
    if unknown_types:
        # Else pydicom makes it a sequence again.
        pydicom.config.replace_un_with_known_vr = False
        for tag in (0x52009229, 0x52009230):
            d[tag] = DataElement(tag, "UN", unknown(d[tag].value))
    if compress:
        d.compress(compress, generate_instance_uid=False)
    save(d, folder / "IM1", compress or uid.ExplicitVRLittleEndian)
    pydicom.config.replace_un_with_known_vr = True


def scales():
    slices = series(unsigned)
    for k, d in enumerate(slices):
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = number(0.5 + k), number(-10.0 * k), "US"
    return slices


shutil.rmtree(out, ignore_errors=True)
unsigned = BASE - BASE.min()
signed = BASE - 900
small = unsigned * 255 // unsigned.max()
expected = {}


def case(name, values, tolerance=0):
    expected[name] = (np.asarray(values, float), tolerance)


def plain(name, syntax=uid.ExplicitVRLittleEndian, base=unsigned, compress=None, **how):
    by_pydicom(name, series(base, **how), syntax, compress)
    case(name, base * how.get("slope", 1) + how.get("intercept", 0))


plain("explicit", slope=2.5, intercept=-4)
plain("implicit", uid.ImplicitVRLittleEndian, signed, signed=True)
plain("big_endian", uid.ExplicitVRBigEndian, signed, signed=True)
plain("deflated", uid.DeflatedExplicitVRLittleEndian, small, bits=8)
plain("rle_16", uid.RLELossless, signed, {}, signed=True)
plain("rle_8", uid.RLELossless, small, {}, bits=8)
plain("jpeg2000_16", uid.JPEG2000Lossless, unsigned, {}, slope=0.5, intercept=3)
plain("jpeg2000_signed", uid.JPEG2000Lossless, signed, {}, signed=True)
plain("jpeg2000_8", uid.JPEG2000Lossless, small, {}, bits=8)
by_pydicom("jpeg2000_lossy", series(unsigned), uid.JPEG2000, {"j2k_psnr": [60]})
lossy = [pydicom.dcmread(out / f"jpeg2000_lossy/IM{k + 1}").pixel_array.astype(int) for k in range(SLICES)]
assert (np.array(lossy) != unsigned).any()
# The wavelets are of floats: decoders round differently.
case("jpeg2000_lossy", lossy, 1)
by_simpleitk("simpleitk_jpeg_lossless", series(signed, signed=True), "JPEG")
case("simpleitk_jpeg_lossless", signed)
by_simpleitk("simpleitk_jpeg2000", series(signed, signed=True), "JPEG2000")
case("simpleitk_jpeg2000", signed)
by_dcmtk("dcmtk_sv1_12", series(unsigned, stored=12), "+e1")
case("dcmtk_sv1_12", unsigned)
by_dcmtk("dcmtk_sv1_8", series(small, bits=8), "+e1")
case("dcmtk_sv1_8", small)
for predictor in range(1, 8):
    by_dcmtk(f"dcmtk_sv{predictor}", series(unsigned), "+el", "+sv", str(predictor))
    case(f"dcmtk_sv{predictor}", unsigned)
# The whole range: differences of 16 bits, which wrap around.
wild = rng.choice([0, 1, 32767, 32768, 65535], BASE.shape)
for name, base, how in [
    ("hand_sv4", wild, (16, 4)),
    ("hand_sv7_restarts", wild, (16, 7, 0, 3)),
    ("hand_sv1_restarts", unsigned, (16, 1, 0, 1)),
    ("hand_sv5_shift", unsigned, (16, 5, 2)),
]:
    by_hand(name, series(base), *how[1:])
    case(name, base >> 2 << 2 if "shift" in name else base)
plain("monochrome1", base=unsigned, stored=12, colours="MONOCHROME1")
case("monochrome1", 4095 - unsigned)
plain("monochrome1_signed", base=signed, signed=True, colours="MONOCHROME1", slope=2, intercept=1)
case("monochrome1_signed", (-1 - signed) * 2 + 1)
per_frame = np.array([unsigned[k] * (0.5 + k) - 10.0 * k for k in range(SLICES)])
by_pydicom("scales", scales())
case("scales", per_frame)
enhanced("enhanced", scales(), [2, 0, 1])
case("enhanced", per_frame)
enhanced("enhanced_unknown_types", scales(), [1, 0, 2], unknown_types=True)
case("enhanced_unknown_types", per_frame)
enhanced("enhanced_rle", scales(), [1, 2, 0], compress=uid.RLELossless)
case("enhanced_rle", per_frame)
enhanced("enhanced_shared", series(unsigned, slope=2.5, intercept=-4), [0, 1, 2], True)
case("enhanced_shared", unsigned * 2.5 - 4)
legacy = highdicom.legacy.LegacyConvertedEnhancedMRImage(series(unsigned), "1.2.3.4.6", 8, "1.2.3.4.6.1", 1)
(out / "highdicom_legacy").mkdir()
legacy.save_as(out / "highdicom_legacy/IM1")
case("highdicom_legacy", unsigned)

result, arrays = {}, []
for name, (values, tolerance) in expected.items():
    folder = out / name
    files = sorted(folder.iterdir())
    # Every writer's file is what it should be, as pydicom reads it.
    raw = np.concatenate([np.atleast_3d(pydicom.dcmread(f).pixel_array.T).T for f in files])
    assert raw.shape == values.shape, name
    # Places by SimpleITK, of the same slices in files of their own: it orders frames as they stand.
    places = sitk.ReadImage([str(f) for f in sorted((out / "scales").iterdir())])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(places.GetDirection(), (3, 3)) @ np.diag(places.GetSpacing())
    affine[:3, 3] = places.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine
    if len(files) > 1:
        try:
            # One by one: of a series it takes the first slice's type of pixel for all.
            images = [sitk.ReadImage(str(f), sitk.sitkFloat32) for f in files]
            read = np.concatenate([sitk.GetArrayFromImage(image) for image in images]).astype(float)
        except RuntimeError as error:
            print(f"{name}: not read by SimpleITK: {str(error).splitlines()[-1][:100]}")
        else:
            off = np.abs(read - values).max()
            print(f"{name}: SimpleITK differs by {off}")
            assert off <= tolerance, name
    result[name] = {
        "tolerance": tolerance,
        "affine": affine.tolist(),
        "shape": [COLUMNS, ROWS, SLICES],
    }
    listed = values.ravel().tolist()
    if listed not in arrays:
        arrays.append(listed)
    # Many cases have the same values.
    result[name]["values"] = arrays.index(listed)
arrays = [[int(v) if v == int(v) else v for v in a] for a in arrays]
written = json.dumps({"cases": result, "arrays": arrays}, separators=(",", ":"))
(out / "expected.json").write_text(written + "\n")
