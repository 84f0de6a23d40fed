"""Runs the demos for a few seconds. They check their own figures; this checks that they are there."""
import contextlib
import json
import shutil
import socket
import subprocess
import sys

command = sys.argv[1] if len(sys.argv) > 1 else "target/release/ccg-session"
day = {"refused": 0, "grants_in_flight_max": 1, "errors_stale_outage": 0, "errors_other": 0}
fleet = {"errors": 0, "grants_at_cold_start": 1, "grants_of_restarted": 0}
# The machine may be busy in one of them: a promise that is broken is broken each time.
RUNS = 3


def problem(more, expected):
    run = subprocess.run([command, "demo", "--seconds", "8", "--json", *more], stdout=subprocess.PIPE, text=True)
    print(run.stdout, flush=True)
    if run.returncode != 0:
        return f"the demo's exit code is {run.returncode}"
    figures = json.loads(run.stdout)
    wrong = [f"{figure} is {figures[figure]}, not {wanted}" for figure, wanted in expected.items() if figures[figure] != wanted]
    return "; ".join(wrong)


@contextlib.contextmanager
def redis():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        next(line for line in process.stdout if "Ready to accept connections" in line)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()


def check(more, expected):
    for _ in range(RUNS):
        found = problem(more, expected)
        if not found:
            return
        print(found, flush=True)
    sys.exit(found)


check([], day)
check(["--replicas", "8"], fleet)
if shutil.which("redis-server"):
    with redis() as address:
        check(["--replicas", "4", "--redis", address], fleet)
