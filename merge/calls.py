"""Calls in expressions: which models, which base, which parameters a method was given.

`ties(base, [a: 1.0, b: 0.5], density=0.3)`, `slerp(a, b, t=0.4)`, `half_reset(chat, base, ratio=0.5, seed=7)`.
A parameter of the whole method takes a number, or a list of numbers as a gradient over the layers; a parameter that
every model has for itself takes a number for all of them, or a list with one for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merge.expression import Argument, Item, Listing, Name, Node
from merge.expression import Call as CallNode
from merge.formula import Call, Difference, Formula, Leaf, Linear, linear
from merge.methods import METHODS
from merge.methods.base import REQUIRED, Method, Parameter
from merge.parameters import Gradient, nearest, problem_with

if TYPE_CHECKING:
    from merge.formula import _Reader


def bind(node: CallNode, reader: _Reader) -> Call:
    """A call with its models and parameters. Raises ExpressionError, with the character, for what does not fit."""
    if node.method not in METHODS:
        raise reader.fail(f"there is no method '{node.method}'; {nearest(node.method, METHODS)}", node.position)
    method = METHODS[node.method]
    plain = [argument for argument in node.arguments if argument.keyword is None]
    keyed = {argument.keyword: argument for argument in node.arguments if argument.keyword is not None}
    base, items = _models(method, plain, keyed, node, reader)
    ground = None if base is None else _model(base, None, reader)
    models = tuple(_model(item.value, ground, reader) for item in items)
    fewest, most = method.count
    if len(models) < fewest or (most is not None and len(models) > most):
        wanted = str(fewest) if most == fewest else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise reader.fail(f"{method.name} takes {wanted} models, {len(models)} are given", node.position)
    seed = _seed(method, keyed.pop("seed", None), node, reader)
    common, each = _parameters(method, keyed, items, node, reader)
    return Call(method.name, models, ground, common, each, seed)


def _models(
    method: type[Method], plain: list[Argument], keyed: dict[str, Argument], node: CallNode, reader: _Reader
) -> tuple[Node | None, list[Item]]:
    """The base and the models, from their places or from `base=` and `models=`."""
    given: dict[str, list[Argument]] = {slot: [keyed.pop(slot)] for slot in ("base", "models") if slot in keyed}
    slots = [slot for slot in method.arguments if slot not in given]
    for index, slot in enumerate(slots):
        later = len(slots) - index - 1
        taken = 1 if slot == "base" else max(0, len(plain) - later)
        given[slot], plain = plain[:taken], plain[taken:]
    if plain:
        raise reader.fail(f"{method.name} takes {_usage(method)}", plain[0].position)
    base = given.get("base") or []
    if method.base == "required" and (not base or isinstance(base[0].value, Listing)):
        raise reader.fail(f"{method.name} needs a base: {_usage(method)}", node.position)
    if method.base == "none" and base:
        raise reader.fail(f"{method.name} has no base: {_usage(method)}", base[0].position)
    items: list[Item] = []
    for argument in given.get("models") or []:
        items += argument.value.items if isinstance(argument.value, Listing) else [Item(argument.value, None)]
    return (base[0].value if base else None), items


def _usage(method: type[Method]) -> str:
    shown = {"base": "base", "models": "[a, b]"}
    return f"{method.name}({', '.join(shown[slot] for slot in method.arguments)}, ...)"


def _model(node: Node, base: Formula | None, reader: _Reader) -> Formula:
    """A model among the arguments; a task vector is taken as the base plus that vector."""
    terms = reader.reduce(node)
    place = getattr(node, "position", 0)
    if terms.pop(None, 0.0):
        raise reader.fail("a number stands where a model is expected", place)
    if base is not None and abs(reader.total(terms)) < 1e-6:
        parts = [Difference(weight, term, None) for term, weight in terms.items() if _is_vector(term, reader)]
        points = {term: weight for term, weight in terms.items() if not _is_vector(term, reader)}
        if points:
            begin = next(iter(points))
            moved = linear({**points, begin: points[begin] + 1.0}, begin)
            parts += moved.differences if isinstance(moved, Linear) else ()
        return Linear(base, tuple(parts))
    reader.check_sum(terms, 1, place)
    return linear(terms, None, reader.vectors)


def _is_vector(term: Any, reader: _Reader) -> bool:
    return isinstance(term, Leaf) and term.name in reader.vectors


def _seed(method: type[Method], argument: Argument | None, node: CallNode, reader: _Reader) -> int:
    if argument is None:
        return 0
    if not method.random:
        raise reader.fail(f"{method.name} draws no random numbers, so it takes no seed", argument.position)
    value = _value(Parameter("seed", "", kind=int, low=0), argument, reader)
    return int(value)


def _parameters(
    method: type[Method], keyed: dict[str, Argument], items: list[Item], node: CallNode, reader: _Reader
) -> tuple[tuple[tuple[str, Any], ...], tuple[tuple[str, tuple[Any, ...]], ...]]:
    known = {parameter.name: parameter for parameter in method.parameters}
    for name, argument in keyed.items():
        if name not in known:
            raise reader.fail(f"{method.name} has no parameter '{name}'; {nearest(name, known)}", argument.position)
    common, each = [], []
    for name, parameter in known.items():
        if parameter.each:
            each.append((name, _each(parameter, keyed.get(name), items, node, reader)))
        elif name in keyed:
            common.append((name, _value(parameter, keyed[name], reader)))
        else:
            common.append((name, _default(parameter, node, reader)))
    if any(item.weight is not None for item in items) and "weight" not in known:
        raise reader.fail(f"the models of {method.name} have no weights", node.position)
    return tuple(common), tuple(each)


def _default(parameter: Parameter, node: CallNode, reader: _Reader) -> Any:
    if parameter.default is REQUIRED:
        raise reader.fail(f"{node.method} needs {parameter.name}", node.position)
    return parameter.default


def _each(
    parameter: Parameter, argument: Argument | None, items: list[Item], node: CallNode, reader: _Reader
) -> tuple[Any, ...]:
    """One value for each model: from behind its colon (weights), from a list, or one for all of them."""
    if parameter.name == "weight" and any(item.weight is not None for item in items):
        if argument is not None:
            raise reader.fail("weights are given twice, behind the models and as weight=", argument.position)
        behind = [Argument(None, item.weight, node.position) if item.weight else None for item in items]
        return tuple(_value(parameter, a, reader) if a else _default(parameter, node, reader) for a in behind)
    if argument is None:
        fallback = 1.0 if parameter.name == "weight" and parameter.default is REQUIRED else None
        value = fallback if fallback is not None else _default(parameter, node, reader)
        return (value,) * len(items)
    if isinstance(argument.value, Listing):
        if len(argument.value.items) != len(items):
            raise reader.fail(
                f"{parameter.name} has {len(argument.value.items)} values for {len(items)} models", argument.position
            )
        return tuple(
            _value(parameter, Argument(None, i.value, argument.position), reader) for i in argument.value.items
        )
    return (_value(parameter, argument, reader),) * len(items)


def _value(parameter: Parameter, argument: Argument, reader: _Reader) -> Any:
    node = argument.value
    if isinstance(node, Listing):
        parts = [_number(parameter, item.value, argument, reader) for item in node.items]
        value: Any = Gradient(tuple(parts))
    elif isinstance(node, Name):
        value = {"true": True, "false": False}.get(node.name, node.name)
    else:
        value = _number(parameter, node, argument, reader)
    problem = problem_with(parameter, value)
    if problem:
        raise reader.fail(problem, argument.position)
    return value


def _number(parameter: Parameter, node: Node, argument: Argument, reader: _Reader) -> float:
    terms = reader.reduce(node)
    if set(terms) != {None}:
        raise reader.fail(f"{parameter.name} is a number, not a model", argument.position)
    value = terms[None]
    return int(value) if parameter.kind is int and value == int(value) else value
