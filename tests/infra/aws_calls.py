"""A reader of the AWS operations that the project's sources call.

It recognises clients where they are created (``x.client("s3")``), where they are assigned, and by name: a
client of EMR is called ``emr``. It reports calls that look like AWS calls but have no known client, so
that no call is missed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

SERVICES = ("budgets", "ce", "cloudwatch", "ec2", "emr", "events", "iam", "pricing", "s3", "sns", "sts")


@dataclass(frozen=True, order=True)
class Call:
    """One operation of one service, and where it is called."""

    service: str  # its name in boto3
    operation: str  # its name in the service's model
    where: str


@dataclass
class Usage:
    """The AWS operations that the sources use."""

    calls: list[Call] = field(default_factory=list)
    obstore: dict[str, str] = field(default_factory=dict)  # function: where
    provider: dict[str, str] = field(default_factory=dict)  # class of Airflow's Amazon provider: where
    unclear: list[str] = field(default_factory=list)  # calls whose service or operation is unknown


@cache
def methods(service: str) -> dict[str, str]:
    """A client's methods and their operations."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): name for name in model.operation_names}


@cache
def _all_methods() -> frozenset[str]:
    return frozenset(name for service in SERVICES for name in methods(service))


# Methods of other libraries (of Airflow's hooks) that have the name of an operation.
_NOT_OF_AWS = {"get_session"}


def find(*paths: Path) -> Usage:
    """The operations of the given files, and of the files below the given folders."""
    usage = Usage()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            find_in(file.read_text(), "/".join(file.parts[-4:]), usage)
    return usage


def used_by(roots: list[Path], folders: list[Path]) -> dict[str, Path]:
    """Modules below ``folders`` that ``roots`` reach by any of their imports."""
    reached = {path.stem: path for path in roots}
    waiting = list(roots)
    while waiting:
        for name in _imports(ast.parse(waiting.pop().read_text())):
            module = name.replace(".", "/")
            files = (f"{module}.py", f"{module}/__init__.py")
            places = [folder / file for folder in folders for file in files]
            for path in filter(Path.is_file, places):
                if name not in reached:
                    reached[name] = path
                    waiting.append(path)
    return reached


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_in(source: str, name: str, usage: Usage) -> None:
    """Add the operations of ``source`` to ``usage``."""
    _Reader(name, usage).visit(ast.parse(source))


class _Reader(ast.NodeVisitor):
    def __init__(self, name: str, usage: Usage) -> None:
        self.name = name
        self.usage = usage
        self.imported: set[str] = set()
        self.hooks: set[str] = set()  # services of the provider's modules that are imported
        self.scopes: list[dict[str, str]] = [{}]

    # Names

    def visit_Import(self, node: ast.Import) -> None:
        self.imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imported |= {alias.asname or alias.name for alias in node.names}
        module = (node.module or "").split(".")
        # The provider's `utils` have no clients.
        if module[:3] == ["airflow", "providers", "amazon"] and "utils" not in module:
            for alias in node.names:
                self.usage.provider.setdefault(alias.name, self._at(node))
            if module[-1] != "base_aws":
                self.hooks.add(module[-1])
        if module[0] == "obstore" and module[1:2] not in (["exceptions"], ["store"], ["auth"]):
            for alias in node.names:
                self.usage.obstore.setdefault(alias.name, self._at(node))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.scopes.append({})
        self.generic_visit(node)
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self._bind(node.target, node.value)
        self.generic_visit(node)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                self._bind(one, its)
        elif isinstance(target, ast.Name):
            service = self._service(value)
            if service:
                self.scopes[-1][target.id] = service

    def _service(self, node: ast.expr) -> str | None:
        """The service of the client that an expression gives."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "client" and node.args and isinstance(node.args[0], ast.Constant):
                return str(node.args[0].value)
            if node.func.attr in ("get_conn", "get_async_conn"):
                return self._hooks_service(node)
        if isinstance(node, ast.Await):
            return self._service(node.value)
        if isinstance(node, ast.Attribute):
            if node.attr in ("conn", "async_conn"):
                return self._hooks_service(node)
            return _by_name(node.attr)
        if isinstance(node, ast.Name):
            for scope in reversed(self.scopes):
                if node.id in scope:
                    return scope[node.id]
            return None if node.id in self.imported else _by_name(node.id)
        return None

    def _hooks_service(self, node: ast.expr) -> str | None:
        # In a file that imports no operator, the variable's name decides.
        return next(iter(self.hooks)) if len(self.hooks) == 1 else None

    # Calls

    def visit_Attribute(self, node: ast.Attribute) -> None:
        service = self._service(node.value)
        if isinstance(node.value, ast.Name) and node.value.id == "obstore" and "obstore" in self.imported:
            self.usage.obstore.setdefault(node.attr, self._at(node))
        elif service in SERVICES and node.attr in methods(service):
            self.usage.calls.append(Call(service, methods(service)[node.attr], self._at(node)))
        elif node.attr in _all_methods() - _NOT_OF_AWS and not self._is_imported(node.value):
            self.usage.unclear.append(f"{self._at(node)}: {ast.unparse(node)}: of which service?")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute):
            first = node.args[0] if node.args else None
            literal = first.value if isinstance(first, ast.Constant) else None
            if function.attr in ("get_paginator", "get_waiter"):
                self._ask(function, literal, node)
            elif function.attr == "resource" and literal in SERVICES:
                self.usage.unclear.append(f"{self._at(node)}: resources hide their calls; use a client")
            elif function.attr == "client" and literal not in SERVICES:
                self.usage.unclear.append(f"{self._at(node)}: {ast.unparse(node)[:60]}: which service?")
        elif isinstance(function, ast.Name) and function.id == "getattr" and self._service(node.args[0]):
            self.usage.unclear.append(f"{self._at(node)}: {ast.unparse(node)}: which operation?")
        self.generic_visit(node)

    def _ask(self, function: ast.Attribute, literal: object, node: ast.Call) -> None:
        service = self._service(function.value)
        if service not in SERVICES or not isinstance(literal, str):
            self.usage.unclear.append(f"{self._at(node)}: {ast.unparse(node)}: of which service?")
        elif function.attr == "get_paginator":
            self.usage.calls.append(Call(service, methods(service)[literal], self._at(node)))
        else:
            model = botocore.session.get_session().get_waiter_model(service)
            names = {xform_name(name): name for name in model.waiter_names}
            self.usage.calls.append(Call(service, model.get_waiter(names[literal]).operation, self._at(node)))

    def _is_imported(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self.imported

    def _at(self, node: ast.stmt | ast.expr) -> str:
        return f"{self.name}:{node.lineno}"


def _by_name(name: str) -> str | None:
    name = name.strip("_")
    return name if name in SERVICES else None


def aws_commands(script: str) -> Iterator[str]:
    """The ``aws`` commands of a shell script, as ``<service> <operation>``."""
    for line in script.splitlines():
        words = line.split()
        if words[:1] == ["aws"]:
            yield " ".join(words[1:3])
