"""Build the wheel, install it alone in a fresh environment, and train from outside of the checkout.

Not collected by pytest: `tox -e wheel` runs it, for it installs torch anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path


def main(checkout: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work, checkout)
    [wheel] = work.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    expected = {"ebmkit", *(p.name for p in (checkout / "plugins").glob("ebmkit_*"))}
    found = {top for top in tops if not top.endswith(".dist-info")}
    assert found == expected, f"the wheel holds {found}, expected {expected}"
    names = zipfile.ZipFile(wheel).namelist()
    assert "ebmkit/py.typed" in names
    assert "ebmkit_recipes/two_moons.toml" in names
    assert "ebmkit/reports/page.html" in names

    venv.create(work / "env", with_pip=True)
    scripts = work / "env" / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "-q", "-c", checkout / "constraints.txt", wheel)
    elsewhere = work / "elsewhere"
    elsewhere.mkdir()
    quick = ["--set", "training.steps=40", "--set", "evaluation.chain_steps=20"]
    run(scripts / "ebmkit", "train", "two-moons", "--out", "run", *quick, cwd=elsewhere)
    left = {path.name for path in (elsewhere / "run").iterdir()}
    wanted = {
        ".lock",
        "spec.toml",
        "metrics.jsonl",
        "checkpoints",
        "evaluation.json",
        "status.json",
    }
    wanted |= {"samples.png", "energy.png", "training.png"}
    assert left == wanted, f"the run left {left}, expected {wanted}"
    assert json.loads((elsewhere / "run" / "evaluation.json").read_text())["kl_nats"] > 0
    run(scripts / "ebmkit", "report", "run", cwd=elsewhere)
    assert "<h1>run</h1>" in (elsewhere / "run" / "report.html").read_text(encoding="utf-8")
    run(scripts / "ebmkit", "doctor", cwd=elsewhere)
    print(f"{wheel.name}: installed alone, trained, healthy")  # noqa: T201


def run(*command: str | Path, cwd: Path | None = None) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, env=environment)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve() / "wheel")
