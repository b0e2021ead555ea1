"""Which errors would the tests notice? Small changes to modules, one at a time, and their tests.

    python tests/helpers/mutants.py tokenization models decoding --state runs/mutants.json

A mutant is a module with one change (< for <=, + for -, 1 for 0, a condition turned round, an
argument or a statement left out), drawn with a seed: at least --each of them a module, all of
different lines. The tests of the module's package are run on it, those that run the changed
function; a mutant is killed when one fails. Each outcome is written to --state at once:
the same command goes on where it was stopped. --again runs those anew that have survived, after
a test was added. A survivor that no test can kill gets "equivalent": "why" in that file by hand.

Works in a copy of the working tree. Libraries are imported once, and each mutant is a fork.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUIET = ("-n", "0", "-q", "--no-header", "--tb=no", "-rf", "-p", "no:cacheprovider")
QUICK = 3  # seconds of the tests that come first
FORMS = 8  # of a parametrized test, the quickest
MEMORY = 12 * 2**30  # of a mutant, which may ask for anything
UNSEEN = ("device", "encoding")  # arguments whose loss no test on a CPU in UTF-8 can see

SWAPPED = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}


# --- mutants of a source


def changes(node):
    """[the node with one change]; a statement that goes becomes `pass`."""
    made = []

    def change(edit):
        other = copy.deepcopy(node)
        made.append(edit(other) or other)

    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPPED:
        change(lambda n: n.ops.__setitem__(0, SWAPPED[type(n.ops[0])]()))
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        change(lambda n: setattr(n, "op", SWAPPED[type(n.op)]()))
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        change(lambda n: n.operand)
    elif isinstance(node, ast.IfExp):
        change(lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)))
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            change(lambda n: ast.Constant(not value))
        elif isinstance(value, int):
            change(lambda n: ast.Constant(value + 1))
        elif isinstance(value, float):
            change(lambda n: ast.Constant(2 * value or 1.0))
    elif isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            if keyword.arg and keyword.arg not in UNSEEN:
                change(lambda n, i=i: n.keywords.pop(i) and n)
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        made.append(ast.Pass())
    return made


def nodes(tree):
    """(node, whether it is a condition, spans of the functions around it, outermost first).

    Texts, what is raised, decorators and annotations are left out.
    """

    def walk(node, around):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            cached = any("cache" in ast.unparse(d) for d in node.decorator_list)
            around = [*around, (first, node.end_lineno, cached)]
        for name, field in ast.iter_fields(node):
            if name in ("decorator_list", "annotation", "exc", "pattern"):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST):
                    continue
                if hasattr(child, "lineno") and not isinstance(child, ast.arg | ast.keyword):
                    yield child, name == "test" and isinstance(node, ast.If | ast.While), around
                yield from walk(child, around)

    yield from walk(tree, [])


def replaced(source, node, other):
    """The source with a node's text replaced."""
    text = ast.unparse(ast.fix_missing_locations(other))
    if isinstance(node, ast.expr):
        text = f"({text})"
    lines = source.encode().splitlines(keepends=True)  # columns count bytes
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    last = lines[node.end_lineno - 1][node.end_col_offset :]
    return (before + text.encode() + last + b"".join(lines[node.end_lineno :])).decode()


def mutants(path, source, each, seed):
    """`each` mutants of a module, or as many as there are lines to change.

    [{key, path, line, was, is, span: of the outermost function around it or None, source}]
    """
    tree, by_line = ast.parse(source), defaultdict(list)
    for node, condition, around in nodes(tree):
        options = changes(node)
        if condition and not isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp):
            options.append(ast.UnaryOp(ast.Not(), copy.deepcopy(node)))
        # what is cached has been computed by whichever test came first
        span = None if not around or any(cached for *_, cached in around) else around[0][:2]
        by_line[node.lineno] += [(node, option, span) for option in options]
    rng = random.Random(f"{seed}/{path}")
    lines = sorted(line for line, options in by_line.items() if options)
    found = []
    for line in rng.sample(lines, len(lines)):
        node, other, span = rng.choice(by_line[line])
        mutated = replaced(source, node, other)
        try:
            same = ast.dump(ast.parse(mutated)) == ast.dump(tree)
        except SyntaxError:
            continue
        if same:
            continue
        key = hashlib.sha256(f"{path}\n{mutated}".encode()).hexdigest()[:12]
        was, now = (" ".join(ast.unparse(x).split())[:90] for x in (node, other))
        row = dict(key=key, path=path, line=line, was=was, now=now, span=span, source=mutated)
        found.append(row)
        if len(found) == each:
            break
    return found


# --- running tests


class Touched:
    """A pytest plugin: which functions of llmbook each test has run, and in which time."""

    def __init__(self, folder):
        self.folder, self.tests, self.made = str(folder) + os.sep, {}, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """The hook around a test."""
        began, self.codes = time.process_time(), set()
        sys.setprofile(self._note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            ran = defaultdict(set)
            for name in item.fixturenames:
                self.codes |= self.made.get(name, set())
            for file, line in self.codes:
                ran[file.removeprefix(self.folder)].add(line)
            seconds = time.process_time() - began
            ran = {file: sorted(lines) for file, lines in ran.items()}
            self.tests[item.nodeid] = {"seconds": seconds, "ran": ran}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        """The hook around a fixture's making, which counts for every test that has it."""
        before, self.codes = self.codes, set()
        try:
            return (yield)
        finally:
            self.made[fixturedef.argname] = self.codes
            self.codes |= before

    def _note(self, frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self.folder):
            self.codes.add((code.co_filename, code.co_firstlineno))


def forget(folder):
    """Drop the modules that were read from a folder; the libraries stay."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def forked(work, seconds, output):
    """The exit status of `work()` in a fork, None when it took too long; it prints into a file."""
    pid = os.fork()
    if not pid:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        with open(output, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 70
        try:
            status = int(work())
        finally:
            sys.stdout.flush()
            os._exit(status)
    end, done = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
    finally:
        if not done:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def chosen(tests, row):
    """The tests that run the changed function, in two parts: a quick one, and what is left."""
    first, last = row["span"] or (0, 10**9)
    names = [
        name
        for name, test in tests.items()
        if any(first <= line <= last for line in test["ran"].get(row["path"], ()))
    ]
    names.sort(key=lambda name: tests[name]["seconds"])
    quick, left, forms, spent = [], [], Counter(), 0
    for name in names:
        test = name.split("[")[0]
        forms[test] += 1
        if forms[test] <= 2 and spent + tests[name]["seconds"] <= QUICK:
            quick.append(name)
            spent += tests[name]["seconds"]
        elif forms[test] <= FORMS:
            left.append(name)
    left = sorted(left)
    return sorted(quick, key=lambda name: name.split("::")[0]), left


class Runner:
    """Tests of a copy of the working tree, a fork for each mutant."""

    def __init__(self, folder):
        self.folder, self.output = folder, folder / "output.txt"
        gone = shutil.ignore_patterns(".git", "_build", "runs", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, folder, ignore=gone, dirs_exist_ok=True)
        sys.dont_write_bytecode = True
        sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        os.chdir(folder)
        self.tests = {}

    def see(self, targets):
        """Run tests as they are, and note what each has run."""
        noted = self.folder / "touched.json"

        def work():
            touched = Touched(self.folder)
            status = pytest.main([*QUIET, *targets], plugins=[touched])
            noted.write_text(json.dumps(touched.tests))
            return status

        if forked(work, 1800, self.output):
            sys.exit(f"tests fail without a change:\n{self.output.read_text()[-3000:]}")
        self.tests = json.loads(noted.read_text())
        pytest.main([*QUIET, "--collect-only", "-qqq", *targets])  # for what it imports
        forget(self.folder)

    def judge(self, row):
        """("killed", by which test), or ("survived", how many tests ran)."""
        path, ran = self.folder / row["path"], 0
        right = path.read_text("utf-8")
        path.write_text(row["source"], "utf-8")
        try:
            for names in chosen(self.tests, row):
                if not names:
                    continue
                seconds = 60 + 8 * sum(self.tests[name]["seconds"] for name in names)
                status = forked(
                    lambda names=names: pytest.main([*QUIET, "-x", *names]), seconds, self.output
                )
                if status == 4 and "ERROR: not found" in self.output.read_text(errors="replace"):
                    sys.exit(self.output.read_text()[-3000:])  # else it cannot be imported
                if status != 0:
                    return "killed", self._failed(status)
                ran += len(names)
        finally:
            path.write_text(right, "utf-8")
        return "survived", ran

    def _failed(self, status):
        if status is None:
            return "took too long"
        text = self.output.read_text(errors="replace").splitlines()
        failed = [line for line in text if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split(" - ")[0] if failed else f"exit status {status}"


# --- the command


def table(rows):
    """Lines: module, mutants, killed, equivalents."""
    by_module = defaultdict(Counter)
    for row in rows:
        kind = "equivalent" if row.get("equivalent") else row["outcome"]
        for name in (row["path"], "all"):
            by_module[name][kind] += 1
    lines = [f"{'module':52} mutants  killed  equivalent  share"]
    for name, n in by_module.items():
        judged = n["killed"] + n["survived"]
        share = f"{n['killed'] / judged:.0%}" if judged else "-"
        line = f"{name:52} {n.total():7} {n['killed']:7} {n['equivalent']:11} {share:>6}"
        lines.append(line)
    return lines


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+", help="folders of llmbook, their tests in tests/")
    parser.add_argument("--each", type=int, default=6, help="mutants a module (6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, required=True, help="JSON with what is known")
    parser.add_argument("--again", action="store_true", help="run survivors again")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no fork stays behind
    state = options.state.resolve()
    known = json.loads(state.read_text()) if state.exists() else {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder).resolve())
        for package in options.packages:
            drawn = []
            for file in sorted(Path("llmbook", package).rglob("*.py")):
                source = file.read_text("utf-8")
                drawn += mutants(str(file), source, options.each, options.seed)
            rows += drawn
            left = [
                row
                for row in drawn
                if row["key"] not in known
                or (
                    options.again
                    and known[row["key"]]["outcome"] == "survived"
                    and not known[row["key"]].get("equivalent")
                )
            ]
            if left:
                runner.see([f"tests/{package}"])
            for n, row in enumerate(left, 1):
                began = time.monotonic()
                outcome, by = runner.judge(row)
                kept = {k: row[k] for k in ("path", "line", "was", "now")}
                seconds = round(time.monotonic() - began, 1)
                known[row["key"]] = kept | {"outcome": outcome, "by": by, "seconds": seconds}
                state.parent.mkdir(parents=True, exist_ok=True)
                state.write_text(json.dumps(known, indent=1, ensure_ascii=False))
                place = f"{row['path']}:{row['line']}"
                print(f"{n}/{len(left)} {place} {row['was']} → {row['now']}: {outcome}, {by}")
                sys.stdout.flush()
        os.chdir(ROOT)
    print(*table([known[row["key"]] for row in rows]), sep="\n")


if __name__ == "__main__":
    main()
