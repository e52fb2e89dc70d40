"""A hook of mkdocs: files outside docs/ that pages link to are pages of the site.

In a repository's browser `../rmat_jax/config.py` leads to the file. A site has docs/ alone, so the
hook shows each such file on a page of its own and turns the link towards it.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

from rmat_jax.keys import table

ROOT = Path(__file__).resolve().parent.parent.parent
LINK = re.compile(r"\]\(((?:\.\./)+[^)#]+)(#[^)]*)?\)")
# those of a file outside, which stands elsewhere
RELATIVE = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
LANGUAGES = {".py": "python", ".ipynb": "python", ".yml": "yaml", ".toml": "toml"}


def on_files(files, config):
    """Adds a page for each file outside that a page links to, and the page of the config's keys."""
    found = set()
    for page in files.documentation_pages():
        found |= {outside(page.src_uri, target) for target, _ in LINK.findall(page.content_string)}
    for path in found - {None}:
        # what a notebook links to
        found |= {target for target in targets(path) if not target.startswith("docs/")}
    for path in sorted(found - {None}):
        files.append(File.generated(config, f"source/{path}.md", content=shown(path)))
    files.append(File.generated(config, "keys.md", content=table()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links to files outside towards their pages."""

    def turned(match):
        path = outside(page.file.src_uri, match[1])
        here = posixpath.dirname(page.file.src_uri) or "."
        return f"]({posixpath.relpath(f'source/{path}.md', here)})" if path else match[0]

    return LINK.sub(turned, markdown)


def outside(page: str, target: str) -> str | None:
    """The file outside docs/ to which a page of docs/ links; None where there is no such file."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return path if (ROOT / path).is_file() and not path.startswith("docs/") else None


def shown(path: str) -> str:
    """A file as Markdown."""
    title, suffix = f"# `{path}`\n\n", Path(path).suffix
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"{title}A file of {(ROOT / path).stat().st_size:,} bytes.\n"
    if suffix == ".md":
        return relinked(text, path)
    if suffix != ".ipynb":
        return title + fenced(text, LANGUAGES.get(suffix, "text"))
    cells = ((c["cell_type"], "".join(c["source"])) for c in json.loads(text)["cells"])
    parts = (
        fenced(text, "python") if kind == "code" else relinked(text, path) for kind, text in cells
    )
    return "\n\n".join(parts)


def targets(path: str) -> set[str]:
    """The files that a Markdown file or a notebook outside links to, from the root."""
    if Path(path).suffix not in (".md", ".ipynb"):
        return set()
    text = (ROOT / path).read_text(encoding="utf-8")
    return {target for link, _ in RELATIVE.findall(text) if (target := beside(path, link))}


def beside(path: str, link: str) -> str | None:
    """The file to which `path` links, from the root; None where there is no such file."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return target if (ROOT / target).is_file() else None


def relinked(text: str, path: str) -> str:
    """The text of a file outside, its links turned towards pages of the site."""
    here = posixpath.dirname(f"source/{path}")

    def turned(match):
        target = beside(path, match[1])
        if target is None:
            return match[0]
        page = target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}.md"
        return f"]({posixpath.relpath(page, here)}{match[2] or ''})"

    return RELATIVE.sub(turned, text)


def fenced(text: str, language: str) -> str:
    return f"~~~~{language}\n{text.rstrip()}\n~~~~\n"
