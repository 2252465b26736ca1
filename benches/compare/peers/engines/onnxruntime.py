"""ONNX Runtime: all optimisations of the graph, one stream of these threads."""

import onnxruntime

from peers.engines.common import THREADS, onnx_file


def load(network, inputs, names, folder):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = onnx_file(network, inputs, names, folder)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # The exporter drops an input that nothing depends on.
    known = {i.name for i in session.get_inputs()}
    feed = {name: x.numpy() for name, x in zip(names, inputs) if name in known}
    return lambda: session.run(None, feed)[0]
