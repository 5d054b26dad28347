"""Shows an executed cell of shell commands as they are typed, without the line that makes it one."""

from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

MAGIC = "%%bash\n"


class ShellCells(SphinxTransform):
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
    return {"parallel_read_safe": True, "parallel_write_safe": True}
