"""Cells of shell commands: run to their first failure, and shown as they are typed."""

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

MAGIC = "%%bash\n"


class ShellCells(SphinxTransform):
    """Takes the line away that makes a cell one of shell commands."""

    default_priority: ClassVar[int] = 800

    def apply(self, **_: Any) -> None:
        for block in self.document.findall(nodes.literal_block):
            text = block.astext()
            if text.startswith(MAGIC):
                shown = text.removeprefix(MAGIC)
                block.rawsource = shown
                block.children = [nodes.Text(shown)]
                block["language"] = "bash"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(ShellCells)
    profile = Path(app.outdir).parent / "ipython"
    startup = profile / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("bash_magic.py"), startup)
    os.environ["IPYTHONDIR"] = str(profile)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
