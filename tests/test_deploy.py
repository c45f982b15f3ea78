"""What deployment's texts promise: verbs, options, extras and files that exist, a status on every block of commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from copgen_edge.runtime.commands import main

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/deployment.md"
WHEELHOUSE = ROOT / "deploy/wheelhouse.sh"
TEXTS = [GUIDE, *sorted((ROOT / "deploy").iterdir())]

_FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_EXTRAS = re.compile(r"(?:copgen-edge|\.|/src|`)\[([a-z,-]+)\]|(?:EXTRA=|--extra |^extra=)([a-z,-]+)", re.MULTILINE)
_ENDS = {";", "&&", "||", "|", ">", ">>", ")"}


def _code(path: Path) -> Iterator[str]:
    """Lines of commands, continuations joined: a Markdown file's blocks and spans; another file without its comments,
    but for those that are set in, which are commands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join([*_FENCED.findall(text), *_SPAN.findall(_FENCED.sub("", text))])
    else:
        text = re.sub(r"^#(?!   ).*$", "", text, flags=re.MULTILINE)
    yield from re.sub(r"\\\n\s*", " ", text).splitlines()


def _calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call in ``line`` of the program, an image of its name, or the guide's function."""
    if "copgen" not in line:
        return
    try:
        words = shlex.split(line.lstrip("#"), comments=True)
    except ValueError:  # a span or a line that is no whole command
        words = line.split()
    for i, word in enumerate(words):
        called = re.fullmatch(r"(.*/bin/)?copgen-edge(:\w+)?|copgen", word)
        if called and words[i - 1] not in ("-t", "-f", "save"):
            rest = words[i + 1 :]
            end = next((j for j, other in enumerate(rest) if other in _ENDS), len(rest))
            if rest[:end]:
                yield rest[:end]


def _wrong(call: list[str]) -> list[str]:
    """What of ``call`` the command line does not have."""
    command: click.Command = main
    context = click.Context(main)
    rest = list(call)
    while isinstance(command, click.Group) and rest and not rest[0].startswith(("-", "$")):
        found = command.get_command(context, rest[0])
        if found is None:
            return [f"no verb {rest[0]}"]
        command = found
        context = click.Context(command, parent=context, **command.context_settings)
        rest.pop(0)
    known = {name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)}
    given = [word.split("=", 1)[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [f"{command.name} has no {option}" for option in given if option not in known]


def test_verbs_and_options_exist() -> None:
    calls = [(path.name, call) for path in TEXTS for line in _code(path) for call in _calls(line)]
    assert {"doctor", "build", "cache", "verify", "bench", "generate"} <= {call[0] for _, call in calls}
    assert [(name, call, wrong) for name, call in calls if (wrong := _wrong(call))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("copgen-edge cache check bundle", []),
        ("~/env/bin/copgen-edge --version", []),
        ("docker build -f x -t copgen-edge:x86 .", []),
        ("pip install copgen-edge && ls --no-such", []),
        ("copgen-edge burn bundle", ["no verb burn"]),
        ("copgen-edge cache mend bundle", ["no verb mend"]),
        ("docker run --rm copgen-edge:x86 build /bundle --flavor=tensorrt | tee log", ["build has no --flavor"]),
        ("copgen generate b -x 1 --out o", ["generate has no -x"]),
    ],
)
def test_the_check_tells_right_from_wrong(line: str, wrong: list[str]) -> None:
    assert [told for call in _calls(line) for told in _wrong(call)] == wrong


def test_extras_exist() -> None:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    known = set(re.findall(r"^([\w-]+) = \[", section.split("\n[")[0], re.MULTILINE))
    named: set[str] = set()
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for in_brackets, assigned in _EXTRAS.findall(text):
            named.update((in_brackets or assigned).split(","))
    assert {"cpu", "gpu", "tensorrt", "tensorrt-rtx"} <= named
    assert named <= known


def test_files_exist() -> None:
    for path in [GUIDE, ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert [name for name in re.findall(r"deploy/[\w.]+\w", text) if not (ROOT / name).is_file()] == []
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        assert [link for link in links if not (path.parent / link).exists()] == []


def test_images_copy_what_exists_and_hold_no_torch() -> None:
    for path in sorted((ROOT / "deploy").glob("Dockerfile.*")):
        text = path.read_text(encoding="utf-8")
        copied = [name for line in re.findall(r"^COPY ([^-].*)", text, re.MULTILINE) for name in line.split()[:-1]]
        assert {"pyproject.toml", "README.md", "LICENSE", "runtime", "copgen_ref", "export", "calibration"} == set(
            copied
        )
        last = text.rsplit("\nFROM ", 1)[1]
        assert re.search(r"^USER copgen$", last, re.MULTILINE)
        assert 'ENTRYPOINT ["copgen-edge"]' in last
        assert not re.search(r"[\[,](export|evaluate|dev)\b|\btorch\b", text)


def test_every_block_of_commands_says_whether_it_was_run() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    before = [text[: block.start()].rstrip().rsplit("\n\n", 1)[-1] for block in _FENCED.finditer(text)]
    assert len(before) > 10
    assert [said for said in before if not re.match(r"\*(Run here \(CPU\)|Not run: needs )", said)] == []


def test_the_wheelhouse_script_parses() -> None:
    subprocess.run(["bash", "-n", str(WHEELHOUSE)], check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "mips"], "--arch mips"),
        (["--python", "3"], "--python 3,"),
        (["--extra"], "--extra needs a value"),
        (["--no-such"], "--no-such"),
        (["--out", "there/"], "there is there already"),
    ],
)
def test_the_wheelhouse_script_refuses(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = subprocess.run(
        [str(WHEELHOUSE), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []
