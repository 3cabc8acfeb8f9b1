"""The process of a command: interrupted at any moment, on terminals that lack characters, with closed streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and shells of POSIX")
PRINTS = """
from compressor.cli.process import prepared
with prepared() as ended:
    print("keeps 97.0\\u00a0% \\u2014 [90, 99] \\u00d7 1.2 \\u2192 \\u6771 \\udcff")
    ended.code = 7
raise SystemExit(ended.code)
"""


def start(code: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("latin-1", "keeps 97.0\u00a0% - [90, 99] × 1.2 -> \\u6771 \\udcff"),
        ("cp1252", "keeps 97.0\u00a0% — [90, 99] × 1.2 -> \\u6771 \\udcff"),
        ("cp437", "keeps 97.0\u00a0% - [90, 99] x 1.2 -> \\u6771 \\udcff"),
        ("ascii", "keeps 97.0 % - [90, 99] x 1.2 -> \\u6771 \\udcff"),
        ("utf-8", "keeps 97.0\u00a0% — [90, 99] × 1.2 → 東 \\udcff"),
    ],
)
def test_letters_that_a_terminal_lacks_are_written_in_others(encoding: str, expected: str) -> None:
    process = start(PRINTS, env={"PYTHONIOENCODING": encoding})
    out, err = process.communicate()
    assert (process.returncode, out.decode(encoding).rstrip("\r\n"), err) == (7, expected, b"")


@POSIX
def test_a_reader_that_has_gone_changes_no_exit_code() -> None:
    code = PRINTS.replace("print(", "input(); [print(n) for n in range(100)]; print(")
    process = start(code, stdin=subprocess.PIPE)
    assert process.stdout and process.stdin and process.stderr
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    err = process.stderr.read()
    assert (process.wait(), err) == (7, b"")


@POSIX
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_go_nowhere_and_into_no_file(closed: str, tmp_path: Path) -> None:
    code = PRINTS.replace("    print(", f"    file = open({str(tmp_path / 'f')!r}, 'w')\n    print(")
    (tmp_path / "code.py").write_text(code)
    command = f"{sys.executable} {tmp_path / 'code.py'} {closed}"
    done = subprocess.run(["sh", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 7
    assert (tmp_path / "f").read_text() == ""


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.0, 0.3, 1.0])
def test_a_signal_in_the_first_second_is_an_interruption(
    number: int, after: float, photos: Path, tmp_path: Path
) -> None:
    words = ["train", str(photos), "--out", str(tmp_path / "out"), "--arch", "test_resnet", "--dim", "8"]
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
    code += f"import sys; sys.argv[1:] = {words!r}\nfrom compressor.cli import main\n"
    code += "import compressor.cli.process\nprint(flush=True); sys.exit(main())"
    process = start(code)
    assert process.stdout and process.stderr
    process.stdout.readline()
    time.sleep(after + 0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err and b"Interrupted" in err


@POSIX
@POSIX
def test_an_interruption_that_a_callback_swallows_comes_again(capsys: Any) -> None:
    from compressor.cli.process import INTERRUPTED, prepared

    class Module:
        pass

    module = Module()
    callback = weakref.ref(module, lambda gone: signal.raise_signal(signal.SIGTERM))
    with prepared() as ended:
        began = time.monotonic()
        del module  # Python tells of what a callback raises, and goes on
        time.sleep(10)
        ended.code = 0
    assert ended.code == INTERRUPTED and callback() is None
    assert time.monotonic() - began < 5  # within the sleep
    assert capsys.readouterr().err == "Interrupted.\n"


def test_whatever_a_library_makes_of_an_interruption_is_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from compressor.cli.process import prepared

    with prepared() as ended:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("numpy made this of it") from None
    assert ended.code == 130 and capsys.readouterr().err == "Interrupted.\n"
    with pytest.raises(ImportError), prepared():
        raise ImportError("a real one")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
