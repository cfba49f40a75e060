"""The picture of the README: the end of `sepclip demo`, as a terminal shows it, from the results of a finished demo.

python benchmarks/picture.py demo docs/demo.svg
"""

import io
import sys
from pathlib import Path

from rich.console import Console

from sepclip.demo import demo
from sepclip.evaluation.terminal_tables import BRIEF_COLUMNS, score_table


def main(folder: Path, picture: Path) -> None:
    done = demo(Path("data/speech"), folder)
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False)
    console.print("$ make demo\n")
    console.print(score_table(done.result, BRIEF_COLUMNS))
    for line in done.words():
        if line.startswith("The demo is done already"):
            continue
        console.print(line, markup=False)
    picture.write_text(console.export_svg(title="sepclip demo"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
