"""Write the picture of the README, the end of `sepclip demo` in a terminal, from the results of a finished demo.

python benchmarks/picture.py demo docs/demo.svg
"""

import io
import sys
from pathlib import Path

from rich.console import Console

from sepclip.demo import run_demo
from sepclip.evaluation.terminal_tables import BRIEF_COLUMNS, score_table


def main(folder: Path, picture: Path) -> None:
    result = run_demo(Path("data/speech"), folder)
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False)
    console.print("$ make demo\n")
    console.print(score_table(result.scores, BRIEF_COLUMNS))
    for line in result.lines():
        if line.startswith("The demo was already finished"):
            continue
        console.print(line, markup=False)
    picture.write_text(console.export_svg(title="sepclip demo"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
