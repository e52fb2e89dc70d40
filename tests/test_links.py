"""Every link of the documentation leads somewhere: the file is there, and has the heading."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rmat_jax import keys

ROOT = Path(__file__).parents[1]
PAGES = [*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
# made when the site is built, of the package itself
MADE = {ROOT / "docs/keys.md": keys.table}


def prose(text: str) -> str:
    """A page without its code, in which brackets are no links and # is no heading."""
    text = re.sub(r"^~~~.*?^~~~|^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(    |\t).*$", "", text, flags=re.MULTILINE)
    return text


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as repository browsers and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        plain = re.sub(r"[`*]|\]\(.*?\)|\[", "", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def links(text: str) -> list[str]:
    """The targets of links and pictures that are not addresses of the web."""
    text = re.sub(r"`[^`]*`", "", prose(text))
    targets = re.findall(r"\]\(\s*([^)\s]+)\s*\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def dead(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        there = file.exists() or file in MADE
        if there and anchor:
            there = anchor in anchors(text if file == page else read(file))
        if not there:
            found.append(target)
    return found


def read(file: Path) -> str:
    return MADE[file]() if file in MADE else file.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert not dead(page, read(page))


def test_control_dead_links_are_found():
    page = ROOT / "docs/data.md"
    text = (
        "# One thing, `two`\n\n[a](gone.md) ![b](block.svg) [c](training.md#gone)\n"
        "[d](#one-thing-two) [e](#three) [f](https://example.org) `[g](code.md)`\n"
        "[h](training.md#optimisers)\n\n    # No heading\n    [i](block.md)\n\n"
        "[j](#no-heading) [k](\ngone.png) [l](keys.md#gone)"
    )
    assert dead(page, text) == [
        "gone.md",
        "training.md#gone",
        "#three",
        "#no-heading",
        "gone.png",
        "keys.md#gone",
    ]


def test_every_page_is_in_the_menu_of_the_site():
    menu = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in [*docs.rglob("*.md"), *MADE]}
    assert menu == pages


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "source/rmat_jax/interop/reference.py.html").is_file()
    assert (
        'id="rmat_jax.modules.block.Block.__call__"' in (tmp_path / "api/modules.html").read_text()
    )
