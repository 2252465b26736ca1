"""OpenVINO: hint of latency, float32, one stream of these threads."""

import openvino

from peers.engines.common import THREADS, onnx_file

SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": THREADS,
    "NUM_STREAMS": 1,
}


def load(network, inputs, names, folder):
    core = openvino.Core()
    model = core.read_model(onnx_file(network, inputs, names, folder))
    model.reshape({name: list(x.shape) for name, x in zip(names, inputs)})
    request = core.compile_model(model, "CPU", SETTINGS).create_infer_request()
    feed = {name: x.numpy() for name, x in zip(names, inputs)}

    def run():
        return request.infer(feed, share_inputs=True, share_outputs=True)[0]

    return run
