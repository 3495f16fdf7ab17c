"""The tables of the SmolLM2 card, written here once more from the card itself, and the cells of a markdown table."""

from __future__ import annotations

BASE = """
HellaSwag      | **54.5** | 51.2     | 51.8
ARC (Average)  | **53.0** | 45.4     | 50.1
PIQA           | **71.7** | 69.9     | 71.6
MMLU (cloze)   | **35.8** | 33.7     | 34.4
CommonsenseQA  | **38.0** | 31.6     | 35.3
TriviaQA       | **16.9** | 4.3      | 9.1
Winogrande     | 52.5     | **54.1** | 52.8
OpenBookQA     | **37.4** | **37.4** | 37.2
GSM8K (5-shot) | 3.2      | **33.4** | 1.6
"""
INSTRUCT = """
IFEval (Average prompt/inst) | **41.0** | 31.6     | 19.8
MT-Bench                     | 3.66     | **4.16** | 3.37
HellaSwag                    | **52.1** | 48.0     | 47.9
ARC (Average)                | **43.7** | 37.3     | 38.8
PIQA                         | **70.8** | 67.2     | 69.4
MMLU (cloze)                 | **32.8** | 31.7     | 30.6
BBH (3-shot)                 | 27.3     | **30.7** | 24.4
GSM8K (5-shot)               | 7.43     | **26.8** | 1.36
"""
HEADERS = {
    "base": ["Metrics", "SmolLM2-360M", "Qwen2.5-0.5B", "SmolLM-360M"],
    "instruct": ["Metric", "SmolLM2-360M-Instruct", "Qwen2.5-0.5B-Instruct", "SmolLM-360M-Instruct"],
}


def cells(table: str) -> list[list[str]]:
    """The cells of a markdown table's lines, without the line below the header."""
    lines = [line for line in table.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return [row for row in rows if not set(row[0]) <= {":", "-"}]


EXPECTED = {
    "base": [HEADERS["base"], *cells(BASE)],
    "instruct": [HEADERS["instruct"], *cells(INSTRUCT)],
}
