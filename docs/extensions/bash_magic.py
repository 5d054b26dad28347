"""`%%bash` of the executed pages, run by the process of each page when it starts.

IPython's own passes on what a command says a hundred bytes at a time, which breaks lines; shows errors,
and progress with them, behind all else; and goes on after a command that failed, but for the last.
"""

import subprocess
import sys

from IPython import get_ipython


def bash(_: str, cell: str) -> None:
    """Run commands up to the first that fails, which then fails the cell."""
    command = ["bash", "-euo", "pipefail", "-c", cell]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    sys.stdout.write(done.stdout)
    done.check_returncode()


get_ipython().register_magic_function(bash, "cell", "bash")
