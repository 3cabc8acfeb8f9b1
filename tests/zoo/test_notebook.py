from __future__ import annotations

import os

from zoo.notebook import html_table


def test_a_table_by_hand() -> None:
    assert html_table([("a", 1), ("b", "<&>")], ["", "n"], ["x < y"]) == (
        "<p>x &lt; y</p><table><thead><tr><th></th><th>n</th></tr></thead><tbody>"
        "<tr><th>a</th><td>1</td></tr><tr><th>b</th><td>&lt;&amp;&gt;</td></tr></tbody></table>"
    )


def test_names_need_not_be_unicode() -> None:
    assert "fot\\udcf3s" in html_table([("file", os.fsdecode(b"fot\xf3s"))])
