"""Builds the site of files that also read well in the repository: links may leave docs/, benchmarks are pages."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
_ROLE = re.compile(r":(?:func|class|attr|mod|meth):(?=<code>|`)")  # Sphinx's, which docstrings use


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures of benchmarks/, which lie beside docs/."""
    for path in sorted([*ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("benchmarks/**/*.png")]):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let each link that leads out of docs/ lead to a page of the site where there is one, else to the repository."""
    folder = posixpath.dirname(page.file.src_uri)
    outside = "" if page.file.src_uri.startswith("benchmarks/") else "docs"

    def rewritten(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match[1].partition("#")
        place = posixpath.normpath(posixpath.join(outside, folder, target))
        source = place.removeprefix("docs/")
        if files.get_file_from_path(source) is not None:
            return f"]({posixpath.relpath(source, folder or '.')}{hash_sign}{anchor})"
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{place}{hash_sign}{anchor})"

    return re.sub(r"\]\(((?:\.\./|[\w-]+/)*[\w.-]+(?:#[\w-]*)?)\)", rewritten, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop Sphinx's roles from docstrings: :func:`name` is a name."""
    return _ROLE.sub("", html)
