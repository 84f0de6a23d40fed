"""How many instructions is a call on a session with a fresh token, and is it the same with the features that stand
beside it? The machine's mood does not matter to valgrind, so the bounds can be tight. A compiler may move them a
little: then measure, and write the new figure here with the change that brings it."""
import json
import re
import shutil
import subprocess
import sys

# 102, 101 and 138 with Rust 1.95, and a tenth more. (The kernel's part of reading the clock is not counted.)
BOUNDS = {"get_token": 112, "try_token": 111, "header_value": 152}
CALLS = 10_000
# In several units, what is inlined would depend on what else is in the crate.
PROFILE = "profile.bench.package.ccg-session.codegen-units=1"
BESIDE = ["metrics", "pool"]

if not shutil.which("valgrind"):
    print("SKIPPED: instructions per call are not checked, since valgrind is not here")
    sys.exit(0)


def built(features):
    build = ["cargo", "bench", "--config", PROFILE, "--bench", "instructions", "--no-run"]
    build += ["--message-format=json-render-diagnostics", "--features", ",".join(features)]
    messages = map(json.loads, subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines())
    return next(m["executable"] for m in messages if m.get("target", {}).get("name") == "instructions" and m.get("executable"))


def instructions(program, call, count):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, call, str(count)]
    told = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    return int(re.search(r"Collected : (\d+)", told).group(1))


def each(program, call):
    # The difference is what the calls cost without what comes before and after them.
    return (instructions(program, call, 2 * CALLS) - instructions(program, call, CALLS)) / CALLS


failed = False
alone, beside = built([]), built(BESIDE)
figures = {}
for call, bound in BOUNDS.items():
    mine, theirs = each(alone, call), each(beside, call)
    figures[call] = mine
    print(f"{call}: {mine:.1f} instructions, at most {bound}; {theirs:.1f} with {' and '.join(BESIDE)}")
    failed |= mine > bound or abs(theirs - mine) >= 1
# A future costs no more than that where there is nothing to wait for.
failed |= figures["get_token"] > 1.1 * figures["try_token"]
sys.exit("more instructions per call than the bound, or not the same with features that it does not use" if failed else 0)
