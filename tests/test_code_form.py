"""The form of the code that no linter holds: annotations, section rules, pragmas."""

import ast
import re
from pathlib import Path

import pytest

import llmbook

ROOT = Path(llmbook.__file__).parents[1]
FILES = sorted([*ROOT.glob("llmbook/**/*.py"), *ROOT.glob("tests/**/*.py")])


def annotated(tree):
    """Lines of functions whose arguments or result are annotated; Triton reads its kernels'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if any("triton" in ast.unparse(decorator) for decorator in node.decorator_list):
                continue
            args = node.args
            given = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            if node.returns or any(arg is not None and arg.annotation for arg in given):
                yield node.lineno


def test_annotations_stand_where_a_program_reads_them_and_shapes_in_docstrings():
    found = {
        str(file.relative_to(ROOT)): lines
        for file in FILES
        if (lines := list(annotated(ast.parse(file.read_text("utf-8")))))
    }
    assert not found


@pytest.mark.parametrize(
    "what, pattern",
    [
        ("a section rule is `# --- name`", r"^\s*#\s?(?!--- \S)[-=*#]{3,}"),
        ("the formatter has no exceptions", r"# fmt: (skip|off|on)"),
    ],
)
def test_one_form(what, pattern):
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in FILES
        if file != Path(__file__)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{what}: {found}"
