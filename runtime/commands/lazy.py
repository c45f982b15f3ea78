"""Groups of verbs that are loaded one by one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Verbs by name with their one-line help, whose modules, below ``package``, are loaded when they are called, so
    that ``--help`` costs nothing; ``title`` heads their list."""

    def __init__(self, verbs: Mapping[str, str], package: str, title: str, **options: Any) -> None:
        super().__init__(**options)
        self.verbs, self._package, self._title = verbs, package, title

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        command: click.Command = import_module(f".{cmd_name.replace('-', '_')}", self._package).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(self._title):
            formatter.write_dl(list(self.verbs.items()))
