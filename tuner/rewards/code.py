"""Rewards that are the user's Python functions: `file.py:name`.

Code that comes with a recipe runs with the rights of whoever starts it, so nothing is run or even
read unless `rlhf.allow_code` is true.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tuner.errors import RecipeError, SafetyError, TrainingError, first_line
from tuner.rewards.response import Response, Scorer
from tuner.schema.suggest import nearest


def check(function: str, folder: Path, allow_code: bool) -> Path:
    """Return the file of a reward function, without running it.

    Args:
        function: `file.py:name`; the file is relative to `folder`.
        folder: the recipe's folder.
        allow_code: the recipe's `rlhf.allow_code`.

    Raises:
        SafetyError: code is not allowed.
        RecipeError: there is no such file, it is not Python, or it defines no such name.
    """
    if not allow_code:
        raise SafetyError(
            f"the reward function {function} was not run",
            "it is Python code that comes with the recipe, and rlhf.allow_code is false",
            "read the file; if you trust it, add --set rlhf.allow_code=true",
        )
    place, _, name = function.rpartition(":")
    file = folder / Path(place).expanduser()
    if not file.is_file():
        raise _no_file(function, file)
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise RecipeError(
            f"the reward function {function} cannot be read",
            f"{file}:{line}: {first_line(error)}",
            "correct the file",
        ) from None
    except OSError as error:
        raise RecipeError(
            f"{file} cannot be read",
            error.strerror or str(error),
            f"make it readable: chmod u+r {file}",
        ) from None
    names = list(_names(tree))
    # Names from `import *` are known only when the file runs.
    if name not in names and "*" not in names:
        raise _no_name(function, name, file, names)
    return file


def load(function: str, folder: Path, allow_code: bool) -> Scorer:
    """Run the file of a reward function and return the function, checked at each call.

    The function is called with a list of `Response` and returns as many numbers, in that order.

    Args:
        function: `file.py:name`; the file is relative to `folder`.
        folder: the recipe's folder.
        allow_code: the recipe's `rlhf.allow_code`.

    Raises:
        SafetyError: code is not allowed.
        RecipeError: the file or the name is missing, the file fails, or the name is not a function.
        TrainingError: raised by the scorer when the function fails, or does not return one number
            per response.
    """
    file = check(function, folder, allow_code).resolve()
    module, name = _run(function, file), function.rpartition(":")[2]
    if not hasattr(module, name):
        raise _no_name(function, name, file, [n for n in vars(module) if not n.startswith("_")])
    called = getattr(module, name)
    if not callable(called):
        raise RecipeError(
            f"the reward {function} is not a function",
            f"{file}: {name} is {type(called).__name__}",
            "name a function that takes a list of responses and returns numbers",
        )

    def score(responses: Sequence[Response]) -> list[float]:
        try:
            returned = list(called(list(responses)))
        except Exception as error:
            raise _failed(function, file, error) from error
        return _numbers(function, returned, responses)

    return score


def _run(function: str, file: Path) -> ModuleType:
    # Named by its full path: files of the same name in two folders are two modules.
    module = ModuleType(str(file))
    module.__file__ = str(file)
    # Dataclasses look up the module of their annotations here.
    sys.modules[module.__name__] = module
    try:
        # Not through the import system: it would write its cache next to the user's file.
        exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    except Exception as error:
        del sys.modules[module.__name__]
        raise RecipeError(
            f"the file of the reward function {function} failed to run",
            _where(file, error),
            f"correct the file; it must run on its own: python {file}",
        ) from error
    return module


def _numbers(function: str, returned: list[Any], responses: Sequence[Response]) -> list[float]:
    if len(returned) != len(responses):
        raise TrainingError(
            f"the reward function {function} returned {len(returned)} "
            f"{'number' if len(returned) == 1 else 'numbers'} for "
            f"{len(responses)} responses",
            "each response has one reward, in the order of the responses",
            "return one number for each response",
        )
    scores = []
    for value, response in zip(returned, responses, strict=True):
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            scores.append(float(value))
        except (TypeError, ValueError, OverflowError):
            raise TrainingError(
                f"the reward function {function} returned {value!r:.60} for row {response.row}",
                f"a reward is a number, not {type(value).__name__}",
                "return one number for each response",
            ) from None
    return scores


def _failed(function: str, file: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"the reward function {function} failed",
        _where(file, error),
        "correct the function: it takes a list of responses (each with .text, .prompt, .reference "
        "and .num_tokens; the text may be empty) and returns one number for each",
    )


def _where(file: Path, error: Exception) -> str:
    """Return the line of the user's file that raised an error, and the error's message."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file)
    ]
    place = f"{file}:{lines[-1]}" if lines else str(file)
    return f"{place}: {type(error).__name__}: {first_line(error)}"


def _names(tree: ast.Module) -> Iterable[str]:
    """Yield the names that a file defines or imports, `*` for a star import."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.alias):
                yield (node.asname or node.name).partition(".")[0]


def _no_file(function: str, file: Path) -> RecipeError:
    present = [path.name for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
    near = nearest(file.name, present)
    path, _, name = function.rpartition(":")
    meant = f"{path.removesuffix(file.name)}{near}:{name}"
    return RecipeError(
        f"there is no file for the reward function {function}",
        f"{file} does not exist; a relative path starts at the recipe's folder",
        f"did you mean '{meant}'?" if near else "name the file and the function: file.py:name",
    )


def _no_name(function: str, name: str, file: Path, names: Iterable[str]) -> RecipeError:
    known = list(dict.fromkeys(names))
    near = nearest(name, known)
    listed = ", ".join(known[:10]) or "nothing"
    return RecipeError(
        f"there is no '{name}' for the reward function {function}",
        f"{file} defines {listed}",
        f"did you mean '{function.rpartition(':')[0]}:{near}'?"
        if near
        else "name a function of that file: file.py:name",
    )
