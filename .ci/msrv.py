"""Is the rust-version in Cargo.toml true?

Built with that very toolchain where rustup has it. Where it has not, this checks what can be checked:
that no dependency of the library or the command asks for a newer one. (That our own code uses nothing
newer is clippy's incompatible_msrv, which is on in every run of it.)
"""
import json
import subprocess
import sys


def version(text):
    return tuple(int(part) for part in (text + ".0").split(".")[:3])


metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version=1", "--all-features"]))
packages = {package["id"]: package for package in metadata["packages"]}
ours = packages[metadata["resolve"]["root"]]
declared = ours["rust_version"]

toolchains = subprocess.run(["rustup", "toolchain", "list"], capture_output=True, text=True).stdout
if any(line.startswith(declared) for line in toolchains.splitlines()):
    sys.exit(subprocess.call(["cargo", f"+{declared}", "check", "--all-features", "--all-targets"]))

nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
reached, todo = set(), [ours["id"]]
while todo:
    name = todo.pop()
    if name not in reached:
        reached.add(name)
        todo += [dep["pkg"] for dep in nodes[name]["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
newer = [
    f"{packages[name]['name']} {packages[name]['version']} asks for {packages[name]['rust_version']}"
    for name in reached
    if version(packages[name]["rust_version"] or "0") > version(declared)
]
if newer:
    sys.exit(f"rust-version {declared} is not true:\n  " + "\n  ".join(newer))
print(f"no toolchain {declared} here; none of {len(reached)} packages asks for a newer one")
