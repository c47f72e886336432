"""Every small way to break a module: a guard forced or turned round, an effect or a row taken out.

A mutant is one change to the module's syntax tree. The operators are those that matter for a
protocol whose guards are data and conditions:

- a condition is forced true, forced false, or one of its operands is taken out;
- a comparison is turned round;
- a row of a table, or a member of a set or a tuple of phases and inputs, is taken out;
- an effect is taken out, or done before the one that it follows;
- an append is made less durable, or reaches nobody;
- a field that a step sets is left as it was;
- a case of a ``match``, or a statement that does something, is taken out.

A shell awaits, and fails, and is interrupted; so there are, for shells alone, those of its order:

- a statement that does something is done after the one that follows it;
- what a block is entered for, such as a lock or a deadline, is taken out, and the block stays;
- what is caught, or one kind of it, is raised all the same;
- a loop is left out, or never ends;
- a flag that is given by its name, or is answered, is turned round.

What only tells somebody of what happens is no guard, and nothing in it is changed: a line of the
log or a figure, the words of a message, and the functions that make nothing else. Nor is what a
role rehearses, which has no effect but that it is done faster when it counts.

It must not know which tests there are.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

_TURNED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_LESS_DURABLE: Final = {"JOURNALED": "LAGGING", "FLUSHING": "LAGGING", "LOGGED": "LAGGING"}
_LESS_DURABLE_CALL: Final = {"journaled": "lagging"}
_UPDATES: Final = {"_replace", "replace"}
_TELLING: Final = {"_log", "logging", "metrics"}
"""A statement that calls one of these only tells."""
_REHEARSALS: Final = {"rehearse", "_rehearse", "_rehearse_stun"}
"""What is done beforehand has no effect but that it is done faster again."""
_TELLING_FUNCTIONS: Final = {"_report", "_words", "_explained"}
_BODIES: Final = ("body", "orelse", "finalbody")
_SHOWN_MAX: Final = 90


New = ast.AST | list[ast.stmt] | None


class Spot(NamedTuple):
    """Where a change is made: a field of the n-th node of a walk, and the place in it if a list."""

    node: int
    field: str
    place: int | None = None


@dataclass(frozen=True)
class Mutant:
    """One change. ``key`` stays the same while the function around it does not change."""

    function: str
    line: int
    operator: str
    before: str
    after: str
    spot: Spot
    replacement: New
    """None takes the node out; statements take the place of all that were there."""

    @property
    def key(self) -> str:
        """Names the mutant, without its line."""
        return f"{self.function}: {self.operator}: {self.before} -> {self.after}"

    def applied(self, source: str) -> ast.Module:
        """The changed module."""
        tree = ast.parse(source)
        owner = list(ast.walk(tree))[self.spot.node]
        replacement = copy.deepcopy(self.replacement)
        if self.spot.place is None:
            setattr(owner, self.spot.field, replacement)
        elif replacement is not None:
            getattr(owner, self.spot.field)[self.spot.place] = replacement
        else:
            del getattr(owner, self.spot.field)[self.spot.place]
            if isinstance(owner, ast.Dict):
                del owner.values[self.spot.place]
            if isinstance(owner, ast.BoolOp) and len(owner.values) == 1:
                owner.values *= 2  # a BoolOp has two operands at least
        return ast.fix_missing_locations(tree)


def mutants(source: str, *, is_shell: bool = False) -> list[Mutant]:
    """All mutants of a module, by line; equal ones of one function get a number."""
    tree = ast.parse(source)
    found: list[Mutant] = []
    names = _functions(tree)
    seen: dict[str, int] = {}
    operators = (*_OPERATORS, *_SHELL_OPERATORS) if is_shell else _OPERATORS
    left_alone = set(_that_guard_nothing(tree)) if is_shell else set[ast.AST]()
    # What such a module appends is held to its durability by the reviewed tables.
    missing = {less for less in _LESS_DURABLE_CALL.values() if less not in _imported(tree)}
    for number, node in enumerate(ast.walk(tree)):
        function = names.get(node, "")
        for operator, spot, old, new in _changes(operators, number, node):
            if node in left_alone or old in left_alone or getattr(new, "id", "") in missing:
                continue
            line = getattr(old, "lineno", getattr(node, "lineno", 0))
            before, after = _shown(old), _shown(new) if new is not None else "(nothing)"
            mutant = Mutant(function, line, operator, before, after, spot, new)
            seen[mutant.key] = seen.get(mutant.key, 0) + 1
            if seen[mutant.key] > 1:
                numbered = f"{operator} {seen[mutant.key]}"
                mutant = Mutant(function, line, numbered, before, after, spot, new)
            found.append(mutant)
    return sorted(found, key=lambda mutant: mutant.line)


def _imported(tree: ast.Module) -> set[str]:
    """The names by which a module calls what is another's, or its own."""
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


Change = tuple[str, Spot, ast.AST, New]
Operator = Callable[[int, ast.AST], Iterator[Change]]


def _changes(operators: Sequence[Operator], number: int, node: ast.AST) -> Iterator[Change]:
    for look in operators:
        yield from look(number, node)


def _that_guard_nothing(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if _is_no_guard(node):
            yield from ast.walk(node)
        made = [*getattr(node, "decorator_list", ()), *_keywords_of_class(node)]
        for each in made:  # what a class is made of is the type checker's to hold
            yield from ast.walk(each)


def _keywords_of_class(node: ast.AST) -> list[ast.keyword]:
    return node.keywords if isinstance(node, ast.ClassDef) else []


def _is_no_guard(node: ast.AST) -> bool:
    """What only tells, and the case that says that there is nothing else to do."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name in _TELLING_FUNCTIONS
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        first = node.value.func
        if _last_name(first) in _REHEARSALS:
            return True
        while isinstance(first, ast.Attribute):
            first = first.value
        return isinstance(first, ast.Name) and first.id in _TELLING
    if isinstance(node, ast.match_case):
        return isinstance(node.body[0], ast.Pass)
    return isinstance(node, ast.JoinedStr)


def _conditions(number: int, node: ast.AST) -> Iterator[Change]:
    """Each condition of an ``if`` or a conditional expression, and of a case, forced both ways."""
    if isinstance(node, ast.If | ast.IfExp):
        yield from _forced(Spot(number, "test"), node.test)
    if isinstance(node, ast.match_case) and node.guard is not None:
        yield from _forced(Spot(number, "guard"), node.guard)
    if isinstance(node, ast.comprehension):
        for place, test in enumerate(node.ifs):
            yield from _forced(Spot(number, "ifs", place), test)


def _forced(spot: Spot, test: ast.expr) -> Iterator[Change]:
    for value in (True, False):
        yield f"forced {value}".lower(), spot, test, ast.Constant(value)


def _operands(number: int, node: ast.AST) -> Iterator[Change]:
    """Each operand of ``and`` and ``or``."""
    if isinstance(node, ast.BoolOp):
        for place, operand in enumerate(node.values):
            yield "operand out", Spot(number, "values", place), operand, None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        turned = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
        yield "not out", Spot(number, "operand"), node, ast.UnaryOp(ast.Not(), turned)


def _comparisons(number: int, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            turned = _TURNED[type(op)]()
            yield "turned round", Spot(number, "ops", place), node, turned


def _rows(number: int, node: ast.AST) -> Iterator[Change]:
    """Rows of tables, and members of sets and of tuples of names, outside of returned results."""
    if isinstance(node, ast.Set):
        for place, member in enumerate(node.elts):
            yield "member out", Spot(number, "elts", place), member, None
    if isinstance(node, ast.Tuple) and _is_of_names(node):
        for place, member in enumerate(node.elts):
            yield "member out", Spot(number, "elts", place), member, None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "row":
        for place, phase in enumerate(node.args[1:], start=1):
            yield "phase out", Spot(number, "args", place), phase, None


def _is_of_names(node: ast.Tuple) -> bool:
    """Such as ``(inp.LinkLost, inp.Tick)``, but not a pair that is a key or is unpacked."""
    if isinstance(node.ctx, ast.Store) or len(node.elts) < 3:
        return False
    return all(isinstance(each, ast.Attribute | ast.Starred) for each in node.elts)


def _effects(number: int, node: ast.AST) -> Iterator[Change]:
    """Each effect of a returned ``(state, (effect, …))``, and each pair of neighbours."""
    value = node.value if isinstance(node, ast.Return) else None
    if not isinstance(value, ast.Tuple):
        return
    for place, part in enumerate(value.elts):
        if not isinstance(part, ast.Tuple):
            continue
        for index, effect in enumerate(part.elts):
            left = ast.Tuple([*part.elts[:index], *part.elts[index + 1 :]], ast.Load())
            changed = _with_part(value, place, left)
            yield "effect out", Spot(number, "value"), effect, changed
        for index in range(len(part.elts) - 1):
            swapped = [*part.elts]
            swapped[index], swapped[index + 1] = swapped[index + 1], swapped[index]
            changed = _with_part(value, place, ast.Tuple(swapped, ast.Load()))
            yield "effect before", Spot(number, "value"), part.elts[index + 1], changed


def _with_part(value: ast.Tuple, place: int, part: ast.Tuple) -> ast.Tuple:
    return ast.Tuple([*value.elts[:place], part, *value.elts[place + 1 :]], ast.Load())


def _durability(number: int, node: ast.AST) -> Iterator[Change]:
    if not isinstance(node, ast.Call):
        return
    for place, keyword in enumerate(node.keywords):
        less = _LESS_DURABLE.get(getattr(keyword.value, "attr", ""))
        if keyword.arg == "durability" and less is not None:
            lesser = ast.Attribute(ast.Name("Durability", ast.Load()), less, ast.Load())
            changed = ast.keyword("durability", _like(keyword.value, lesser))
            yield "less durable", Spot(number, "keywords", place), keyword, changed
        if keyword.arg in ("to", "held"):
            yield f"no {keyword.arg}", Spot(number, "keywords", place), keyword, None
    for place, argument in enumerate(node.args):
        less = _LESS_DURABLE.get(getattr(argument, "attr", ""))
        if less is not None:
            changed_argument = _like(argument, ast.Attribute(argument, less, ast.Load()))
            yield "less durable", Spot(number, "args", place), argument, changed_argument
    less = _LESS_DURABLE_CALL.get(getattr(node.func, "id", ""))
    if less is not None:
        yield "less durable", Spot(number, "func"), node.func, ast.Name(less, ast.Load())


def _like(original: ast.AST, lesser: ast.Attribute) -> ast.Attribute:
    """``lesser`` as an attribute of whatever the original is one of, such as ``fx.Durability``."""
    assert isinstance(original, ast.Attribute)
    return ast.Attribute(original.value, lesser.attr, ast.Load())


def _updates(number: int, node: ast.AST) -> Iterator[Change]:
    """Each field that a step sets, left as it was."""
    if isinstance(node, ast.Call) and _last_name(node.func) in _UPDATES:
        for place, keyword in enumerate(node.keywords):
            yield "left as it was", Spot(number, "keywords", place), keyword, None


def _last_name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _statements(number: int, node: ast.AST) -> Iterator[Change]:
    """Cases, and statements that do something."""
    if isinstance(node, ast.Match):
        for place, case in enumerate(node.cases):
            if len(node.cases) > 1:
                yield "case out", Spot(number, "cases", place), case.pattern, None
    if isinstance(node, ast.Dict) and len(node.keys) > 1:
        for place, key in enumerate(node.keys):
            if key is not None:
                yield "row out", Spot(number, "keys", place), key, None
    for field in _BODIES:
        children = getattr(node, field, None)
        if not isinstance(children, list):
            continue
        for place, child in enumerate(children):
            if _does_something(child):
                yield "statement out", Spot(number, field, place), child, ast.Pass()


def _does_something(statement: ast.AST) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call | ast.Await)
    if isinstance(statement, ast.Assign):
        return isinstance(statement.targets[0], ast.Subscript | ast.Attribute)
    return isinstance(statement, ast.AugAssign | ast.Raise)


def _order(number: int, node: ast.AST) -> Iterator[Change]:
    """Two neighbours that each do something, the other way round."""
    for field in _BODIES:
        children = getattr(node, field, None)
        if not isinstance(children, list):
            continue
        for place, (first, second) in enumerate(pairwise(children)):
            if _is_done(first) and _is_done(second):
                swapped = [*children[:place], second, first, *children[place + 2 :]]
                yield "done after", Spot(number, field), first, swapped


def _is_done(statement: ast.AST) -> bool:
    is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call | ast.Await)
    return is_call and not _is_no_guard(statement)


def _blocks(number: int, node: ast.AST) -> Iterator[Change]:
    """Each block, entered for nothing; and each handler, that raises what it caught."""
    for field in _BODIES:
        children = getattr(node, field, None)
        for place, child in enumerate(children if isinstance(children, list) else ()):
            if isinstance(child, ast.With | ast.AsyncWith):
                for index, item in enumerate(child.items):
                    if item.optional_vars is None:
                        left = [*child.items[:index], *child.items[index + 1 :]]
                        bare = _without(child, left)
                        yield "not entered", Spot(number, field, place), item, bare
    if isinstance(node, ast.Try):
        for place, handler in enumerate(node.handlers):
            if isinstance(handler.body[0], ast.Raise) and handler.body[0].exc is None:
                continue
            raising = ast.ExceptHandler(handler.type, handler.name, [ast.Raise()])
            yield "raised", Spot(number, "handlers", place), handler.type or handler, raising
    if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Tuple):
        for place, kind in enumerate(node.type.elts):
            left_kinds = [*node.type.elts[:place], *node.type.elts[place + 1 :]]
            yield "kind out", Spot(number, "type"), kind, ast.Tuple(left_kinds, ast.Load())


def _without(block: ast.With | ast.AsyncWith, left: list[ast.withitem]) -> ast.stmt:
    if left:
        return ast.copy_location(type(block)(left, block.body), block)
    return ast.If(ast.Constant(True), block.body, [])


def _loops(number: int, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        yield from _forced(Spot(number, "test"), node.test)


def _flags(number: int, node: ast.AST) -> Iterator[Change]:
    """Each flag that is given by its name, and each that is answered."""
    if isinstance(node, ast.keyword | ast.Return):
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            yield "flag turned", Spot(number, "value"), node, ast.Constant(not value.value)


_OPERATORS: Final[tuple[Operator, ...]] = (
    _conditions,
    _operands,
    _comparisons,
    _rows,
    _effects,
    _durability,
    _updates,
    _statements,
)
_SHELL_OPERATORS: Final[tuple[Operator, ...]] = (_order, _blocks, _loops, _flags)


def _functions(tree: ast.Module) -> dict[ast.AST, str]:
    """The function, or the name at the top of the module, that each node belongs to."""
    names: dict[ast.AST, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{name}.{node.name}" if name else node.name
        elif not name and isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name = ast.unparse(target)
        names[node] = name
        for child in ast.iter_child_nodes(node):
            visit(child, name)

    visit(tree, "")
    return names


def _shown(node: ast.AST | list[ast.stmt]) -> str:
    if isinstance(node, list):
        return "its neighbour"
    text = " ".join(ast.unparse(node).split()) if not isinstance(node, ast.cmpop) else _sign(node)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


def _sign(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[1:-1].strip()
