"""Prints what JUnit files of the test runners say, as one table. Fails if a test failed or a file has none."""

import sys
from collections import Counter
from xml.etree import ElementTree


def outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "FAILED"
    return "skipped" if case.find("skipped") is not None else "passed"


def suite_of(case: ElementTree.Element) -> str:
    """The test file, without what all names begin with."""
    file = case.get("file") or case.get("classname", "")
    return file.rsplit("/", 1)[-1].split(".")[0].removeprefix("test_")


def rows(path: str) -> list[tuple[str, str, str]]:
    cases = ElementTree.parse(path).getroot().iter("testcase")
    return [(suite_of(case), case.get("name", "").removeprefix("test_"), outcome(case)) for case in cases]


def main(paths: list[str]) -> int:
    table: list[tuple[str, str, str]] = []
    for path in paths:
        found = rows(path)
        if not found:
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
