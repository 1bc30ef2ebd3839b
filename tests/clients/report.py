"""Prints what JUnit files of the test runners say, as one table. Fails if a test failed or, without --some, a file has none."""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "FAILED"
    return "skipped" if case.find("skipped") is not None else "passed"


def rows(path: Path) -> list[tuple[str, str, str]]:
    """Suite, name and outcome of each test. Node does not tell the suite; then it is the file's name."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    return [
        (
            case.get("classname", "").removeprefix("test_") if case.get("classname") != "test" else path.stem,
            case.get("name", "").removeprefix("test_"),
            outcome(case),
        )
        for case in cases
    ]


def main(paths: list[str]) -> int:
    table: list[tuple[str, str, str]] = []
    some = "--some" in paths
    for path in paths:
        if path == "--some" or (some and not Path(path).exists()):
            continue
        found = rows(Path(path))
        if not found and not some:
            print(f"{path} has no tests", file=sys.stderr)
            return 1
        table += found
    width = max(len(suite) for suite, _, _ in table)
    for suite, name, result in table:
        print(f"{result:7}  {suite:{width}}  {name.replace('_', ' ')}")
    counts = Counter(result for _, _, result in table)
    print(f"{counts['passed']} passed, {counts['FAILED']} failed, {counts['skipped']} skipped")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
