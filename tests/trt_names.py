"""Every TensorRT name and call in a source, and whether a release has it.

What an expression is follows from how it was made: `trt` is the module, `trt.Builder(...)` a Builder, what its methods
return stands in their signatures. Where a value comes in as `Any`, its name tells (`NAMED`). What stands behind
`hasattr` is taken as checked, and `getattr(trt, "X", None)` is no attribute at all.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SURFACES = Path(__file__).with_name("surfaces")
MODULE = "module"
NAMED: Mapping[str, str] = {
    "trt": MODULE, "_trt": MODULE, "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig",
    "parser": "OnnxParser", "engine": "ICudaEngine", "context": "IExecutionContext", "runtime": "Runtime",
    "inspector": "EngineInspector", "profile": "IOptimizationProfile", "error": "ParserError",
}  # fmt: skip
ATTRIBUTES: Mapping[str, str] = {
    "trt": MODULE, "_trt": MODULE, "_context": "IExecutionContext", "loaded.engine": "ICudaEngine",
    "_loaded.engine": "ICudaEngine",
}  # fmt: skip
OVERLOAD = re.compile(r"(?:^|\| )(?:\d+\. )?(?=\w+\(self)")


@dataclass(frozen=True)
class Signature:
    """One overload without `self`: names in order, those with a default, and what it returns."""

    names: tuple[str, ...]
    optional: frozenset[str]
    returns: str

    def takes(self, positional: int, keywords: frozenset[str]) -> bool:
        given = set(self.names[:positional]) | keywords
        free = set(self.names[positional:])
        return positional <= len(self.names) and keywords <= free and set(self.names) - self.optional <= given


@dataclass(frozen=True)
class Release:
    """What one release has."""

    version: str
    enums: Mapping[str, Mapping[str, int]]
    classes: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, path: Path) -> Release:
        return cls(**json.loads(path.read_text()))

    def kind(self, base: str, attribute: str) -> str | None:
        """What `base.attribute` is: empty where only its being there is known, None where it is not there."""
        word, _, name = base.partition(" ")
        if attribute.startswith("__") and attribute.endswith("__"):
            return f"method {name}.{attribute}" if word == "class" else ""
        if base == MODULE:
            found = {**dict.fromkeys(self.enums, "enum"), **dict.fromkeys(self.classes, "class")}
            return f"{found[attribute]} {attribute}" if attribute in found else None
        if word == "enum":
            return f"member {name}" if attribute in self.enums[name] else None
        if word == "member":
            return "" if attribute in ("name", "value") else None
        text = self.classes[name if word == "class" else base].get(attribute)
        if text is None:
            return None
        owner = name if word == "class" else base
        return (
            f"method {owner}.{attribute}" if "(self" in text else "" if text.startswith("property") else "class-level"
        )

    def signatures(self, owner: str, method: str) -> list[Signature]:
        text = self.classes[owner].get(method, "")
        return [signature(each) for each in OVERLOAD.split(text) if "(self" in each]


def signature(text: str) -> Signature:
    """Read pybind's line `f(self: A, b: int = 0) -> C`."""
    inner, _, returns = text[text.index("(") + 1 :].rpartition(") -> ")
    parts = re.split(r", (?=\w+:)", inner)[1:]
    names = tuple(each.partition(":")[0] for each in parts)
    return Signature(names, frozenset(each.partition(":")[0] for each in parts if " = " in each), returns.strip(" |"))


def releases() -> list[Release]:
    """Those that the code must run on, and the compiler without a GPU."""
    return [Release.read(path) for path in sorted(SURFACES.glob("*.json"))]


@dataclass(frozen=True)
class Use:
    """One attribute of something of TensorRT's; `call` where it is called, `stored` where it is set."""

    base: str
    attribute: str
    line: int
    call: tuple[int, frozenset[str]] | None = None
    stored: bool = False

    def trouble(self, release: Release) -> str | None:
        """What a release would answer, or None."""
        kind = release.kind(self.base, self.attribute)
        where = f"line {self.line}: TensorRT {release.version}"
        if kind is None:
            return f"{where}: {self.base} has no {self.attribute}"
        owner, _, method = kind.removeprefix("method ").partition(".")
        if self.stored and release.classes.get(self.base, {}).get(self.attribute) != "property(rw)":
            return f"{where}: {self.base}.{self.attribute} cannot be set"
        if self.call is None or method.startswith("__"):
            return None
        if kind.startswith("class "):
            owner, method = kind.removeprefix("class "), "__init__"
        if not any(each.takes(*self.call) for each in release.signatures(owner, method)):
            return f"{where}: {owner}.{method} takes no {self.call[0]} arguments and {sorted(self.call[1])}"
        return None


@dataclass
class Reader(ast.NodeVisitor):
    """Walks a source and collects the uses.

    Attributes:
        known: the releases, for what a method returns.
        returned: what the source's own functions return, from an earlier walk.
    """

    known: list[Release]
    returned: dict[str, str] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    unresolved: list[tuple[str, int]] = field(default_factory=list)
    scope: dict[str, str] = field(default_factory=dict)
    guarded: list[str] = field(default_factory=list)
    function: str = ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, outer_function = self.scope, self.function
        self.scope, self.function = dict(outer), node.name
        for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            is_any = each.annotation is not None and ast.unparse(each.annotation) == "Any"
            self.scope.pop(each.arg, None)
            if each.arg in NAMED and (is_any or NAMED[each.arg] == MODULE):
                self.scope[each.arg] = NAMED[each.arg]
        self.generic_visit(node)
        self.scope, self.function = outer, outer_function

    def visit_Return(self, node: ast.Return) -> None:
        self.generic_visit(node)
        if node.value is not None and (kind := self.kind(node.value)):
            self.returned[self.function] = kind

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    self.bind(name.id, self.kind(value))

    def visit_For(self, node: ast.For) -> None:
        self.bind_element(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.bind_element(node.target, node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp) -> None:
        for each in node.generators:  # they bind the names that the element uses
            self.visit(each)
        for value in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(value)

    visit_GeneratorExp = visit_SetComp = visit_DictComp = visit_ListComp  # noqa: N815  # ast's names

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        asked = [
            argument.value
            for call in ast.walk(node.test)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "hasattr"
            for argument in call.args[1:]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        self.visit(node.test)
        self.guarded += asked
        for each in node.body if isinstance(node.body, list) else [node.body]:
            self.visit(each)
        del self.guarded[len(self.guarded) - len(asked) :]
        for each in node.orelse if isinstance(node.orelse, list) else [node.orelse]:
            self.visit(each)

    visit_IfExp = visit_If  # noqa: N815  # ast's name

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A subclass of one of TensorRT's: what it overrides must be there, with as many arguments."""
        for base in node.bases:
            kind = self.kind(base) or ""
            for each in node.body if kind.startswith("class ") else ():
                if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and each.name not in OWN:
                    self.use(
                        kind.removeprefix("class "), each.name, each.lineno, (len(each.args.args) - 1, frozenset())
                    )
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        is_plain = not any(isinstance(each, ast.Starred) for each in node.args) and all(k.arg for k in node.keywords)
        if isinstance(node.func, ast.Attribute) and (base := self.kind(node.func.value)):
            keywords = frozenset(each.arg for each in node.keywords if each.arg)
            self.use(base, node.func.attr, node.lineno, (len(node.args), keywords) if is_plain else None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if base := self.kind(node.value):
            self.use(base, node.attr, node.lineno, None, stored=isinstance(node.ctx, ast.Store))
        else:
            self.unresolved.append((node.attr, node.lineno))

    def use(
        self, base: str, name: str, line: int, call: tuple[int, frozenset[str]] | None, *, stored: bool = False
    ) -> None:
        if name not in self.guarded and not base.startswith(("list ", "method ")):
            self.uses.append(Use(base, name, line, call, stored))

    def bind(self, name: str, kind: str | None) -> None:
        """A local name gets a new meaning; `trt` has but one."""
        kind = MODULE if name == "trt" else kind
        self.scope.pop(name, None)
        if kind:
            self.scope[name] = kind

    def bind_element(self, target: ast.expr, source: ast.expr) -> None:
        if isinstance(target, ast.Name):
            kind = self.kind(source) or ""
            self.bind(target.id, kind.removeprefix("list ") if kind.startswith("list ") else None)

    def kind(self, node: ast.expr) -> str | None:
        """What an expression is, or None where it is nothing of TensorRT's that is known."""
        if isinstance(node, ast.Name):
            return self.scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute_kind(node)
        if isinstance(node, ast.Call):
            return self.call_kind(node)
        if isinstance(node, ast.IfExp):
            return self.kind(node.body) or self.kind(node.orelse)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            for each in node.generators:
                self.bind_element(each.target, each.iter)
            inner = self.kind(node.elt)
            return f"list {inner}" if inner else None
        return None

    def attribute_kind(self, node: ast.Attribute) -> str | None:
        if base := self.kind(node.value):
            found = [each.kind(base, node.attr) for each in self.known]
            return next((each for each in found if each and " " in each), None)
        text = ast.unparse(node)
        return next((kind for end, kind in ATTRIBUTES.items() if text.endswith(f".{end}") or text == end), None)

    def call_kind(self, node: ast.Call) -> str | None:
        made = self.kind(node.func) or ""
        word, _, name = made.partition(" ")
        if word == "class":
            return name
        if word == "method":
            returns = {each.returns for known in self.known for each in known.signatures(*name.split("."))}
            classes = {part for each in returns for part in known_class(each, self.known)}
            return classes.pop() if len(classes) == 1 else None
        if isinstance(node.func, ast.Name) and node.func.id in self.returned:
            return self.returned[node.func.id]
        if node.args and isinstance(node.args[0], ast.Lambda):
            return self.kind(node.args[0].body)
        return None


OWN = frozenset({"clear"})  # what our subclasses add


def known_class(text: str, known: list[Release]) -> Iterator[str]:
    """Classes of TensorRT's that a return type names; the parser's errors go by another name there."""
    name = {"IParserError": "ParserError"}.get(text, text)
    if any(name in each.classes for each in known):
        yield name
    elif any(name in each.enums for each in known):
        yield f"member {name}"


def read_uses(source: str, known: list[Release]) -> Reader:
    """Walk a source twice: the second time with what its functions return."""
    tree = ast.parse(source)
    first = Reader(known)
    first.visit(tree)
    second = Reader(known, returned=first.returned)
    second.visit(tree)
    return second


def distinctive(known: list[Release]) -> set[str]:
    """Names that only TensorRT uses here, so that an attribute of such a name must have been understood."""
    classes = {name for release in known for name in (*release.classes, *release.enums)}
    members = {name for release in known for each in release.classes.values() for name in each}
    return (classes | members) - COMMON


COMMON = frozenset(
    {"name", "shape", "dtype", "nbytes", "engine", "log", "type", "location", "inputs", "INFO", "ERROR", "WARNING"}
)


def troubles(source: str, known: list[Release]) -> list[str]:
    """Everything in a source that some release lacks."""
    found: list[Any] = [use.trouble(release) for use in read_uses(source, known).uses for release in known]
    return [each for each in found if each]
