"""``completion``: scripts for bash, zsh and fish, written from the parser."""

from __future__ import annotations

import argparse

from .output import write
from .parser import build_parser, commands_of
from .status import Status

__all__ = ["completion", "script_for"]

SHELLS = "bash zsh fish"


def completion(arguments: argparse.Namespace) -> int:
    """Print the completion script of a shell."""
    write(script_for(arguments.shell))
    return Status.SUCCESS


def script_for(shell: str) -> str:
    """The script to put where the shell looks for completions, or to ``eval``."""
    parser = build_parser()
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser, commands_of(parser))


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


# -- bash ---------------------------------------------------------------------------------------------------


def _bash(parser: argparse.ArgumentParser, commands: Commands) -> str:
    lines = [
        '# bash completion for asyncresult: eval "$(asyncresult completion bash)"',
        "_asyncresult() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words="" command="" i',
        f'    local commands=" {" ".join(commands)} "',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$commands" in *" ${COMP_WORDS[i]} "*) command="${COMP_WORDS[i]}"; break ;; esac',
        "    done",
        '    case "$command:$before" in',
    ]
    for name, command in commands.items():
        lines += [f'        {name}:{option}) words="{choices}" ;;' for option, choices in _choices(command)]
    lines += ["    esac", '    if [ -z "$words" ]; then', '        case "$command" in']
    lines.append(f'            "") words="$commands {_words(parser)}" ;;')
    for name, command in commands.items():
        extra = f" {SHELLS}" if name == "completion" else ""
        lines.append(f'            {name}) words="{_words(command)}{extra}" ;;')
    lines += [
        "        esac",
        "    fi",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
        "}",
        "complete -F _asyncresult asyncresult",
    ]
    return "\n".join(lines)


# -- zsh ----------------------------------------------------------------------------------------------------


def _zsh(parser: argparse.ArgumentParser, commands: Commands) -> str:
    lines = [
        "#compdef asyncresult",
        "# zsh completion for asyncresult: put it into a directory of $fpath as _asyncresult",
        "_asyncresult() {",
        "    local context state state_descr line",
        "    typeset -A opt_args",
        "    local -a commands=(",
        *(f"        {_quoted(f'{name}:{_help_of(command)}')}" for name, command in commands.items()),
        "    )",
        f"    _arguments -C {_zsh_specs(parser)} '1:command:->command' '*::argument:->argument'",
        '    case "$state" in',
        "        command) _describe command commands ;;",
        '        argument) case "${words[1]}" in',
    ]
    for name, command in commands.items():
        extra = f" '1:shell:({SHELLS})'" if name == "completion" else ""
        lines.append(f"            {name}) _arguments {_zsh_specs(command)}{extra} ;;")
    return "\n".join(
        [
            *lines,
            "        esac ;;",
            "    esac",
            "}",
            'compdef _asyncresult asyncresult 2>/dev/null || _asyncresult "$@"',
        ]
    )


def _zsh_specs(parser: argparse.ArgumentParser) -> str:
    return " ".join(
        _quoted(f"{option}[{(action.help or '').replace('[', '(').replace(']', ')')}]{_zsh_value(action)}")
        for action in _options(parser)
        for option in action.option_strings
    )


def _zsh_value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f":{action.dest}:({' '.join(map(str, action.choices))})" if action.choices else f":{action.dest}:"


# -- fish ---------------------------------------------------------------------------------------------------


def _fish(parser: argparse.ArgumentParser, commands: Commands) -> str:
    # Not __fish_use_subcommand: it takes the value of an option for the command.
    no_command = f"'not __fish_seen_subcommand_from {' '.join(commands)}'"
    lines = [
        "# fish completion for asyncresult: put it into ~/.config/fish/completions/asyncresult.fish",
        "complete -c asyncresult -f",
        *_fish_options(no_command, parser),
    ]
    for name, command in commands.items():
        lines.append(f"complete -c asyncresult -n {no_command} -a {name} -d {_quoted(_help_of(command))}")
        lines += _fish_options(f"'__fish_seen_subcommand_from {name}'", command)
    lines.append(f"complete -c asyncresult -n '__fish_seen_subcommand_from completion' -a '{SHELLS}'")
    return "\n".join(lines)


def _fish_options(condition: str, parser: argparse.ArgumentParser) -> list[str]:
    lines: list[str] = []
    for action in _options(parser):
        names = " ".join(
            f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" for option in action.option_strings
        )
        value = "" if action.nargs == 0 else " -x"  # a value, which is no file
        words = f" -a '{' '.join(map(str, action.choices))}'" if action.choices else ""
        lines.append(f"complete -c asyncresult -n {condition} {names}{value}{words} -d {_quoted(action.help or '')}")
    return lines


def _help_of(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").partition("\n")[0]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
