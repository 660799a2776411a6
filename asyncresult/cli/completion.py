"""``completion``: scripts for bash, zsh and fish, written from the parser."""

from __future__ import annotations

import argparse

from .output import write
from .parser import build_parser, commands_of
from .status import Status

__all__ = ["completion", "script_for"]


def completion(arguments: argparse.Namespace) -> int:
    """Print the completion script of a shell."""
    write(script_for(arguments.shell))
    return Status.SUCCESS


def script_for(shell: str) -> str:
    """The script to put where the shell looks for completions, or to ``eval``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands_of(build_parser()))


Commands = dict[str, argparse.ArgumentParser]


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _words(parser: argparse.ArgumentParser) -> str:
    return " ".join(option for action in _options(parser) for option in action.option_strings)


def _choices(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Options that take one of a few words, with these words."""
    return [
        (option, " ".join(map(str, action.choices)))
        for action in _options(parser)
        if action.choices
        for option in action.option_strings
    ]


def _bash(commands: Commands) -> str:
    lines = [
        '# bash completion for asyncresult: eval "$(asyncresult completion bash)"',
        "_asyncresult() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        '    case "${COMP_WORDS[1]}:$before" in',
    ]
    for name, parser in commands.items():
        lines += [f'        {name}:{option}) words="{choices}" ;;' for option, choices in _choices(parser)]
    lines += ["    esac", '    if [ -z "$words" ]; then', '        case "${COMP_WORDS[1]}" in']
    for name, parser in commands.items():
        extra = " bash zsh fish" if name == "completion" else ""
        lines.append(f'            {name}) words="{_words(parser)}{extra}" ;;')
    lines += [
        "        esac",
        "    fi",
        f'    [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(commands)} --help --version"',
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
        "}",
        "complete -F _asyncresult asyncresult",
    ]
    return "\n".join(lines)


def _zsh(commands: Commands) -> str:
    lines = [
        "#compdef asyncresult",
        "# zsh completion for asyncresult: put it into a directory of $fpath as _asyncresult",
        "_asyncresult() {",
        "    local -a commands=(",
        *(f"        {_quoted(f'{name}:{_help_of(parser)}')}" for name, parser in commands.items()),
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        "        return",
        "    fi",
        '    case "${words[2]}" in',
    ]
    for name, parser in commands.items():
        specs = [
            _quoted(f"{option}[{(action.help or '').replace('[', '(').replace(']', ')')}]{_zsh_value(action)}")
            for action in _options(parser)
            for option in action.option_strings
        ]
        if name == "completion":
            specs.append("'2:shell:(bash zsh fish)'")
        lines.append(f"        {name}) shift words; (( CURRENT-- )); _arguments {' '.join(specs)} ;;")
    return "\n".join([*lines, "    esac", "}", 'compdef _asyncresult asyncresult 2>/dev/null || _asyncresult "$@"'])


def _zsh_value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f":{action.dest}:({' '.join(map(str, action.choices))})" if action.choices else f":{action.dest}:"


def _fish(commands: Commands) -> str:
    lines = [
        "# fish completion for asyncresult: put it into ~/.config/fish/completions/asyncresult.fish",
        "complete -c asyncresult -f",
    ]
    for name, parser in commands.items():
        lines.append(f"complete -c asyncresult -n __fish_use_subcommand -a {name} -d {_quoted(_help_of(parser))}")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for action in _options(parser):
            names = " ".join(
                f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                for option in action.option_strings
            )
            value = "" if action.nargs == 0 else " -r"
            words = f" -a '{' '.join(map(str, action.choices))}'" if action.choices else ""
            lines.append(f"complete -c asyncresult {seen} {names}{value}{words} -d {_quoted(action.help or '')}")
    lines.append("complete -c asyncresult -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'")
    return "\n".join(lines)


def _help_of(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").partition("\n")[0]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
