"""The model card beside a model's weights."""

from __future__ import annotations

import json
from typing import Any

from zoo.models.facts import ModelFacts


def model_card(name: str, summary: dict[str, Any], facts: ModelFacts) -> str:
    """Return the model card as Markdown, with the front matter that model hubs read."""
    height, width = summary["input_size"]
    rows = [
        ("architecture", summary["architecture"]),
        ("embedding", f"{summary['dim']} dimensions, {facts.metric} distance"),
        ("parameters", f"{summary['parameters']:,}"),
        ("input", f"{height} x {width} pixels, RGB"),
        ("loss", facts.loss or "none"),
        ("data", facts.data.get("name", "not recorded")),
    ]
    if facts.teacher:
        rows.append(("teacher", facts.teacher.get("name", "not recorded")))
    rows += [(where, _measures(values)) for where, values in facts.measured.items()]
    table = "\n".join(f"| {label} | {cell(value)} |" for label, value in rows)
    options = json.dumps(facts.options, indent=2, ensure_ascii=False, default=str)
    return f"""---
library_name: timm
tags: [image-feature-extraction, image-retrieval, embedding-compressor]
---
# {name}

An image-embedding model. Load it with timm alone:

    model = timm.create_model("local-dir:PATH", pretrained=True).eval()

| | |
|---|---|
{table}

Options it was made with:

```json
{options}
```
"""


def _measures(values: Any) -> str:
    if isinstance(values, dict):
        return ", ".join(
            f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
        )
    return str(values)


def cell(value: Any) -> str:
    """Return a value escaped for a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
