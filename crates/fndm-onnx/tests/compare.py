"""Runs ONNX files in onnxruntime and compares what they give with what is expected.

usage: compare.py FOLDER

The folder holds for each case NAME: NAME.onnx, NAME.json (inputs and outputs: name, type, shape) and a file of raw values for each.
"""

import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime

TYPES = {"f32": numpy.float32, "i64": numpy.int64}
ALLOWED = 1e-4

folder = pathlib.Path(sys.argv[1])
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
cases = sorted(folder.glob("*.json"))
assert cases, "no case"
wrong = []
for case in cases:
    name = case.stem
    said = json.loads(case.read_text())
    model = folder / said["model"]
    onnx.checker.check_model(str(model), full_check=True)

    def values(array):
        raw = numpy.fromfile(folder / array["file"], TYPES[array["type"]])
        return raw.reshape(array["shape"])

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = {array["name"]: values(array) for array in said["inputs"]}
    got = session.run([array["name"] for array in said["outputs"]], inputs)
    for array, found in zip(said["outputs"], got):
        expected = values(array)
        assert found.shape == expected.shape, (name, found.shape, expected.shape)
        # Of logits above 1, relative to the largest.
        scale = max(1.0, float(numpy.abs(expected).max()))
        worst = float(numpy.abs(found - expected).max()) / scale
        print(f"{name}: {array['name']} {list(expected.shape)}, largest value {numpy.abs(expected).max():.3f}, difference {worst:.1e}")
        if not worst <= ALLOWED:
            wrong.append(name)
assert not wrong, wrong
