"""What a benchmark leaves behind: tables on the screen and in benchmark.md, every number in benchmark.json, a picture."""

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def write(folder: Path, results: list[Result], machine: dict[str, Any]) -> str:
    """Writes benchmark.json, benchmark.md and, where matplotlib is installed, benchmark.png.

    Args:
        folder: the run folder; made if it is not there.
        results: of `hold`, or {"title", "facts": [{name, value, unit}]}.
        machine: what it ran on.

    Returns:
        The content of benchmark.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    text = tables(results)
    (folder / "benchmark.md").write_text(text + "\n")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        text += "\n\nNo picture: matplotlib is not installed."
    else:
        draw(folder / "benchmark.png", [result for result in results if "cases" in result])
    return text


def tables(results: list[Result]) -> str:
    """The results as markdown."""
    lines: list[str] = []
    for result in results:
        lines += [f"## {result['title']}", ""]
        if "facts" in result:
            lines += ["| | |", "|---|---|", *(f"| {fact['name']} | {number(fact['value'])} {fact['unit']} |" for fact in result["facts"]), ""]
            continue
        lines += [f"| rounds, in turn: {result['rounds']} | {result['unit']} per second | each takes | lowest to highest |", "|---|---|---|---|"]
        for case in result["cases"]:
            time = case["seconds"]
            mark = " (limit)" if case["role"] == "limit" else ""
            lines.append(
                f"| {case['name']}{mark} | {number(case['per_second'])} | {duration(time['median'])} | {duration(time['min'])} to {duration(time['max'])} |"
            )
        lines += [f"| {name} | not measured: {reason} | | |" for name, reason in result["missing"].items()]
        if result["compared"]:
            lines += ["", "| | against | times as fast | lowest to highest |", "|---|---|---|---|"]
            for pair in result["compared"]:
                times = pair["times"]
                lines.append(f"| {pair['one']} | {pair['other']} | **{times['median']:.3g}** | {times['min']:.3g} to {times['max']:.3g} |")
        lines += ["", *result["notes"]] + ([""] if result["notes"] else [])
    return "\n".join(lines).rstrip()


def number(value: float) -> str:
    """Four digits that count, without an exponent.

    >>> number(288_345.6), number(0.08127)
    ('288,300', '0.08127')
    """
    return f"{float(f'{value:.4g}'):,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """
    >>> duration(0.00014), duration(2.5)
    ('140 µs', '2.5 s')
    """
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def draw(path: Path, results: list[Result]) -> None:
    """A panel of bars for every contest: ours blue, peers grey, limits hatched; a line from the slowest round to the quickest."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from cxr.report.drawing import BLUE, GREY, PALE, STYLE, WIDTH

    rows = [len(result["cases"]) for result in results]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(0.34 * n + 0.95 for n in rows)), layout="constrained")
        panels = figure.subplots(len(results), 1, squeeze=False, height_ratios=[n + 1.2 for n in rows]).ravel()
        for panel, result in zip(panels, results, strict=True):
            cases = result["cases"][::-1]
            for place, case in enumerate(cases):
                rate, time = case["per_second"], case["seconds"]
                look = {"ours": {"color": BLUE}, "peer": {"color": PALE}, "limit": {"facecolor": "none", "edgecolor": GREY, "hatch": "///"}}[case["role"]]
                panel.barh(place, rate, height=0.66, **look)
                panel.plot([1 / time["max"], 1 / time["min"]], [place, place], color="black", linewidth=1)
                panel.annotate(number(rate), (max(rate, 1 / time["min"]), place), xytext=(5, 0), textcoords="offset points", va="center")
            panel.set_xlim(0, 1.12 * max(1 / case["seconds"]["min"] for case in cases))
            panel.set_xticks([])  # every bar says its number
            panel.spines["bottom"].set_visible(False)
            panel.set_yticks(range(len(cases)), [case["name"] for case in cases])
            panel.tick_params(axis="y", length=0)
            panel.set_title(f"{result['title']}: {result['unit']} per second", loc="left", fontsize=10, fontweight="bold")
        figure.savefig(path)
