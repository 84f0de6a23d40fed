"""How many instructions is a call on a session with a fresh token? The machine's mood does not matter to
valgrind, so the bounds can be tight. A compiler may move them a little: then measure, and write the new
figure here with the change that brings it."""
import json
import re
import shutil
import subprocess
import sys

# 108, 101 and 145 with Rust 1.95, and a tenth more. (The kernel's part of reading the clock is not counted.)
BOUNDS = {"get_token": 119, "try_token": 111, "header_value": 160}
CALLS = 10_000

if not shutil.which("valgrind"):
    print("SKIPPED: instructions per call are not checked, since valgrind is not here")
    sys.exit(0)

build = ["cargo", "bench", "--bench", "instructions", "--no-run", "--message-format=json-render-diagnostics"]
messages = map(json.loads, subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines())
program = next(m["executable"] for m in messages if m.get("target", {}).get("name") == "instructions" and m.get("executable"))


def instructions(call, count):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, call, str(count)]
    told = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    return int(re.search(r"Collected : (\d+)", told).group(1))


failed = False
for call, bound in BOUNDS.items():
    # The difference is what the calls cost without what comes before and after them.
    each = (instructions(call, 2 * CALLS) - instructions(call, CALLS)) / CALLS
    print(f"{call}: {each:.1f} instructions, at most {bound}")
    failed |= each > bound
sys.exit("more instructions per call than the bound" if failed else 0)
