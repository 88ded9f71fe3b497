"""The README of an export: its card for a person."""

from __future__ import annotations

from typing import Any


def readme(card: dict[str, Any]) -> str:
    """Markdown with metrics, how they were measured, and code to load the model."""
    metrics = "\n".join(
        f"| accuracy, {split} | {one['accuracy']:.2f} % |" for split, one in card["metrics"].items()
    )
    values = card["searched"]["values"]
    costs = "\n".join(f"| {key} | {values[key]:,.0f} |" for key in ("macs", "parameters", "bytes"))
    shape, normal = card["input"]["shape"], card["normalisation"]
    proof = card["verification"]
    return f"""# {card["run"]} / {card["candidate"]}

{card["architecture"]}

| | |
|---|---|
{metrics}
{_latency(card)}{costs}

Accuracies are of inherited weights with batch-norm statistics of this subnet's own. The test images were
read once, for this table.

## Use

Input `images`: float32, ({", ".join(map(str, shape))}), N images of channels, height, width.
{_prepared(normal)}

Output `logits`: one column per class: {", ".join(card["classes"])}.

```python
import torch
model = torch.export.load("model.pt2").module()
logits = model(images)                      # torch alone, any batch size
```

```python
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
[logits] = session.run(None, {{"images": images}})
```

`model.safetensors` holds the same weights; `nas.export.checkpoint.load_subnet(folder)` rebuilds the module
from them and `architecture.json`, for further training.

## Verification

On {proof["images"]} validation images the supernet's slice, the exported module, model.safetensors, model.pt2 and
model.onnx differ by at most {proof["max_relative_difference"]:.1e} of the largest logit (allowed:
{proof["tolerance"]:g}) and give the same class on {100 * proof["top1_agreement"]:g} % of them.
`nas verify FOLDER` computes it anew.

Training recipe, data, seeds, versions and the latency record with all samples: card.json.
"""


def _latency(card: dict[str, Any]) -> str:
    if not card["latency"]:
        return ""
    record, value = card["latency"], card["searched"]["values"]["latency_ms"]
    low, high = card["searched"]["intervals"]["latency_ms"]
    settings = record["settings"]
    how = f"{record['device']}, {settings.get('threads', 1)} thread(s), batch {settings.get('batch', 1)}"
    disturbed = ", disturbed by other processes" if record["contended"] else ""
    return (
        f"| latency, measured | {value:.3f} ms (median; 95 % interval {low:.3f} to {high:.3f}; {how}, "
        f"{record['clock']} clock, {record['processor']}{disturbed}) |\n"
    )


def _prepared(normal: dict[str, Any]) -> str:
    """What is done to an image before the network sees it."""
    scale = "Divide pixels of 0 to 255 by 255, then subtract" if normal["scale"] != "none" else "Subtract"
    resize = "" if normal["resize"] == "none" else f" Then resize: {normal['resize']}."
    return (
        f"{scale} the mean {_list(normal['mean'])} and divide by the standard deviation "
        f"{_list(normal['std'])}, per channel.{resize}"
    )


def _list(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
