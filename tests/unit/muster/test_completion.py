"""`muster completion`: what follows on a command line, and the scripts in real shells."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from muster.__main__ import main
from muster.cli.completion import values
from muster.cli.completion.candidates import complete, joined
from muster.cli.completion.table import PATH
from tests.completions import current_table, encoded
from tests.process import system_tool
from tests.unit.muster.gateway_stub import AGENT, OTHER, Request, agent

POOLS = {"pools": [{"pool_name": "night", "role_type": "developer", "total_capacity": 20}]}
WORKERS = {"workers": [{"worker_id": OTHER, "pool_name": "night", "max_agents": 10}]}


@pytest.fixture
def known(gateway, monkeypatch):
    """A gateway with a pool, an agent and a worker, which may take long on a busy machine."""
    monkeypatch.setenv(values.VARIABLE, "30")
    gateway.answers |= {
        "GET /pools": POOLS,
        "GET ": {"agents": [agent()]},
        "GET /workers": WORKERS,
        "GET /api/v1/lookup": {"matches": [{"kind": "agent", "name": AGENT}]},
        "GET /api/v1/tokens": {"tokens": [{"name": "ci"}]},
    }
    return gateway


def test_the_stored_table_is_that_of_the_commands():
    """Else: `python -m tests.completions` stores it again."""
    assert PATH.read_text() == encoded(current_table())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("dr", ["drain"]),
        ("help dr", ["drain"]),
        ("ps --po", ["--pool"]),
        ("ps --pool ", ["night"]),
        ("ps --pool=ni", ["--pool=night"]),
        ("ps --pool = ni", ["--pool=night"]),
        ("ps --pool x --project ", ["demo"]),
        ("terminate --role d", ["developer"]),
        ("restart --state failed,run", ["failed,running"]),
        ("terminate 0", [AGENT]),
        (f"terminate {AGENT} 0", [AGENT]),
        (f"terminate {AGENT[-8:]}", [AGENT]),
        ("drain ", [OTHER]),
        ("describe ", ["night", AGENT, OTHER]),
        ("pools ni", ["night"]),
        ("pools pau", ["pause"]),
        ("pools pause ", ["night"]),
        ("pools create --role ", ["developer"]),
        ("token revoke ", ["ci"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("spawn night --durability a", ["accepted", "archived"]),
        ("tail --type agent.cr", ["agent.crashed"]),
        ("up --config ", [":files"]),
        ("ps --data-dir ", [":directories"]),
        ("spawn night --count ", []),
        ("nothing ", []),
    ],
)
def test_each_word_has_its_candidates(known, typed, expected):
    assert list(complete(typed.split(" "))) == expected


def test_the_first_word_is_a_command(known):
    found = complete([""])
    assert {"ps", "up", "completion", "help"} <= found.keys()
    assert (found["drain"], known.requests) == ("let workers release their agents and end", [])


def test_bash_divides_words_at_equals_signs():
    assert joined(["ps", "--pool", "=", "ni", "--json"]) == ["ps", "--pool=ni", "--json"]
    assert joined(["ps", "--pool", "="]) == ["ps", "--pool="]
    assert joined(["pools", "set", "a=b", ""]) == ["pools", "set", "a=b", ""]


def test_flags_on_the_line_say_which_gateway_is_asked(known, monkeypatch):
    url = known.url
    monkeypatch.setenv("MUSTER_URL", "http://127.0.0.1:1")
    assert list(complete(["drain", ""])) == []
    assert list(complete(["drain", "--url", url, "--token", "s", ""])) == [OTHER]
    assert known.requests[-1].headers["Authorization"] == "Bearer s"


def test_a_gateway_that_does_not_answer_in_time_is_not_waited_for(known, monkeypatch, capsys):
    monkeypatch.setenv(values.VARIABLE, "0.05")

    def slow(_: Request) -> dict[str, Any]:
        time.sleep(0.5)
        return WORKERS

    known.answers["GET /workers"] = slow
    assert main(["__complete", "drain", ""]) == 0
    assert capsys.readouterr() == ("\n", "")


def test_a_refusal_prints_nothing(gateway, capsys):
    gateway.answers["GET /pools"] = (403, {"type": "forbidden", "detail": "no"})
    assert main(["__complete", "ps", "--pool", ""]) == 0
    assert capsys.readouterr() == ("\n", "")


def test_candidates_need_few_modules():
    """A key press has about a quarter of a second: parsing all commands takes longer."""
    script = (
        "import sys, json; from muster.__main__ import main; code = main(sys.argv[1:]);"
        "print(json.dumps([code, [m for m in sys.modules]]))"
    )
    words = ["__complete", "ps", "--po"]
    printed = subprocess.check_output([sys.executable, "-c", script, *words], text=True)
    code, modules = json.loads(printed.splitlines()[-1])
    assert (code, printed.splitlines()[0][:6]) == (0, "--pool")
    assert not {"argparse", "msgspec", "http.client", "rich", "asyncio"} & set(modules)


# ---- real shells -------------------------------------------------------------------------------


def run(words: list[str], script: str, **more: str) -> list[str]:
    """The lines that a script prints, with `muster` on its path and nothing on standard error."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*words, script],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **more},
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


BASH = """
eval "$(muster completion bash)"
press() { COMP_WORDS=(muster "$@"); COMP_CWORD=$#; _muster muster; echo "${COMPREPLY[@]}"; }
complete -p muster | grep -o _muster
press dra
press ps --pool ""
press ps --pool = ni
press terminate 8b0f9a1c2d3e
"""


def test_bash_completes(known):
    found = run([system_tool("bash"), "--norc", "-c"], BASH)
    assert found == ["_muster", "drain", "night", "night", AGENT]


ZSH = """
autoload -Uz compinit && compinit -D
eval "$(muster completion zsh)"
compadd() { print -r -- ${values[@]} }
press() { words=(muster "$@"); CURRENT=$(( $# + 1 )); _muster; }
print ${_comps[muster]}
press dra
press ps --pool ""
press terminate 8b0f9a1c2d3e
"""


def test_zsh_completes(known, tmp_path):
    found = run([system_tool("zsh"), "-f", "-c"], ZSH, ZDOTDIR=str(tmp_path))
    assert found == ["_muster", "drain", "night", AGENT]


FISH = """
muster completion fish | source
complete --do-complete 'muster dra' | string split -f1 \\t
complete --do-complete 'muster ps --pool ' | string split -f1 \\t
complete --do-complete 'muster terminate 8b0f9a1c2d3e' | string split -f1 \\t
"""


def test_fish_completes(known, tmp_path):
    found = run([system_tool("fish"), "--no-config", "-c"], FISH, HOME=str(tmp_path))
    assert found == ["drain", "night", AGENT]
