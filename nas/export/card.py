"""The README of an export: its card for a person."""

from __future__ import annotations

from typing import Any

from nas.devices import TIMED, on
from nas.profile_view import significant


def readme(card: dict[str, Any]) -> str:
    """Markdown with metrics, how they were measured, and code to load the model."""
    metrics = "\n".join(
        f"| accuracy, {split} | {one['accuracy']:.2f} % |" for split, one in card["metrics"].items()
    )
    values = card["searched"]["values"]
    costs = "\n".join(f"| {key} | {values[key]:,.0f} |" for key in ("macs", "parameters", "bytes"))
    shape, normal = card["input"]["shape"], card["normalisation"]
    proof = card["verification"]
    noun, sides = ("signal", "samples") if card["input"]["layout"] == "NCL" else ("image", "height, width")
    return f"""# {card["run"]} / {card["candidate"]}

{card["architecture"]}

| | |
|---|---|
{metrics}
{_latency(card)}{costs}

{_weights(card)}
The test {noun}s were read once, for this table.

## Use

Input `images`: float32, ({", ".join(map(str, shape))}), N {noun}s of channels, {sides}.
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

On {proof["images"]} validation {noun}s the supernet's slice, the exported module, model.safetensors, model.pt2 and
model.onnx differ by at most {proof["max_relative_difference"]:.1e} of the largest logit (allowed:
{proof["tolerance"]:g}) and give the same class on {100 * proof["top1_agreement"]:g} % of them.
`nas verify FOLDER` computes it anew.

Training recipe, data, seeds, versions and the latency record with all samples: card.json.
"""


def _weights(card: dict[str, Any]) -> str:
    if card["weights"].startswith("inherited"):
        return "Accuracies are of inherited weights with batch-norm statistics of this subnet's own."
    epochs, seed = card["training"]["epochs"], card["training"]["seed"]
    return f"Accuracies are of this network trained alone from the start: {epochs:g} epochs, seed {seed}."


def _latency(card: dict[str, Any]) -> str:
    if not card["latency"]:
        return ""
    name = card["device"]
    key, where = (on(TIMED, name), f" on {name}") if name else (TIMED, "")
    record, value = card["latency"], card["searched"]["values"][key]
    low, high = card["searched"]["intervals"][key]
    settings = record["settings"]
    how = f"{record['device']}, {settings.get('threads', 1)} thread(s), batch {settings.get('batch', 1)}"
    disturbed = ", disturbed by other work on that machine" if record["contended"] else ""
    interval = f"{significant(low)} to {significant(high)}"
    return (
        f"| latency{where}, measured | {significant(value)} ms (median; 95 % interval {interval}; {how}, "
        f"{record['clock']} clock, {record['processor']}{disturbed}) |\n"
    )


def _prepared(normal: dict[str, Any]) -> str:
    """What is done to an image or a signal before the network sees it."""
    scale = {
        "none": "Subtract",
        "divide by 255": "Divide pixels of 0 to 255 by 255, then subtract",
        "0..16 to 0..1": "Multiply scikit-learn's pixels of 0 to 16 by 255/16, round, divide by 255, then subtract",
        "PCM to -1..1": "Divide PCM samples by the largest of their bits, to -1..1, then subtract",
    }[normal["scale"]]
    resize = "" if normal["resize"] == "none" else f" Then resize: {normal['resize']}."
    rate = f" Signals are sampled at {normal['sample_rate']} Hz." if normal["sample_rate"] else ""
    return (
        f"{scale} the mean {_list(normal['mean'])} and divide by the standard deviation "
        f"{_list(normal['std'])}, per channel.{resize}{rate}"
    )


def _list(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
