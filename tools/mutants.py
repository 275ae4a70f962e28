"""Small faults that a test should notice: where a source text has room for one, and the text with it.

A mutant is one replacement in the bytes of a file, at the position of a node of its syntax tree, so that everything
else stays as it stands. What cannot matter or is no behaviour is left alone: docstrings and other texts, annotations,
decorators, ``__all__``, imports, assertions (they tell the type checker), what an error says, and the number of digits
of a rounded figure.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "draw", "mutants_of"]

COMPARISONS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
}
ARITHMETIC = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "//": "*",
    "%": "*",
    "**": "*",
    "<<": ">>",
    ">>": "<<",
    "&": "|",
    "|": "&",
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}

_COMPARISON = re.compile(rb"not\s+in\b|is\s+not\b|in\b|is\b|<=|>=|==|!=|<|>")
_ARITHMETIC = re.compile(rb"\*\*|//|<<|>>|[-+*/%&|]")
_BOOLEAN = re.compile(rb"\b(?:and|or)\b")
_COMMENT = re.compile(rb"#[^\n]*")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: path of the file, relative to the root of the repository.
        line: number of the line, from 1.
        start, end: the bytes that are replaced.
        before, after: what stands there, and what is put in its place.
    """

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    def apply(self, source: bytes) -> bytes:
        """The file with the fault.

        Raises:
            ValueError: it is another file than the one in which the place was found.
        """
        if source[self.start : self.end] != self.before.encode():
            raise ValueError(f"{self.file}:{self.line}: expected {self.before!r}, the file has changed")
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line}: {before} -> {after}"


def draw(root: Path, folders: list[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants of the Python files in ``folders``, at most one at each place.

    Args:
        root: the repository; ``folders`` are relative to it.
        count: how many; all there are, where there are fewer.
        seed: the same seed and the same files give the same mutants in the same order.
    """
    sources: dict[str, bytes] = {}
    for file in sorted({file for folder in folders for file in _files(root / folder)}):
        sources[file.relative_to(root).as_posix()] = file.read_bytes()
    found = [one for file, source in sources.items() for one in _candidates(file, source)]
    random.Random(seed).shuffle(found)
    drawn: dict[tuple[str, int], Mutant] = {}
    for mutant in found:
        if len(drawn) == count:
            break
        if (mutant.file, mutant.start) not in drawn and _differs(mutant, sources[mutant.file]):
            drawn[mutant.file, mutant.start] = mutant
    return list(drawn.values())


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.rglob("*.py"))


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every mutant of one file, in the order of its text.

    Args:
        file: its path, for the mutants.
        source: its text, UTF-8.
    """
    return [one for one in _candidates(file, source) if _differs(one, source)]


def _candidates(file: str, source: bytes) -> list[Mutant]:
    """Mutants, some of which may be no program, or the same one."""
    found = set()
    for start, end, after in _Finder(source).of(ast.parse(source)):
        line = source.count(b"\n", 0, start) + 1
        found.add(Mutant(file, line, start, end, source[start:end].decode(), after))
    return sorted(found, key=lambda one: (one.start, one.end, one.after))


def _differs(mutant: Mutant, source: bytes) -> bool:
    """Whether a mutant is a program, and another one."""
    try:
        return ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


#: What is replaced, from where to where (bytes), and by what.
Change = tuple[int, int, str]


class _Finder:
    """Walks a syntax tree and names the changes."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def of(self, node: ast.AST) -> Iterator[Change]:
        """The changes of a node and of what is in it."""
        if _is_no_behaviour(node):
            return
        find = getattr(self, f"_of_{type(node).__name__}", None)
        if find is not None:
            yield from find(node)
        for child in _behaviour_in(node):
            yield from self.of(child)

    # -- expressions -------------------------------------------------------------------------------------------

    def _of_Compare(self, node: ast.Compare) -> Iterator[Change]:
        operands = [node.left, *node.comparators]
        for left, right in itertools.pairwise(operands):
            yield from self._operator(left, right, _COMPARISON, COMPARISONS)

    def _of_BinOp(self, node: ast.BinOp) -> Iterator[Change]:
        if not (_is_text(node.left) or _is_text(node.right)):
            yield from self._operator(node.left, node.right, _ARITHMETIC, ARITHMETIC)

    def _of_BoolOp(self, node: ast.BoolOp) -> Iterator[Change]:
        for left, right in itertools.pairwise(node.values):
            yield from self._operator(left, right, _BOOLEAN, {"and": "or", "or": "and"})

    def _of_UnaryOp(self, node: ast.UnaryOp) -> Iterator[Change]:
        start, end = self._span(node)
        yield start, end, self._text(node.operand)

    def _of_Constant(self, node: ast.Constant) -> Iterator[Change]:
        start, end = self._span(node)
        value = node.value
        if isinstance(value, bool):
            yield start, end, str(not value)
        elif isinstance(value, int | float):
            yield start, end, repr(value + 1)
            yield start, end, f"({value - 1!r})" if value < 1 else repr(value - 1)

    def _of_Call(self, node: ast.Call) -> Iterator[Change]:
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            start, end = self._span(node.func)
            yield start, end, CALLS[node.func.id]

    def _negated(self, test: ast.expr) -> Iterator[Change]:
        """A condition the other way round; comparisons have that already, and ``not`` goes away by itself."""
        if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            start, end = self._span(test)
            yield start, end, f"not {self._text(test)}"

    def _of_IfExp(self, node: ast.IfExp) -> Iterator[Change]:
        yield from self._negated(node.test)

    # -- statements --------------------------------------------------------------------------------------------

    def _of_If(self, node: ast.If) -> Iterator[Change]:
        yield from self._negated(node.test)

    _of_While = _of_If

    def _of_Expr(self, node: ast.Expr) -> Iterator[Change]:
        if isinstance(node.value, ast.Call):
            yield *self._span(node), "pass"

    def _of_Assign(self, node: ast.Assign) -> Iterator[Change]:
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            yield *self._span(node), "pass"

    def _of_AugAssign(self, node: ast.AugAssign) -> Iterator[Change]:
        start, _ = self._span(node.value)
        begin = self._span(node.target)[1]
        match = _ARITHMETIC.search(self._source, begin, start)
        if match is not None and not _is_text(node.value):
            yield match.start(), match.end(), ARITHMETIC[match.group().decode()]
        yield *self._span(node), "pass"

    def _of_Delete(self, node: ast.Delete) -> Iterator[Change]:
        yield *self._span(node), "pass"

    _of_Raise = _of_Delete

    def _of_Return(self, node: ast.Return) -> Iterator[Change]:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            yield *self._span(node.value), "None"

    def _of_Break(self, node: ast.Break) -> Iterator[Change]:
        yield *self._span(node), "continue"

    def _of_Continue(self, node: ast.Continue) -> Iterator[Change]:
        yield *self._span(node), "break"

    # -- places ------------------------------------------------------------------------------------------------

    def _operator(
        self, left: ast.expr, right: ast.expr, pattern: re.Pattern[bytes], others: dict[str, str]
    ) -> Iterator[Change]:
        """The change of the operator between two operands."""
        begin, end = self._span(left)[1], self._span(right)[0]
        between = _COMMENT.sub(lambda comment: b" " * len(comment.group()), self._source[begin:end])
        match = pattern.search(between)
        if match is not None:
            yield begin + match.start(), begin + match.end(), others[" ".join(match.group().decode().split())]

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        text = self._source[start:end].decode()
        return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Constant) else f"({text})"


def _is_no_behaviour(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Global | ast.Nonlocal):
        return True
    if isinstance(node, ast.ClassDef):
        return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__")


def _behaviour_in(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that something depends on when the program runs."""
    if isinstance(node, ast.Raise):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("isinstance", "issubclass", "round"):
            yield from node.args[:1]
            return
        if node.func.id in ("TypeVar", "NewType", "cast"):
            return
    idle = ("annotation", "returns", "decorator_list", "type_params")
    for name, value in ast.iter_fields(node):
        if name not in idle:
            yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
