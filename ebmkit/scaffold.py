"""The files of a new plugin's package, filled in from the templates beside this module."""

from __future__ import annotations

import ast
import datetime
import importlib.metadata
import importlib.resources
import importlib.util
import itertools
import json
import keyword
import re
import shutil
import sys
import unicodedata
from pathlib import Path
from string import Template

import attrs

from ebmkit.errors import UserError
from ebmkit.registry import GROUPS, normalised, registry
from ebmkit.versioning import PROTOCOL

SUMMARIES = {
    "sampler": "Random-walk Metropolis",
    "loss": "Conditional noise-contrastive estimation",
    "model": "A polynomial energy of degree four",
    "scheduler": "A schedule that decays by halves",
    "dataset": "A bent Gaussian in the plane, with its exact density",
    "hook": "A line at the end of each run on how fast it was",
}
"""The kinds that there are templates of, and what each one does."""
LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause", "none")
_DISTRIBUTION = re.compile(r"[A-Z0-9]([A-Z0-9._-]*[A-Z0-9])?", re.IGNORECASE | re.ASCII)


@attrs.frozen
class Scaffold:
    """A package that is to be written: what its author said of it, and the names that follow."""

    name: str
    """Of the distribution."""
    kind: str
    author: str = ""
    email: str = ""
    licence: str = "MIT"
    description: str = ""

    @property
    def package(self) -> str:
        """What is imported."""
        return normalised(self.name).replace("-", "_")

    @property
    def component(self) -> str:
        """What the part is called in pipelines: the distribution's name without ``ebmkit-``."""
        return normalised(self._stem)

    @property
    def class_name(self) -> str:
        """The name in capitals, with the kind where it alone would be none, or one in use there."""
        words = re.split(r"[-_.]+", self._stem)
        name = "".join(word[0].upper() + word[1:] for word in words)
        if not name.isidentifier():
            return self.kind.capitalize() + name
        if keyword.iskeyword(name) or name in self._names():
            return name + self.kind.capitalize()
        return name

    @property
    def _stem(self) -> str:
        return re.sub(r"^ebmkit[-_.]+", "", self.name, flags=re.IGNORECASE)

    def _names(self) -> set[str]:
        """The names that the template of the part has a use for."""
        text = Template(_read(self.kind, "component.py.tmpl")).substitute(class_name="_")
        nodes = [*ast.walk(ast.parse(text))]
        return (
            {node.id for node in nodes if isinstance(node, ast.Name)}
            | {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.alias)}
            | {node.asname for node in nodes if isinstance(node, ast.alias) and node.asname}
        )

    def check(self) -> None:
        """Raise UserError where a package cannot have such a name or such an author."""
        _check_form(self.name)
        _check_import(self.name, self.package)
        self._check_taken()
        for option, text in (("author", self.author), ("description", self.description)):
            if not text.isprintable():
                raise UserError(f"--{option}: expected one line of text, got {text!r}")
        if self.email and not re.fullmatch(r"[^@\s\"<>]+@[^@\s\"<>]+", self.email):
            raise UserError(f"--email: expected an address as name@example.org, got {self.email!r}")

    def _check_taken(self) -> None:
        try:
            version = importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            pass
        else:
            raise UserError(
                f"a distribution {self.name!r} ({version}) is installed already; choose another name"
            )
        owners = {c.name: c for c in registry().of_kind(self.kind)}
        if owner := owners.get(self.component):
            others = (f"{self.name}-{end}" for end in itertools.chain([self.kind], _numbers()))
            free = next(o for o in others if attrs.evolve(self, name=o).component not in owners)
            raise UserError(
                f"{self.kind} {self.component!r} is offered by {owner.distribution} "
                f"{owner.version} already, and pipelines that name it would have to say whose; "
                f"choose another name, as {free!r}"
            )
        # The folder of a checkout below the present one is no module that a name would hide.
        found = importlib.util.find_spec(self.package)
        if found is not None and found.origin is not None:
            raise UserError(
                f"{self.name!r} would be imported as {self.package!r}, and there is a module of that "
                f"name already: {found.origin}; choose another name"
            )

    def files(self) -> dict[str, str]:
        """The text of each file, by its path in the package's folder."""
        said = self.description or f"{SUMMARIES[self.kind]}, for ebmkit."
        people = {"name": self.author, "email": self.email}
        person = ", ".join(f"{key} = {_quoted(v)}" for key, v in people.items() if v)
        project, licence = [], "No licence is stated, so that nobody else may use it yet."
        if self.licence != "none":
            project = [f'license = "{self.licence}"', 'license-files = ["LICENSE"]']
            licence = f"Licence: {self.licence}, see `LICENSE`."
        if person:
            project.append(f"authors = [{{ {person} }}]")
        values = {
            "name": self.name,
            "kind": self.kind,
            "group": GROUPS[self.kind],
            "component": self.component,
            "package": self.package,
            "class_name": self.class_name,
            "description": said,
            "quoted_description": _quoted(said),
            "project": "".join(f"\n{line}" for line in project),
            "licence": licence,
            "protocol": PROTOCOL,
            "holder": self.author or f"The authors of {self.name}",
            "year": str(datetime.datetime.now(datetime.UTC).year),
        }

        def filled(*where: str) -> str:
            return Template(_read(*where)).substitute(values)

        values["pipeline"] = filled(self.kind, "pipeline.toml.tmpl").rstrip()
        written = {
            "pyproject.toml": filled("common", "pyproject.toml.tmpl"),
            "README.md": filled("common", "README.md.tmpl"),
            "CHANGELOG.md": filled("common", "CHANGELOG.md.tmpl"),
            ".gitignore": filled("common", "gitignore.tmpl"),
            ".github/workflows/tests.yml": filled("common", "tests.yml.tmpl"),
            "pipeline.toml": values["pipeline"] + "\n",
            f"src/{self.package}/__init__.py": filled(self.kind, "component.py.tmpl"),
            f"src/{self.package}/py.typed": "",
            f"tests/test_{self.package}.py": filled("common", "test.py.tmpl"),
        }
        if self.licence != "none":
            written["LICENSE"] = filled("licences", f"{self.licence}.txt")
        return written

    def write(self, directory: Path) -> dict[str, str]:
        """Write the package into a folder that is not there yet; its files.

        Raises:
            UserError: the name will not do, the folder is there, or it cannot be written.
        """
        self.check()
        files = self.files()
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            raise UserError(
                f"{directory} is there already, and nothing is overwritten; move it away, or choose "
                "another place with --directory"
            ) from None
        except OSError as error:
            raise UserError(f"{directory} cannot be made: {error.strerror}") from error
        try:
            for name, text in files.items():
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise UserError(f"{directory} cannot be written: {error.strerror}") from error
        return files


def _read(*where: str) -> str:
    home = importlib.resources.files("ebmkit").joinpath("templates", *where)
    return home.read_text(encoding="utf-8")


def _quoted(text: str) -> str:
    """As a string of TOML, which takes JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


def _numbers() -> itertools.count[int]:
    return itertools.count(2)


def _check_form(name: str) -> None:
    if _DISTRIBUTION.fullmatch(name):
        return
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    mended = re.sub(r"[^a-z0-9._-]+", "-", plain.lower()).strip("-_.")
    hint = f"; did you mean {mended!r}?" if mended else ""
    raise UserError(
        f"{name!r} is no name of a distribution, which is letters, digits, and between them -, _ "
        f"and .{hint}"
    )


def _check_import(name: str, package: str) -> None:
    if not package.isidentifier():
        reason = "is none that Python imports"
    elif keyword.iskeyword(package):
        reason = "is a word of Python's own"
    elif package in sys.stdlib_module_names:
        reason = "is a module of Python's own"
    else:
        return
    raise UserError(
        f"{name!r} would be imported as {package!r}, which {reason}; did you mean {f'ebmkit-{name}'!r}?"
    )
