"""Serve a folder of demo-web on this machine, and open it in Chromium with playwright-core."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NODE_MODULES = os.environ.get("NODE_MODULES", "")
"""Folder in which npm installed playwright-core and onnxruntime-web; empty for none."""
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""
SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder like ``python -m http.server``, silently; if ``isolated``, pages may use threads."""

    isolated = False

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class _Isolated(_Handler):
    isolated = True


@contextlib.contextmanager
def served(folder: Path, isolated: bool = False) -> Iterator[str]:
    """Serve a folder while the block runs; yields its URL."""
    handler = partial(_Isolated if isolated else _Handler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def obstacle() -> str:
    """Return why no page can be opened here; empty if it can."""
    if not NODE_MODULES or not (Path(NODE_MODULES) / "playwright-core").is_dir():
        return "set NODE_MODULES to a folder with playwright-core and onnxruntime-web"
    if not CHROMIUM:
        return "Chromium is not installed; set CHROMIUM to its program"
    return "" if shutil.which("node") else "Node is not installed"


def look_at(
    folder: Path,
    files: Sequence[Path] = (),
    *,
    backend: str | None = None,
    isolated: bool = False,
    rounds: int = 1,
    camera: bool = False,
    pictures: Path | None = None,
    args: Sequence[str] = (),
) -> dict[str, Any]:
    """Open a page and search with files; return what browser.mjs saw, and the page's URL as "url".

    Args:
        folder: folder that demo-web wrote.
        files: images to search with.
        backend: "wasm" or "webgpu"; None to leave the choice to the page.
        isolated: serve the page cross-origin isolated, so that it may use threads.
        rounds: number of searches with each image.
        camera: search with an image from the camera too.
        pictures: folder for screenshots.
        args: arguments for Chromium.

    Raises:
        RuntimeError: Node failed; the message has its output.
    """
    with served(folder, isolated) as url, tempfile.TemporaryDirectory() as temporary:
        job: dict[str, Any] = {"url": url if backend is None else f"{url}?backend={backend}", "args": list(args)}
        job |= {"files": [str(file) for file in files], "rounds": rounds, "camera": camera, "chromium": CHROMIUM}
        job |= {"pictures": None if pictures is None else str(pictures), "out": str(Path(temporary) / "out.json")}
        (Path(temporary) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = ["node", str(HERE / "browser.mjs"), str(Path(temporary) / "job.json")]
        result = subprocess.run(command, cwd=NODE_MODULES, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"node failed: {result.stderr[-2000:]}")
        seen: dict[str, Any] = json.loads((Path(temporary) / "out.json").read_text(encoding="utf-8"))
    return seen | {"url": url}
