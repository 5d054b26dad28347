"""`%%bash` of the executed pages, run by the process of each page when it starts.

IPython's own passes on what a command says a hundred bytes at a time, which breaks lines; and goes on
after a command that failed, unless it is the last.
"""

import subprocess
import sys

from IPython import get_ipython


def bash(_: str, cell: str) -> None:
    """Run commands up to the first that fails, which then fails the cell."""
    command = ["bash", "-euo", "pipefail", "-c", cell]
    done = subprocess.run(command, capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    done.check_returncode()


get_ipython().register_magic_function(bash, "cell", "bash")
