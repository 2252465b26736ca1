"""The peer's side: the protocol of src/main.rs, for peers/<topic>.py.

Beside that protocol, {"op":"cases","topic":T} lists the topic's cases.
"""

import dataclasses
import importlib
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def answer(request, state):
    op = request["op"]
    if op == "cases":
        module = importlib.import_module("peers." + request["topic"])
        return {"cases": [dataclasses.asdict(c) for c in module.CASES]}
    if op == "prepare":
        state.clear()
        module = importlib.import_module("peers." + request["topic"])
        state["case"] = module.prepare(request["spec"])
        return {"ok": True}
    case = state["case"]
    if op == "run":
        inner = max(1, request.get("inner", 1))
        start = time.perf_counter()
        for _ in range(inner):
            case.run()
        return {"ms": (time.perf_counter() - start) * 1e3 / inner}
    if op == "check":
        return {"values": [float(v) for v in case.check()]}
    raise ValueError(f"unknown op {op!r}")


def main():
    # What a library prints must not mix with the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    state = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), state)
        except Exception as e:  # reported to the driver, which names the case
            reply = {"error": f"{type(e).__name__}: {e}"}
        out.write(json.dumps(reply) + "\n")
        out.flush()


main()
