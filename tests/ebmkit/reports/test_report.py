"""A run's page says what its directory says, whatever state that is in, and needs nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebmkit import Picture, Section
from ebmkit.reports.section import SIGNATURE

PLAIN = ("--no-plugin", "ebmkit-core:pictures")
"""Without the curves, which take longer to draw than all the rest."""
SCRIPT = "<script>alert(1)</script>"


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = (b"\0" + b"\x40\x80\xc0" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURE + b"".join(chunk(kind, data) for kind, data in chunks)


@pytest.fixture
def run(trained: tuple[Path, Any], tmp_path: Path) -> Path:
    """A run that has ended well, to be damaged."""
    place = tmp_path / "moon"
    shutil.copytree(trained[0], place)
    return place


def alter(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, **changes}), encoding="utf-8")


def test_it_says_what_the_files_say(run: Path, page: Any, cli: Callable[..., Any]) -> None:
    assert cli("diagnose", run, "--steps", 40, "--warm-up", 10, "--chains", 4).code == 0
    found = page(run)
    judged = json.loads((run / "evaluation.json").read_text())
    diagnosed = json.loads((run / "diagnosis.json").read_text())
    assert found.of("h1") == ["moon"]
    assert found.of("span") == ["finished", f"chains: {diagnosed['verdict']}"]
    assert "Finished after step 12 of 12." in found.of("p")
    cells = found.of("td")
    for name, value in judged.items():
        if isinstance(value, float) and name not in ("kl_error", "log_likelihood_error"):
            place = cells.index(name)
            assert cells[place + 1].startswith(f"{value:.6g}"), name
    assert cells[cells.index("kl_nats") + 1].endswith(f"± {judged['kl_error']:.2g}")
    place = cells.index("r_hat")
    expected = [f"{diagnosed['r_hat'][of]:.6g}" for of in ("worst", "median", "energy")]
    assert cells[place + 1 : place + 4] == expected
    assert any(diagnosed["reason"] in text for text in found.of("p"))
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    place = cells.index("loss")
    numbers = (losses[0], losses[-1], min(losses), max(losses))
    assert cells[place + 1 : place + 5] == [f"{n:.6g}" for n in numbers]
    place = cells.index("eight-gaussians")
    assert cells[place - 1 : place + 3] == ["dataset", "eight-gaussians", "ebmkit-core", "1.0.0"]
    for checkpoint in (run / "checkpoints").glob("*.safetensors"):
        assert checkpoint.name in cells
    written = " ".join((run / "spec.toml").read_text(encoding="utf-8").split())
    assert found.of("pre") == [written]
    assert not found.of("li")


@pytest.fixture(scope="module")
def written(
    trained: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory, page: Any
) -> tuple[Path, Any]:
    """A run, and its page with all that is drawn."""
    place = tmp_path_factory.mktemp("curves") / "moon"
    shutil.copytree(trained[0], place)
    return place, page(place, curves=True)


class TestCurves:
    def test_pictures_are_those_of_the_run(self, written: tuple[Path, Any]) -> None:
        run, found = written
        shown = [drawn for kind, drawn in found.images if kind == "png"]
        assert shown == [(run / name).read_bytes() for name in ("energy.png", "samples.png")]
        # Each metric's curve, on a dark page and on a light one, stands for training.png.
        metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        names = [name for name in metrics if name not in ("step", "seconds")]
        assert found.of("figcaption") == [*names, "energy.png", "samples.png"]
        assert len([kind for kind, _ in found.images if kind == "svg+xml"]) == 2 * len(names)
        assert found.alts[0].startswith("loss: ")

    def test_the_page_is_the_same_for_the_same_files(
        self, written: tuple[Path, Any], page: Any
    ) -> None:
        run, _ = written
        texts = [(run / "report.html").read_text(encoding="utf-8")]
        page(run, curves=True)
        texts.append((run / "report.html").read_text(encoding="utf-8"))
        first, second = (re.sub(r"<time>[\d-]{10}</time>", "", text) for text in texts)
        assert first == second

    def test_in_a_browser(self, written: tuple[Path, Any], tmp_path: Path) -> None:
        """Where there is a browser: it says nothing against the page, fetches nothing, and shows all
        pictures; everywhere: what the strict reading says."""
        run, found = written
        assert len(found.images) > 10
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        browser = next(filter(None, map(shutil.which, names)), None)
        if browser is None:
            return
        probe = tmp_path / "probe.html"
        # The page's own policy forbids scripts, so it is asked with the policy taken out.
        text = (run / "report.html").read_text(encoding="utf-8")
        script = (
            "<script>addEventListener('load', () => { document.title = JSON.stringify({"
            "images: [...document.images].map(i => i.complete && i.naturalWidth > 0),"
            "wide: document.documentElement.scrollWidth > innerWidth,"
            "fetched: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
            ".map(e => e.name)}) })</script></body>"
        )
        probe.write_text(
            re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace(
                "</body>", script
            ),
            encoding="utf-8",
        )
        logs = {}
        for target in (run / "report.html", probe):
            flags = (
                *(
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                ),
                *(
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                ),
                *(f"--user-data-dir={tmp_path / target.stem}", "--enable-logging=stderr"),
            )
            done = subprocess.run(
                [browser, *flags, "--window-size=500,900", "--dump-dom", target.as_uri()],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            assert "CONSOLE" not in done.stderr, done.stderr
            logs[target.stem] = done.stdout
        assert "<h1>moon</h1>" in logs["report"]
        told = re.search(r"<title>(.*?)</title>", logs["probe"])
        assert told
        seen = json.loads(told[1].replace("&quot;", '"'))
        assert seen["images"] and all(seen["images"])
        assert (seen["wide"], seen["fetched"]) == (False, [])


def test_where_it_goes(run: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "mail.html"
    assert cli("report", run, "--out", out, *PLAIN).out.strip() == str(out)
    assert out.is_file() and not (run / "report.html").exists()
    said = cli("report", run, "--out", tmp_path / "mail.txt")
    assert said.code == 2 and "must end in .html" in said.err
    said = cli("report", run, "--out", tmp_path / "none" / "mail.html", *PLAIN)
    assert said.code == 2 and "cannot be written" in said.err
    assert not list(tmp_path.glob(".*partial"))
    said = cli("report", tmp_path / "none")
    assert said.code == 2 and "holds no run" in said.err


class TestOfRunsThatDied:
    def test_one_that_was_killed(self, run: Path, page: Any) -> None:
        alter(run / "status.json", status="running", step=0)
        for name in ("evaluation.json", "samples.png", "energy.png", "training.png"):
            (run / name).unlink()
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "loss": 0.')
        found = page(run)
        assert found.of("span") == ["running"]
        assert (
            "It has not ended: it is running still, or was killed. Its last record is of step 12, "
            "its last checkpoint of step 12." in found.of("p")
        )
        assert found.of("li") == [
            "metrics.jsonl has lines that cannot be read and are left out: 1.",
            "There is no evaluation.json: the run was not evaluated.",
        ]
        assert "Evaluation" not in found.of("h2")

    def test_one_of_which_the_spec_alone_is_left(self, run: Path, page: Any) -> None:
        for path in run.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "spec.toml":
                path.unlink()
        found = page(run)
        assert "How it ended is not known." in found.of("p")
        assert found.of("li") == [
            "There are no metrics (metrics.jsonl).",
            "There is no status.json: how the run ended is not known.",
            "There is no evaluation.json: the run was not evaluated.",
        ]

    @pytest.mark.parametrize(
        ("word", "reason", "said"),
        [
            ("diverged", "the loss is nan", "Diverged after step 12 of 12: the loss is nan."),
            ("interrupted", "", "Interrupted after step 12 of 12."),
            ("failed", "OSError: full.", "Failed after step 12 of 12: OSError: full."),
        ],
    )
    def test_how_it_ended(self, word: str, reason: str, said: str, run: Path, page: Any) -> None:
        alter(run / "status.json", status=word, reason=reason)
        assert said in page(run).of("p")

    @pytest.mark.parametrize("name", ["status.json", "evaluation.json", "diagnosis.json"])
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b'{"step": 1',
            b"[1, 2]",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"step": 1' + b"0" * 5000 + b"}",
        ],
        ids=["empty", "torn", "list", "bytes", "deep", "digits"],
    )
    def test_files_that_are_torn(self, name: str, content: bytes, run: Path, page: Any) -> None:
        (run / name).write_bytes(content)
        assert [line for line in page(run).of("li") if line.startswith(f"{name} cannot be read: ")]

    def test_a_spec_that_is_torn_is_shown_as_it_is(self, run: Path, page: Any) -> None:
        (run / "spec.toml").write_bytes(b'[model]\nuse = "ml\xff')
        found = page(run)
        assert found.of("pre") == ['[model] use = "ml�']
        assert any("not valid TOML" in line for line in found.of("li"))

    def test_pictures_that_are_torn(self, run: Path, page: Any) -> None:
        whole = (run / "samples.png").read_bytes()
        altered = whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]
        for name, content in (("torn", whole[:-5]), ("altered", altered), ("text", b"no picture")):
            (run / f"{name}.png").write_bytes(content)
        found = page(run)
        for name in ("altered", "text", "torn"):
            assert f"{name}.png is no whole PNG image of the directory's own." in found.of("li")
        assert len(found.images) == 3


class TestOfStrangersRuns:
    def test_what_files_say_is_never_markup(self, run: Path, page: Any) -> None:
        place = run.with_name(SCRIPT.replace("/", "'"))
        run.rename(place)
        evil = f"{SCRIPT}\"'&amp;]]>--><!--\x00\x1b\ud800"
        alter(place / "status.json", status=evil, reason=evil, **{evil: evil, "notices": [evil]})
        alter(place / "evaluation.json", refused={evil: evil}, **{evil: 1.5, "auroc": evil})
        alter(place / "evaluation.json", step=evil)
        (place / "diagnosis.json").write_text(
            json.dumps({"verdict": evil, "reason": evil, "notes": [evil], evil: {evil: evil}})
        )
        records = [{"step": n, evil: 0.1 * n, "loss": n} for n in (1, 2, 3)]
        lines = [json.dumps(record) for record in records]
        (place / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (place / "spec.toml").write_text(f"[parts]\n'model:{SCRIPT}' = '{SCRIPT}'\n")
        (place / f"{SCRIPT.replace('/', '')}.png").write_bytes(png())
        found = page(place, curves=True)
        assert found.of("h1") == [SCRIPT.replace("/", "'")]
        shown = f"{SCRIPT}\"'&amp;]]>--><!--���"
        assert shown in found.of("span") and f"chains: {shown}" in found.of("span")
        assert f"No {shown}: {shown}." in found.of("li")
        assert shown in found.of("figcaption")

    @pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "extra.png"])
    def test_links_out_of_the_directory_are_refused(
        self, name: str, run: Path, cli: Callable[..., Any], tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text('{"status": "finished", "step": 1, "key": "hush"}')
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "secret")
        said = cli("report", run, *PLAIN)
        assert said.code == 2 and f"{name}: is a link to" in said.err
        assert not (run / "report.html").exists()

    def test_links_within_it_are_not_followed(self, run: Path, page: Any) -> None:
        """What a name says is what its file is."""
        for name in ("evaluation.json", "metrics.jsonl"):
            (run / name).unlink()
            (run / name).symlink_to(run / "status.json")
        (run / "extra.png").symlink_to(run / "samples.png")
        found = page(run)
        assert found.of("li") == [
            "There are no metrics (metrics.jsonl).",
            "evaluation.json cannot be read: it is too large, or no file of the directory's own.",
            "extra.png is no whole PNG image of the directory's own.",
        ]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
    def test_nothing_is_waited_for(self, run: Path, page: Any) -> None:
        for name in ("status.json", "metrics.jsonl", "extra.png"):
            (run / name).unlink(missing_ok=True)
            os.mkfifo(run / name)
        assert "How it ended is not known." in page(run).of("p")

    def test_what_is_too_large_is_left_out(
        self, run: Path, page: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ebmkit.reports import reading

        monkeypatch.setattr(reading, "LARGEST_JSON", 50)
        monkeypatch.setattr(reading, "LARGEST_PICTURE", 50)
        monkeypatch.setattr(reading, "MOST_RECORDS", 2)
        monkeypatch.setattr(reading, "LARGEST_LINE", 600)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 13, "loss": 1.0, "words": "x" * 1500}) + "\n")
        found = page(run)
        assert not [kind for kind, _ in found.images if kind == "png"]
        said = found.of("li")
        assert "metrics.jsonl has lines that cannot be read and are left out: 1." in said
        assert "Of the metrics one record in 2 is used." in said
        assert (
            "status.json cannot be read: it is too large, or no file of the directory's own."
            in said
        )

    def test_odd_numbers(self, run: Path, page: Any) -> None:
        odd = [
            *('{"step": 1, "loss": NaN, "a": 1e400}', '{"step": 2, "loss": Infinity, "a": true}'),
            *('{"step": 3, "loss": 1e308, "b": null}', '{"step": 4, "loss": -1e308, "c": "x"}'),
            *('{"step": 5, "loss": 1' + "0" * 400 + "}", '{"step": "6", "loss": 1}', "7", "{}"),
            *('{"step": -1, "loss": 1}', '{"step": 1' + "0" * 30 + "}", '{"step": 8.5}'),
        ]
        (run / "metrics.jsonl").write_text("\n".join(odd) + "\n")
        found = page(run)
        cells = found.of("td")
        place = cells.index("loss")
        assert cells[place + 1 : place + 5] == ["nan", "-1e+308", "-1e+308", "1e+308"]
        assert "metrics.jsonl has lines that cannot be read and are left out: 6." in found.of("li")

    def test_what_the_status_says_beside_is_shown(self, run: Path, page: Any) -> None:
        alter(
            run / "status.json", rollbacks=3, ranks=[0, 1], nested={"lr": 0.5}, notices=["careful"]
        )
        found = page(run)
        cells = found.of("td")
        assert cells[cells.index("rollbacks") + 1] == "3"
        assert cells[cells.index("ranks") + 1] == "0, 1"
        assert cells[cells.index("nested") + 1] == "lr: 0.5"
        assert found.of("li") == ["careful"]


ADDING = """
from ebmkit import Picture, Section, hookimpl


class Adding:
    @hookimpl
    def report_sections(self, directory, records):
        table = {"columns": ["step"], "rows": [[str(r["step"])] for r in records]}
        picture = Picture("a dot", (directory / "dot.png").read_bytes())
        return [Section("Mine & more", "One.\\n\\nTwo.", pictures=[picture], **table)]


class Failing:
    @hookimpl
    def report_sections(self):
        raise ZeroDivisionError("no luck")


class Lying:
    @hookimpl
    def report_sections(self):
        return ["<b>bold</b>"]
"""


class TestSections:
    def test_those_of_a_plugin(self, run: Path, page: Any, install: Any) -> None:
        install("foo-a", {"ebmkit.hooks": {"adding": "foo_a:Adding"}}, {"foo_a.py": ADDING})
        (run / "dot.png").write_bytes(png())
        found = page(run)
        assert "Mine & more" in found.of("h2")
        assert [text for text in found.of("p") if text in ("One.", "Two.")] == ["One.", "Two."]
        assert found.alts.count("a dot") == 1

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("Failing", "hook report_sections of foo-a:x raised ZeroDivisionError: no luck"),
            ("Lying", "hook report_sections of foo-a:x: expected sections, got ['<b>bold</b>']"),
        ],
    )
    def test_one_that_fails_does_not_cost_the_page(
        self, name: str, said: str, run: Path, cli: Any, page: Any, install: Any
    ) -> None:
        install("foo-a", {"ebmkit.hooks": {"x": f"foo_a:{name}"}}, {"foo_a.py": ADDING})
        found = page(run)
        assert any(line.startswith(f"A section is left out: {said}") for line in found.of("li"))
        assert said in cli("report", run, *PLAIN).err
        assert "Metrics in numbers" in found.of("h2")

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda: Section(3),  # type: ignore[arg-type]
            lambda: Section("a", columns=["x"], rows=[["1", "2"]]),
            lambda: Section("a", columns=["x"], rows=[[1]]),  # type: ignore[list-item]
            lambda: Section("a", pictures=["b"]),  # type: ignore[list-item]
            lambda: Picture("a", "text"),  # type: ignore[arg-type]
            lambda: Picture("a", b"", kind="gif"),  # type: ignore[arg-type]
        ],
    )
    def test_what_is_none_is_refused_where_it_is_made(self, wrong: Callable[[], Any]) -> None:
        with pytest.raises((TypeError, ValueError)):
            wrong()
