"""Runs the cases of some topics, our process against the peer's in turns. Standard library only; see README.md."""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
AVX2 = {"FNDM_SIMD": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
# A timed repetition of either side that would be shorter than this is made of several runs.
SHORTEST_MS = 20
# A first run of more than this on both sides is warm-up enough.
LONG_MS = 5000


class Failure(Exception):
    """What a process answered instead of a result."""


class Side:
    """One of the two processes."""

    def __init__(self, command, env, cpus):
        pin = (lambda: os.sched_setaffinity(0, cpus)) if hasattr(os, "sched_setaffinity") else None
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=pin
        )

    def ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failure(f"the process ended with {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise Failure(reply["error"])
        return reply

    def memory(self, field):
        """VmRSS (now) or VmHWM (peak) in MB; None where the system doesn't tell."""
        try:
            text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        for line in text.splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        return None

    def forget_peak(self):
        try:
            pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        except OSError:
            pass

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wanted(topics):
    """What the topics' peers need, by requirements.txt: each line a package, and after # the topics."""
    needed = []
    for line in (HERE / "requirements.txt").read_text().splitlines():
        package, _, users = line.partition("  # ")
        if set(users.split()) & set(topics):
            needed.append(package)
    return needed


def python(topics):
    """The interpreter of the peers: FNDM_COMPARE_PYTHON, or an environment of our own with what these topics need.

    A package that can't be had is said and left out; the cases that need it then fail by themselves.
    """
    if chosen := os.environ.get("FNDM_COMPARE_PYTHON"):
        return chosen
    target = ROOT / "target" / "compare"
    made, stamp = target / "venv" / "bin" / "python", target / "installed.txt"
    if not made.exists():
        print(f"making {target / 'venv'}", file=sys.stderr)
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(target / "venv")], check=True)
        stamp.unlink(missing_ok=True)
    installed = stamp.read_text().splitlines() if stamp.exists() else []
    missing = [package for package in wanted(topics) if package not in installed]

    def install(packages):
        pip = [str(made), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        done = subprocess.run(pip, stdout=sys.stderr).returncode == 0
        if done:
            installed.extend(packages)
        return done

    # All at once, so that their own needs are settled together; else one by one, to be left with what there is.
    if missing and not install(missing):
        for package in missing:
            if not install([package]):
                print(f"left out: {package} can't be installed", file=sys.stderr)
    stamp.write_text("".join(package + "\n" for package in installed))
    return str(made)


def differing(ours, theirs, tolerance):
    """The worst difference over the largest value, where it is above the tolerance or the values don't pair."""
    if len(ours) != len(theirs) or not ours:
        return f"{len(ours)} check values against {len(theirs)}"
    if not all(map(math.isfinite, ours + theirs)):
        return "a check value isn't finite"
    top = max(map(abs, theirs)) or 1.0
    worst = max(abs(a - b) for a, b in zip(ours, theirs)) / top
    return f"check values differ by {worst:.1e}, allowed {tolerance:.1e}" if worst > tolerance else None


def measure(case, topic, start, single):
    """Medians, ratios and peaks of one case; `start` makes the two processes."""
    sides = start()
    try:
        idle = [s.memory("VmRSS") for s in sides]
        for s in sides:
            s.ask(op="prepare", topic=topic, spec=case["spec"])
            s.forget_peak()
        if case["memory"] == "working":
            idle = [s.memory("VmRSS") for s in sides]
        # Warm-up: twice, the second time for as long as a repetition; it tells how many runs each side's are made of.
        inner = [1, 1]
        for _ in range(2):
            warm = [s.ask(op="run", inner=n)["ms"] for s, n in zip(sides, inner)]
            if min(warm) > LONG_MS:
                break
            if not single:
                inner = [max(1, math.ceil(SHORTEST_MS / max(ms, 1e-3))) for ms in warm]
        times = ([], [])
        for i in range(case["repetitions"]):
            # Who goes first changes from pair to pair.
            for side in (0, 1) if i % 2 == 0 else (1, 0):
                # Threads of the other process spin for a while after their work: 10 ms were too short for ONNX Runtime's.
                time.sleep(0.1)
                times[side].append(sides[side].ask(op="run", inner=inner[side])["ms"])
        peak = [s.memory("VmHWM") for s in sides]
        values = [s.ask(op="check")["values"] for s in sides]
    finally:
        for s in sides:
            s.close()
    if problem := differing(*values, case["tolerance"]):
        raise Failure(problem)
    ours, theirs = times
    ratios = [b / a for a, b in zip(ours, theirs)]
    result = {
        "ours_ms": statistics.median(ours),
        "peer_ms": statistics.median(theirs),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    if case["memory"] and None not in idle + peak:
        # Beyond what the process holds before it has seen the case.
        result["ours_mb"] = peak[0] - idle[0]
        result["peer_mb"] = peak[1] - idle[1]
    return result


def topics():
    # A module without cases serves several topics.
    return sorted(p.stem for p in (HERE / "peers").glob("*.py") if "\nCASES = " in p.read_text())


def arguments():
    p = argparse.ArgumentParser(prog="run.sh", description="Compares this project with its peers on equal inputs.")
    p.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(topics())}; all of them by default")
    p.add_argument("--json", metavar="FILE", help="write the results there as well")
    p.add_argument("--threads", type=int, default=2, help="of each side (2)")
    p.add_argument("--only", metavar="TEXT", help="only the cases whose name has TEXT")
    p.add_argument("--peer", metavar="TEXT", help="only the peers whose name has TEXT")
    p.add_argument("--without", metavar="TEXT", action="append", default=[], help="no case or peer whose name has TEXT")
    p.add_argument("--setting", choices=["default", "tuned"], help="only this allocator setting of the peer")
    p.add_argument("--single", action="store_true", help="one run a repetition: the other side has just had the caches")
    p.add_argument("--isa", choices=["avx2"], help="the instruction set that both sides are held to")
    a = p.parse_args()
    if unknown := set(a.topics) - set(topics()):
        p.error(f"no topic {', '.join(sorted(unknown))}; there are {', '.join(topics())}")
    return a


def asked_for(case, args):
    """Whether the options leave this case in."""
    name, peer = case["name"], case["peer"]
    left_out = any(text in name or text in peer for text in args.without)
    return not left_out and (args.only or "") in name and (args.peer or "") in peer


def main():
    args = arguments()
    binary = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")) + "/release/fndm-compare"
    names = args.topics or topics()
    peer = [python(names), str(HERE / "peer_server.py")]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        env[name] = str(args.threads)
    if args.isa:
        env.update(AVX2)
    cpus = sorted(os.sched_getaffinity(0))[: args.threads] if hasattr(os, "sched_getaffinity") else []

    results, failed = [], 0

    def save():
        if args.json:
            new = pathlib.Path(args.json + ".new")
            new.write_text(json.dumps(results, indent=1) + "\n")
            new.replace(args.json)

    print(f"{args.threads} threads{', AVX2 on both sides' if args.isa else ''}; ratio = peer / ours\n")
    print("| topic | case | peer | allocator | ours, ms | peer, ms | ratio | spread | memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for topic in names:
        asking = Side(peer, env, cpus)
        try:
            cases = asking.ask(op="cases", topic=topic)["cases"]
        except Failure as e:
            print(f"{topic}: the peer isn't available: {e}", file=sys.stderr)
            failed += 1
            continue
        finally:
            asking.close()
        for case in cases:
            if not asked_for(case, args):
                continue
            for setting in case["settings"]:
                if args.setting and setting != args.setting:
                    continue
                peer_env = {**env, **(TUNED if setting == "tuned" else {})}
                try:
                    r = measure(case, topic, lambda: (Side([binary], env, cpus), Side(peer, peer_env, cpus)), args.single)
                except Failure as e:
                    print(f"{topic}, {case['name']}, {setting}: {e}", file=sys.stderr)
                    failed += 1
                    continue
                r = {"topic": topic, "case": case["name"], "peer": case["peer"], "setting": setting, **r}
                results.append(r)
                memory = f"{r['ours_mb']:.0f} / {r['peer_mb']:.0f}" if "ours_mb" in r else ""
                print(
                    f"| {topic} | {r['case']} | {r['peer']} | {setting} | {r['ours_ms']:.4g} | {r['peer_ms']:.4g} "
                    f"| {r['ratio']:.2f} | {r['ratio_min']:.2f} to {r['ratio_max']:.2f} | {memory} |",
                    flush=True,
                )
                save()
    save()
    if failed:
        print(f"{failed} without a result", file=sys.stderr)
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
