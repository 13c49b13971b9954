"""The table of a result, as text or Markdown: rates, ratios pair by pair, and shares of the limits of the same rounds."""

import json
import pathlib
import statistics

from measure import median_ratio

MIB = 1 << 20


def read_limit(group):
    return statistics.median(limit["read_bytes_per_s"] for limit in group["limits"]) if group["limits"] else 0.0


def shape_config(place, shape):
    path = place.checkpoint(shape) / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def touched(config, about, depth, tokens):
    """Bytes that a token of decode needs: every weight once, but of the embedding one row, and the keys and values before it."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    row = 2 * {"f32": 4}.get(about["cache"], 2) * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    return about["step_weight_bytes"] + row * (depth + tokens / 2)


def of_limit(group, config, point):
    """The share of the read bandwidth that Qiao's decode reaches, measured beside it in each round."""
    ours = group["engines"].get("qiao")
    if not point.startswith("tg") or not config or not ours or point not in ours["points"]:
        return None
    tokens, depth = map(int, point[2:].split("@"))
    beside = [limit["read_bytes_per_s"] for limit in group["limits"] if limit["point"] == point]
    needed = touched(config, ours["about"], depth, tokens)
    return statistics.median(rate * needed / limit for rate, limit in zip(ours["points"][point], beside))


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def cell(group, name, point):
    runs = group["engines"][name]["points"].get(point)
    if not runs:
        return "–"
    text = number(statistics.median(runs))
    ours = group["engines"].get("qiao", {}).get("points", {}).get(point)
    return text if name == "qiao" or not ours else f"{text} ({median_ratio(ours, runs):.2f}×)"


def start_cell(group, name, key, unit, sign):
    """A figure of the start-up; behind a peer's, ours divided by it."""
    runs = [run[key] / unit for run in group["engines"][name]["first"]]
    if not runs:
        return "–"
    text = f"{statistics.median(runs):.2f}" if sign == "s" else f"{statistics.median(runs):.0f}"
    ours = [run[key] / unit for run in group["engines"].get("qiao", {}).get("first", [])]
    return text if name == "qiao" or not ours else f"{text} ({median_ratio(ours, runs):.2f}×)"


def rows(place, group):
    config = shape_config(place, group["shape"])
    labels = list(dict.fromkeys(label for engine in group["engines"].values() for label in engine["points"]))
    head = ["engine", "format", *[f"{label} tok/s" for label in labels], "first token s", "peak MiB"]
    lines = []
    for name, engine in group["engines"].items():
        cells = [cell(group, name, label) for label in labels]
        starts = [start_cell(group, name, "seconds", 1, "s"), start_cell(group, name, "peak_bytes", MIB, "MiB")]
        lines.append([engine["peer"], engine["format"], *cells, *starts])
    shares = [of_limit(group, config, label) for label in labels]
    if any(shares):
        lines.append(["of read bandwidth", "qiao", *[f"{100 * share:.0f} %" if share else "–" for share in shares], "", ""])
    return head, lines


def title(group):
    limits = group["limits"]
    text = f"{group['shape']}, {group['format']}, {group['threads']} thread{'s' * (group['threads'] > 1)}"
    if group["isa"] != "best":
        text += f", QIAO_ISA={group['isa']}"
    if group.get("activations", 16) != 16:
        text += f", QIAO_ACTIVATIONS={group['activations']}"
    if group.get("prepacked"):
        text += ", prepacked"
    if not limits:
        return text
    ops = {name: statistics.median(limit["ops_per_s"].get(name, 0) for limit in limits) for name in limits[0]["ops_per_s"]}
    best = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in ops.items())
    return f"{text}: read {read_limit(group) / 1e9:.1f} GB/s; 10⁹ operations/s: {best}"


def text(place, result):
    lines = [machine_line(result)]
    for group in result["groups"]:
        head, body = rows(place, group)
        widths = [max(len(str(line[i])) for line in [head, *body]) for i in range(len(head))]
        lines += ["", title(group)]
        lines += ["  ".join(str(value).ljust(width) for value, width in zip(line, widths)).rstrip() for line in [head, *body]]
        lines += [f"failed: {name}: {why}" for name, why in group["failed"].items()]
    lines += [f"skipped: {name}: {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines)


def markdown(place, result):
    lines = [machine_line(result), "", "In brackets: Qiao ÷ peer, the median of pairs.", ""]
    for group in result["groups"]:
        head, body = rows(place, group)
        lines += [f"**{title(group)}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += ["| " + " | ".join(map(str, line)) + " |" for line in body]
        lines += [""] + [f"Failed: {name}: {why}" for name, why in group["failed"].items()]
    lines += [f"Skipped: {name}: {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines).rstrip()


def machine_line(result):
    machine = result["machine"]
    return (f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}); {result['date']}, Qiao "
            f"{machine['qiao']}, medians of {result['rounds']} alternated rounds")


def read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


