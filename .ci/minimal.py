"""Do the lowest versions of the dependencies that Cargo.toml allows do? A copy of the library, without what tests
and benches alone need, is resolved to them and checked."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder)
    shutil.copytree("src", copy / "src")
    shutil.copy("README.md", copy)
    sections = re.split(r"(?m)^(?=\[)", pathlib.Path("Cargo.toml").read_text())
    left_out = ("[dev-dependencies", "[[bench]]", "[[test]]", "[[example]]")
    manifest = "".join(s for s in sections if not s.startswith(left_out))
    # Redis' client asks for a newer tokio than whoever goes without it needs.
    manifest = re.sub(r"(?m)^redis = .*\n", "", manifest)
    (copy / "Cargo.toml").write_text(manifest)
    # The resolver's option is an unstable one; the versions that it chose are checked as ever.
    resolve = ["cargo", "-Zdirect-minimal-versions", "generate-lockfile"]
    subprocess.run(resolve, cwd=copy, check=True, env=os.environ | {"RUSTC_BOOTSTRAP": "1"})
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")).absolute() / "minimal"
    for features in ("default,testing,test-util,reqwest-middleware,tower", "http,ring", ""):
        check = ["cargo", "check", "--locked", "--lib", "--target-dir", str(target), "--no-default-features"]
        check += ["--features", features]
        subprocess.run(check, cwd=copy, check=True)
