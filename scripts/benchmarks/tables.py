"""Tables in Markdown."""

from benchmarks.load import Measured


def print_sides(api: Measured, direct: Measured, wanted: str) -> None:
    """Prints the API beside Elasticsearch itself, and the ratios."""
    print_row("", "requests/s", "p50 ms", "p95 ms", "p99 ms", "KB/answer", "answers")
    print_row("---", *["---:"] * 6)
    for name, side in (("API", api), ("Elasticsearch directly", direct)):
        percentiles = [f"{side.percentile(percent):.1f}" for percent in (50, 95, 99)]
        answers = len(side.all)
        print_row(name, f"{side.rate:.1f}", *percentiles, f"{side.bytes / answers / 1000:.0f}", str(answers))
    ratios = [f"{api.percentile(percent) / direct.percentile(percent):.2f}" for percent in (50, 95, 99)]
    print_row(f"ratio ({wanted})", f"{api.rate / direct.rate:.2f}", *ratios, "", "")


def print_row(*cells: str) -> None:
    """Prints a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |")
