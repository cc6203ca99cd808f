"""Cases by name, and the words in which they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .deployment import Deployment


class Failed(Exception):
    """Something that must hold did not."""


class Skipped(Exception):
    """This machine cannot do what the case needs."""


# A loaded machine is slow, and no fault of the system: every bound is taken so many times.
PATIENCE = 4.0

Run = Callable[["Deployment"], Awaitable[str]]

# What the broker is told in the second form of a case that is made for several threads.
SHARDED = ("--shards", "3", "--dispatcher", "thread")


@dataclass(frozen=True)
class Case:
    """A case: what it does to the system, what must hold, and at most how long it takes."""

    name: str
    injected: str
    holds: str
    seconds: float
    quick: bool
    namespaces: tuple[str, ...]
    broker_options: tuple[str, ...]
    run: Run


CASES: dict[str, Case] = {}


def case(injected: str, holds: str, *, seconds: float = 20, quick: bool = True,
         namespaces: tuple[str, ...] = (), sharded: bool = False) -> Callable[[Run], Run]:
    """Registers a function as the case of its name; it answers what was seen, in figures.

    ``namespaces`` are those the case needs for itself: "mount", "net". ``quick`` cases belong to
    the test command. ``sharded`` adds the same case on three shards and a dispatcher's own thread.
    """
    def register(function: Run) -> Run:
        name = function.__name__.replace("_", "-")
        forms: list[tuple[str, tuple[str, ...]]] = [(name, ())]
        if sharded:
            forms.append((name + "-sharded", SHARDED))
        for form, options in forms:
            assert form not in CASES, form
            CASES[form] = Case(form, injected, holds, seconds, quick and not options, namespaces,
                               options, function)
        return function

    return register


def check(holds: bool, message: str) -> None:
    """Fails the case unless the condition holds."""
    if not holds:
        raise Failed(message)
