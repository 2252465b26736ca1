"""One table out of the lines that gpu_check and peer.py wrote: python3 benches/gpu-check/table.py FILE..."""

import json
import sys

rows = [json.loads(line) for path in sys.argv[1:] for line in open(path)]
checks = [r for r in rows if "check" in r]
failed = [r for r in checks if not r["ok"]]
print(f"{len(checks)} checks, {len(failed)} failed")
for r in failed:
    print(f"FAILED {r['check']}: {r['error']} (bound {r['bound']})")

times = {}
for r in rows:
    if "case" in r:
        times.setdefault((r["case"], r["setting"]), {})[r["side"]] = r
if times:
    print("\n| | | ours, ms | eager, ms | torch.compile, ms | eager / ours | torch.compile / ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")


def cell(row):
    return f"{row['ms']:.1f} ({row['min']:.1f} to {row['max']:.1f})" if row else "-"


def ratio(peer, ours):
    return f"{peer['ms'] / ours['ms']:.2f}" if peer and ours else "-"


for (case, setting), sides in times.items():
    ours, eager, compiled = (sides.get(s) for s in ("ours", "eager", "torch.compile"))
    cells = [case, setting, cell(ours), cell(eager), cell(compiled), ratio(eager, ours), ratio(compiled, ours)]
    print("| " + " | ".join(cells) + " |")
sys.exit(1 if failed else 0)
