"""print the script that completes commands in your shell

Completes commands, options and their values: ids of agents and workers, pools, projects, roles,
states. Names are asked for from the gateway, which has 300 ms to answer. Put it into your shell's
start-up file.

  eval "$(muster completion bash)"                             ~/.bashrc
  eval "$(muster completion zsh)"                              ~/.zshrc
  muster completion fish > ~/.config/fish/completions/muster.fish
"""

import argparse
from importlib.resources import files
from typing import Final

from muster.cli.arguments.command import Subparsers, declare

SHELLS: Final = ("bash", "zsh", "fish")


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "completion", run, __doc__)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    script = files("muster.cli.completion") / f"muster.{args.shell}"
    print(script.read_text(encoding="utf-8"), end="")
    return 0
