"""The page holds every number, escapes what it shows, loads nothing, and stands when stages are missing."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adapt.display import Display
from adapt.report import build, summary
from tests.report.sample import EVALUATE, STAGES, TRAIN, train_log, write_run, write_stage

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs") / "lang"


@pytest.fixture(scope="module")
def stages(run) -> dict[str, Path]:
    return write_run(run)


@pytest.fixture(scope="module")
def page(run, stages) -> str:
    path = build(run, "lang & <co>", stages, "Teach a model <Ukrainian>.")
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


class Visible(HTMLParser):
    """The text of the page, without styles and without what only a click shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self._hidden = 0

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._hidden += tag in ("style", "details")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "details")

    def handle_data(self, data):
        if not self._hidden:
            self.parts.append(data)


def visible(page: str) -> str:
    parser = Visible()
    parser.feed(page)
    return " ".join(" ".join(parser.parts).split())


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_every_number_is_in_the_page(page):
    text = html.unescape(page)
    for name, (_, metrics) in STAGES.items():
        for number in numbers(metrics):
            assert str(number) in text, (name, number)


@pytest.mark.parametrize(
    "shown",
    [
        "fertility 5.317 2.119 -60.1%",
        "bytes per token 1.693 4.257 +151.4%",
        "target 3.271 3.618 +10.6%",
        "Trained on 2,000,384 tokens in 977 steps and 2 min 22 s, 14,137 tokens per second",
        "1.713 bits per byte before, 1.742 after (+1.7%). The stability gap was 0.116 bits per byte deep at step 195",
        "parameters 345,678 share 12.3% blocks share 5.67%",
        "target 3.271 1.937 -40.8%",
        "original 0.0437 0.9551 dequantised 0.0011 0.9911 written",
        "target 4,321 1,600,111 3.456 1.23% 98.8% 1.27",
        "The model is cpt + 1.0 * (instruct - base)",
        "Its chat tokens and chat template are those of 'instruct'.",
        "Warning: 'cpt' moved 1 special rows, '<|user|>' by 0.52 of its norm; they are taken from 'instruct'.",
        "cpt - base 0.1342",
        "cpt - base | instruct - base +0.0273 48.8%",
        "q_proj 0.1417 0.0531 +0.0219",
        "special and chat tokens, copied whole 6",
        "tokens of this model that the vocabulary lacks instruct 2",
        "cpt lm_head.weight <|user|> 0.5172",
        "cpt lm_head.weight Ġ45 0.2131",
        "chat 91.0% (86.9 to 94.7) 58.0% (53.9 to 61.7) 1.995 (1.954 to 2.032)",
        "chat base ukrainian 11 81 8 +49.0 (+46.0 to +53.0) points",
        "chat 1.713 1.799 +0.0860 (+0.0511 to +0.1213) +5.02%",
        "✗ three hundred ✗ Питання: 345 ✓ триста сорок п'ять",
    ],
)
def test_what_a_reader_sees(page, shown):
    assert shown in visible(page)


def test_text_is_escaped(page):
    assert "<script" not in page
    text = visible(page)
    assert "сорок п'ять<script>alert(1)</script>" in text
    assert "Як записати число 345 словами? <b>&" in text
    assert "lang & <co> Teach a model <Ukrainian>. 4 of 4 stages finished" in text


def test_nothing_is_loaded_from_anywhere(page):
    parser = Visible()
    parser.feed(page)
    links = [values.get(key) for _, values in parser.tags for key in ("src", "href", "srcset", "data") if key in values]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"url\(|@import|<link|<iframe|<object", page)


def test_plots_are_files_too_and_the_same(page, run):
    parser = Visible()
    parser.feed(page)
    images = [values for tag, values in parser.tags if tag == "img"]
    files = sorted((run / "plots").iterdir())
    assert len(images) == len(files) == 7
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000 for file in files)
    assert {values["data-file"] for values in images} == {f"plots/{file.name}" for file in files}


def test_the_same_run_gives_the_same_page(page, run, stages):
    assert build(run, "lang & <co>", stages, "Teach a model <Ukrainian>.").read_text(encoding="utf-8") == page


def test_missing_and_unfinished_stages(tmp_path):
    partial = write_stage(tmp_path, "cpt", "train", {}, key="abc.partial")
    (partial / "manifest.json").rename(partial / "started.json")
    train_log(partial)
    empty = tmp_path / "chat" / "def.partial"
    empty.mkdir(parents=True)
    stages = {"cpt": tmp_path / "cpt" / "abc", "chat": tmp_path / "chat" / "def", "scores": tmp_path / "scores" / "x"}
    page = build(tmp_path, "lang", stages).read_text(encoding="utf-8")
    text = visible(page)
    assert "0 of 3 stages finished" in text
    assert "cpt train unfinished" in text
    assert "This stage has not run yet." in text
    assert (tmp_path / "plots" / "cpt-loss.png").exists()
    assert not (tmp_path / "plots" / "cpt-general.png").exists()


def test_broken_manifest_is_shown_as_such(tmp_path):
    folder = write_stage(tmp_path, "cpt", "train", TRAIN)
    (folder / "manifest.json").write_text('{"kind": "tra', encoding="utf-8")
    assert "cpt" in visible(build(tmp_path, "lang", {"cpt": folder}).read_text(encoding="utf-8"))


def test_a_kind_without_a_section_shows_its_numbers(tmp_path):
    folder = write_stage(tmp_path, "tiny", "create_model", {"parameters": 2_345_678, "tokenizer": {"size": 2000}})
    text = visible(build(tmp_path, "tiny", {"tiny": folder}).read_text(encoding="utf-8"))
    assert "parameters 2,345,678" in text
    assert "tokenizer: size 2,000" in text


def test_numbers_that_cannot_be_drawn_are_named_and_do_not_stop_the_page(tmp_path):
    broken = {"value": "nan", "low": "nan", "high": "nan", "n": 3, "metric": "bits_per_byte"}
    folder = write_stage(tmp_path, "scores", "evaluate", {"models": {"cpt": {"text": broken}}})
    merged = write_stage(tmp_path, "chat", "merge", STAGES["chat"][1])
    text = visible(build(tmp_path, "x", {"scores": folder, "chat": merged}).read_text(encoding="utf-8"))
    assert "Its numbers cannot be shown as a section" in text
    assert "cpt - base 0.1342" in text


@pytest.mark.parametrize("kind", ["train", "merge", "expand_vocabulary", "evaluate", "create_model"])
def test_a_stage_without_metrics(tmp_path, kind):
    folder = write_stage(tmp_path, "stage", kind, {})
    assert "1 of 1 stage finished" in visible(build(tmp_path, "x", {"stage": folder}).read_text(encoding="utf-8"))


def test_evaluation_of_one_model_without_a_base(tmp_path):
    metrics = {"models": {"chat": EVALUATE["models"]["chat"]}, "comparison": {}, "forgetting": {}, "examples": []}
    text = visible(
        build(tmp_path, "x", {"s": write_stage(tmp_path, "s", "evaluate", metrics)}).read_text(encoding="utf-8")
    )
    assert "58.0%" in text
    assert "own base" not in text


def test_summary_in_the_terminal(stages, run):
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    summary(Display(console), {**stages, "later": run / "later" / "key"})
    text = console.export_text()
    for shown in (
        "1000 pieces, fertility 5.32 -> 2.12",
        "target 3.271 -> 1.937, general 1.713 -> 1.742",
        "cpt + 1.0 * (instruct - base) (1 warning)",
        "chat: english 91%, ukrainian 58%",
        "missing",
    ):
        assert shown in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_opens_in_a_browser(page, tmp_path):
    """A headless browser draws the page, every image has a size, and no request leaves the page."""
    probe = (
        "<script>window.addEventListener('load', () => { document.title = JSON.stringify({"
        "images: [...document.images].map(i => i.naturalWidth), "
        "requests: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length, "
        "wide: document.documentElement.scrollWidth <= window.innerWidth}) })</script>"
    )
    copy = tmp_path / "report.html"
    copy.write_text(page.replace("</head>", probe + "</head>"), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1100,2000", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    title = html.unescape(re.search("<title>(.*?)</title>", dom).group(1))
    assert re.fullmatch(r'\{"images":\[(1\d{3},){6}1\d{3}\],"requests":0,"wide":true\}', title), title
