"""Publishing to a local server that implements the part of the hub's protocol for uploads of small files."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from export.hub.folder import write_hub
from export.hub.publish import publish
from zoo.errors import ModelError, OptionError
from zoo.models.folder import save_model
from zoo.models.making import create_model


class Hub:
    """What the server was asked, and how it answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.made: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.status = 200


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(hub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self) -> None:
            hub.asked.append(self.path)
            body = self._body()
            if hub.status != 200:
                self._answer({"error": "no"})
            elif self.path.startswith("/api/repos/create"):
                hub.made = json.loads(body)
                self._answer({"url": f"{self.server.url}/me/model"})  # type: ignore[attr-defined]
            elif "/preupload/" in self.path:
                given = json.loads(body)["files"]
                entries = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in given]
                self._answer({"files": entries})
            elif "/commit/" in self.path:
                for line in io.BytesIO(body):
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                commit = f"{self.server.url}/me/model/commit/{'0' * 40}"  # type: ignore[attr-defined]
                self._answer({"commitUrl": commit, "commitOid": "0" * 40, "success": True})
            else:
                self._answer({"message": "valid"})

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            self._answer({"id": "me/model", "sha": "0" * 40, "siblings": [], "private": False})

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *given: Any) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{served.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    import huggingface_hub

    url = served.url  # type: ignore[attr-defined]
    original = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: original(endpoint=url, token="hf_x"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield hub
    served.shutdown()
    served.server_close()


@pytest.fixture
def folder(tmp_path: Path, quick_export: Any) -> Path:
    save_model(create_model("test_resnet", 8, image_size=32).eval(), tmp_path / "student")
    write_hub(tmp_path / "student", tmp_path / "out", license="mit")
    (tmp_path / "out" / "LICENSE").write_text("As is.")
    (tmp_path / "out" / "notes.txt").write_text("for me alone")
    return tmp_path / "out"


def test_what_was_written_and_nothing_else_is_uploaded(
    folder: Path, server: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="export.hub.publish"):
        where = publish(folder, "me/model", private=True, yes=True)
    expected = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del expected["notes.txt"]
    assert server.files == expected and server.made["name"] == "model" and where.endswith("/me/model")
    assert server.made.get("private") is True or server.made.get("visibility") == "private"
    assert "goes to me/model (private, licence mit)" in caplog.text and "onnx/model.onnx" in caplog.text
    assert "notes.txt" not in caplog.text


def test_nothing_is_sent_before_it_is_confirmed(folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="Add --yes true"):
        publish(folder, "me/model")
    for answer in ("n\n", "\n", ""):
        typed = io.StringIO(answer)
        monkeypatch.setattr(typed, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", typed)
        with pytest.raises(OptionError, match=r"Nothing was uploaded to me/model\."):
            publish(folder, "me/model")
    assert server.asked == []
    typed = io.StringIO("y\n")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", typed)
    publish(folder, "me/model")
    assert server.files


@pytest.mark.parametrize(("status", "message"), [(401, "no valid token was found"), (403, "may not write there")])
def test_what_the_hub_refuses_is_said_in_a_line(status: int, message: str, folder: Path, server: Hub) -> None:
    server.status = status
    with pytest.raises(OptionError, match=message) as caught:
        publish(folder, "me/model", yes=True)
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_given_away_is_refused(folder: Path, server: Hub) -> None:
    with pytest.raises(OptionError, match="it must be USER/NAME"):
        publish(folder, "model", yes=True)
    with pytest.raises(ModelError, match="was not written by export --layout hub"):
        publish(folder.parent / "student", "me/model", yes=True)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: mit", "license: unknown"))
    with pytest.raises(OptionError, match="names no licence"):
        publish(folder, "me/model", yes=True)
    card.write_text(card.read_text().replace("license: unknown", "license: mit"))
    exported = folder / "pixels" / "model.onnx"
    whole = exported.read_bytes()
    exported.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    with pytest.raises(ModelError, match=r"model\.onnx has changed since export wrote it"):
        publish(folder, "me/model", yes=True)
    exported.write_bytes(whole)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="has changed since it was written"):
        publish(folder, "me/model", yes=True)
    assert server.asked == []


def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, server: Hub) -> None:
    (folder.parent / "secret").write_text("a key")
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to(folder.parent / "secret")
    with pytest.raises(ModelError, match=r"LICENSE is a link to .*secret, outside the folder"):
        publish(folder, "me/model", yes=True)
    assert server.asked == []
